"""Compile the kernels once for a machine, and keep the machine code for every process after.

numba-cuda turns the kernels into PTX for the oldest GPU that they support, nvJitLink that into machine code
for the GPU at hand. The result goes into one file of the user's cache, named by everything it depends on. Of
several processes that want it at once, one compiles while the others wait at a file lock.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import cuda

from pipeline.flow import cuda_image, cuda_solver
from stin.shards.errors import StinPipeError

PTX_CAPABILITY = (7, 5)
"""PTX for it runs through later GPUs' compilers to the same code as PTX of their own (compared for sm_90)."""

REGISTERS_OF_A_SM = 65536
ITERATE_REGISTERS = 128
CACHE_VARIABLE = "STIN_PIPE_CACHE"
_SOURCES = ("cuda_device", "cuda_tiles", "cuda_patch", "cuda_solver", "cuda_image", "cuda_compile", "steps")
_PACKAGES = ("numba", "numba-cuda", "llvmlite", "numpy")


def kernels(threads: int) -> dict[str, tuple[Callable, Any]]:
    """Give every kernel by name: its Python function and its signature."""
    return {
        "iterate": (cuda_solver.build_iterate(threads), cuda_solver.ITERATE_SIGNATURE),
        "begin_solve": (cuda_solver.begin_solve, cuda_solver.BEGIN_SIGNATURE),
        "decide": (cuda_solver.decide, cuda_solver.DECIDE_SIGNATURE),
        "shrink": (cuda_image.shrink, cuda_image.SHRINK_SIGNATURE),
        "gradient": (cuda_image.gradient, cuda_image.GRADIENT_SIGNATURE),
        "warp": (cuda_image.warp, cuda_image.WARP_SIGNATURE),
        "grow": (cuda_image.grow, cuda_image.GROW_SIGNATURE),
        "put": (cuda_image.put, cuda_image.PUT_SIGNATURE),
        "median": (cuda_image.median, cuda_image.MEDIAN_SIGNATURE),
        "write_flow": (cuda_image.write_flow, cuda_image.FLOW_SIGNATURE),
        "write_packed": (cuda_image.write_packed, cuda_image.PACK_SIGNATURE),
    }


def compile_ptx(threads: int) -> dict[str, str]:
    """Compile every kernel to PTX; takes some 20 s and needs no GPU.

    Args:
        threads: Threads of a block of `iterate`.

    Raises:
        StinPipeError: If numba-cuda lacks a part of the CUDA toolkit.
    """
    # Two blocks of 256 threads (or four of 128) fill a multiprocessor at 128 registers a thread.
    bounds = {"iterate": (threads, REGISTERS_OF_A_SM // (ITERATE_REGISTERS * threads))}
    texts = {}
    for name, (function, signature) in kernels(threads).items():
        try:
            texts[name], _ = cuda.compile(  # pyright: ignore[reportPrivateImportUsage]
                function, signature, device=False, abi="numba", cc=PTX_CAPABILITY, fastmath=True,
                launch_bounds=bounds.get(name),
            )  # fmt: skip
        except (OSError, ImportError, RuntimeError) as error:
            raise StinPipeError(
                f"the CUDA kernel {name} could not be compiled: {error}; a part of the CUDA toolkit (NVVM, "
                'libdevice) is missing or does not fit: pip install "stin-pipe[cuda]"'
            ) from error
    return texts


def link(ptx: str, capability: tuple[int, int]) -> bytes:
    """Turn PTX into machine code for a GPU of compute capability `capability`; needs no GPU.

    Without nvJitLink the PTX itself is given back: the driver compiles it when it is loaded.

    Raises:
        StinPipeError: If nvJitLink refuses the PTX or the capability.
    """
    text = ptx.encode() + b"\0"
    try:
        from cuda.bindings import nvjitlink  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return text
    handle = nvjitlink.create(2, [f"-arch=sm_{capability[0]}{capability[1]}", "-O3"])
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise StinPipeError(
            f"the CUDA kernels could not be linked for sm_{capability[0]}{capability[1]}: {error} "
            f"{log.decode(errors='replace')}; the installed nvidia-nvjitlink may be older than this GPU"
        ) from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(code)


def entry_name(ptx: str) -> str:
    """Give the name of the kernel in its PTX."""
    found = re.search(r"\.visible \.entry (\w+)", ptx)
    assert found, "numba-cuda gave PTX without an entry"
    return found.group(1)


def load_code(capability: tuple[int, int], threads: int) -> dict[str, tuple[str, bytes]]:
    """Give each kernel's entry name and machine code, from the cache or compiled now.

    Args:
        capability: Compute capability of the GPU.
        threads: Threads of a block of `iterate`.

    Raises:
        StinPipeError: If the kernels cannot be compiled.
    """
    path = cache_folder() / f"flow-{_fingerprint(capability, threads)}.zip"
    if (code := _read(path)) is None:
        with _locked(path.with_suffix(".lock")):
            if (code := _read(path)) is None:  # no other process has made it while this one waited
                texts = compile_ptx(threads)
                code = {name: (entry_name(text), link(text, capability)) for name, text in texts.items()}
                _write(path, code)
    return code


def cache_folder() -> Path:
    """Give the folder of compiled kernels: $STIN_PIPE_CACHE, the user's cache, else one under /tmp.

    Raises:
        StinPipeError: If no such folder can be written, or that under /tmp is not this user's alone.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "stin-pipe"
    for folder in [Path(chosen)] if chosen else [user, _shared_temporary()]:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        # Machine code is loaded from here: nobody else may be able to put it there.
        if folder == _shared_temporary() and (
            folder.stat().st_uid != os.getuid() or stat.S_IMODE(folder.stat().st_mode) & 0o022
        ):
            raise StinPipeError(
                f"{folder} must belong to this user alone; set {CACHE_VARIABLE} to a folder that does"
            )
        return folder
    raise StinPipeError(
        f"compiled CUDA kernels can be kept nowhere: {chosen or user} cannot be written; set "
        f"{CACHE_VARIABLE} to a folder that can"
    )


def _shared_temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"stin-pipe-cache-{os.getuid()}"


def _fingerprint(capability: tuple[int, int], threads: int) -> str:
    """Everything that the machine code depends on."""
    here = Path(__file__).parent
    parts = [repr((capability, threads))]
    parts += [(here / f"{source}.py").read_text() for source in _SOURCES]
    for package in _PACKAGES:
        parts.append(f"{package} {importlib.metadata.version(package)}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, tuple[str, bytes]] | None:
    """Read a cache file; None when there is none, or it is damaged (then it is made anew)."""
    try:
        with zipfile.ZipFile(path) as archive:  # its checksums cover every byte of code
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
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
