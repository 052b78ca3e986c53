"""Keep the machine code of the kernels for all processes of a user on a machine.

It is one file in the user's cache, named by everything it depends on. Of several processes that need it at
once, one compiles while the others wait at a file lock.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from stin_pipe.pipeline.flow.cuda.compile import compile_ptx, entry_name, link
from stin_pipe.pipeline.flow.kernel_folder import own_folder
from stin_pipe.stin.shards.errors import StinPipeError

CACHE_VARIABLE = "STIN_PIPE_CACHE"
_SOURCES = ("device", "tiles", "patch", "solver", "image", "compile", "../steps")
_PACKAGES = ("numba", "numba-cuda", "llvmlite", "numpy")


def load_code(capability: tuple[int, int], threads: int) -> dict[str, tuple[str, bytes]]:
    """Return each kernel's entry name and machine code, from the cache or compiled now.

    Args:
        capability: Compute capability of the GPU.
        threads: Threads of a block of `iterate`.

    Raises:
        StinPipeError: If the kernels cannot be compiled.
    """
    path = cache_folder() / f"flow-{_fingerprint(capability, threads)}.zip"
    if (code := _read(path)) is None:
        with _locked(path.with_suffix(".lock")):
            # Another process may have made it while this one waited.
            if (code := _read(path)) is None:
                texts = compile_ptx(threads)
                code = {name: (entry_name(text), link(text, capability).code) for name, text in texts.items()}
                _write(path, code)
    return code


def cache_folder() -> Path:
    """Return the folder of compiled kernels: $STIN_PIPE_CACHE, the user's cache, else one under /tmp.

    Raises:
        StinPipeError: If the folder that the variable names cannot be written, or others can write there.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        folder = own_folder([], chosen=Path(chosen))
        if folder != Path(chosen).resolve():
            raise StinPipeError(
                f"{chosen}: compiled CUDA kernels cannot be kept there: this user cannot write there, "
                f"or others can; set {CACHE_VARIABLE} to a folder of this user alone"
            )
        return folder
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "stin-pipe"
    return own_folder([user, Path(tempfile.gettempdir()) / f"stin-pipe-cache-{os.getuid()}"])


def _fingerprint(capability: tuple[int, int], threads: int) -> str:
    """Everything that the machine code depends on."""
    here = Path(__file__).parent
    parts = [repr((capability, threads))]
    parts += [(here / f"{source}.py").read_text() for source in _SOURCES]
    for package in _PACKAGES:
        parts.append(f"{package} {importlib.metadata.version(package)}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, tuple[str, bytes]] | None:
    """Read a cache file; None if there is none, or if it is damaged (then it is made again)."""
    try:
        # A zip file, because its checksums cover every byte of code.
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename: (member.comment.decode(), archive.read(member))
                for member in archive.infolist()
            }
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError):
        return None


def _write(path: Path, code: dict[str, tuple[str, bytes]]) -> None:
    """Publish a cache file whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, (entry, data) in code.items():
                member = zipfile.ZipInfo(name)
                member.comment = entry.encode()
                archive.writestr(member, data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it if this one dies."""
    with path.open("w") as file:
        # Some network file systems have no locks. Then several may compile; each publishes its file whole.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
