"""Compiles the CPU kernels once for all processes of a user, and keeps them between runs.

numba's own cache lies beside the source, which may be read-only, and twenty workers that start together
would compile twenty times. Here the cache has a directory of its own, named by a digest of the kernels'
sources (numba looks at the outermost function's file alone, and would miss a change in the others), and a
file lock lets one process compile while the others wait to load.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from stin_pipe.pipeline.flow.kernel_folder import own_folder

_THREADS_LOCK = threading.Lock()


@functools.cache
def _load_once() -> ModuleType:
    config: Any = importlib.import_module("numba.core.config")

    directory = choose_directory(config.CACHE_DIR)
    before = config.CACHE_DIR
    with _locked(directory / "lock"):
        config.CACHE_DIR = str(directory)
        try:
            return importlib.import_module("stin_pipe.pipeline.flow.cpu.pair")
        finally:
            config.CACHE_DIR = before


def load_kernels() -> ModuleType:
    """Return `stin_pipe.pipeline.flow.cpu.pair`, compiled or loaded from the cache; safe from any thread."""
    with _THREADS_LOCK:
        return _load_once()


def choose_directory(preferred: str = "") -> pathlib.Path:
    """Return the first directory for the compiled kernels of this version that only this user can change.

    In order: below `preferred` (what NUMBA_CACHE_DIR says), the user's cache directory, a private
    directory among the temporary files, a fresh temporary directory.
    """
    roots: list[pathlib.Path] = []
    if cache := os.environ.get("XDG_CACHE_HOME"):
        roots.append(pathlib.Path(cache) / "stin-pipe")
    else:
        # Some containers run as a user without a home.
        with contextlib.suppress(RuntimeError):
            roots.append(pathlib.Path.home() / ".cache/stin-pipe")
    roots.append(pathlib.Path(tempfile.gettempdir()) / f"stin-pipe-{os.getuid()}")

    name = f"flow-{_digest_sources()}"
    chosen = pathlib.Path(preferred) / name if preferred else None
    return own_folder([root / name for root in roots], chosen=chosen)


def _digest_sources() -> str:
    here = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in [*sorted(here.glob("*.py")), here.parent / "steps.py"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when its process dies."""
    with path.open("a") as file:
        # A file system without locks costs a compilation too many, not a wrong result: numba publishes
        # its cache files by renaming.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
