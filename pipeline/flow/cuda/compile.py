"""Compile the CUDA kernels: numba-cuda makes PTX, nvJitLink makes machine code; neither needs a GPU."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from numba import cuda

from stin_pipe.pipeline.flow.cuda import image as cuda_image
from stin_pipe.pipeline.flow.cuda import solver as cuda_solver
from stin_pipe.stin.shards.errors import StinPipeError

PTX_CAPABILITY = (7, 5)
"""PTX for it runs through later GPUs' compilers to the same code as PTX of their own (compared for sm_90)."""

REGISTERS_OF_A_SM = 65536
ITERATE_REGISTERS = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkedKernel:
    """A kernel's machine code, and the assembler's log about its registers and spills."""

    code: bytes
    log: str


def kernels(threads: int) -> dict[str, tuple[Callable, Any]]:
    """Return every kernel by name: its Python function and its signature."""
    return {
        "iterate": (cuda_solver.build_iterate(threads), cuda_solver.ITERATE_SIGNATURE),
        "begin_solve": (cuda_solver.begin_solve, cuda_solver.BEGIN_SIGNATURE),
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
            text, _ = cuda.compile(  # pyright: ignore[reportPrivateImportUsage]
                function, signature, device=False, abi="numba", cc=PTX_CAPABILITY, fastmath=True,
                launch_bounds=bounds.get(name),
            )  # fmt: skip
            # numba promises float32's own alignment; the 16-byte accesses need theirs.
            texts[name] = text.replace(".extern .shared .align 4 ", ".extern .shared .align 16 ")
        except (OSError, ImportError, RuntimeError) as error:
            raise StinPipeError(
                f"the CUDA kernel {name} could not be compiled: {error}; a part of the CUDA toolkit (NVVM, "
                'libdevice) is missing or does not fit: pip install "stin-pipe[cuda]"'
            ) from error
    return texts


def link(ptx: str, capability: tuple[int, int]) -> LinkedKernel:
    """Turn PTX into machine code for a GPU of compute capability `capability`; needs no GPU.

    Without nvJitLink it returns the PTX itself, which the driver compiles when it is loaded.

    Raises:
        StinPipeError: If nvJitLink refuses the PTX or the capability.
    """
    text = ptx.encode() + b"\0"
    try:
        from cuda.bindings import nvjitlink  # pyright: ignore[reportAttributeAccessIssue]

        nvjitlink.version()
    except (ImportError, RuntimeError):  # no module, or no library behind it
        return LinkedKernel(code=text, log="")

    architecture = f"sm_{capability[0]}{capability[1]}"
    options = [f"-arch={architecture}", "-O3", "-verbose"]
    handle = nvjitlink.create(len(options), options)

    # Its calls fill buffers whose size another call reports first, and its handle must be destroyed.
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise StinPipeError(
            f"the CUDA kernels could not be linked for {architecture}: {error} {_text(log)}; the installed "
            "nvidia-nvjitlink may be older than this GPU"
        ) from error
    finally:
        nvjitlink.destroy(handle)
    return LinkedKernel(code=bytes(code), log=_text(log))


def _text(log: bytearray) -> str:
    return log.decode(errors="replace").strip("\0\n ")


def entry_name(ptx: str) -> str:
    """Return the name of the kernel in its PTX."""
    entry = re.search(r"\.visible \.entry (\w+)", ptx)
    assert entry, "numba-cuda gave PTX without an entry"
    return entry.group(1)
