"""The back ends of TV-L1: which one runs here, what it can do, and one call for all of them.

`cuda` (an NVIDIA GPU), `cpu` (compiled, SIMD), `opencv` (cv2.optflow: yardstick and fallback) and `reference`
(plain torch: the specification). Each is imported where it is used, so that importing this package stays
cheap.

Legend: N pairs, H and W sides in pixels.
"""

import ctypes
from typing import Any, Literal, get_args

import numpy as np

from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.shards.errors import StinPipeError

Backend = Literal["cuda", "cpu", "opencv", "reference"]


def solve(
    frames0: Any,
    frames1: Any,
    *,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
    chained: bool = False,
    bound_px: float | None = None,
) -> TracedFlow:
    """Solve N pairs of checked grey frames, and count the iterations of each solve.

    Args:
        frames0: (N, H, W) grey frames as `frames.check_frames` returns them.
        frames1: The frames that follow them, alike.
        params: TV-L1 parameters; the defaults of `TVL1Params` when absent.
        backend: `auto`, or a back end by name.
        num_threads: Threads over the pairs (cpu, opencv); all cores of this process when absent.
        chained: Whether the pairs are those of a clip, each second frame being the next first one. Then a
            frame's pyramid and gradients are made once; the flow is the same bit for bit.
        bound_px: Quantise the fields as shards keep them; flow beyond this bound is clipped.

    Raises:
        ValueError: If an argument is out of range, or the back end lacks what `params` ask for.
        StinPipeError: If the back end cannot run on this machine.
    """
    params, backend = params or TVL1Params(), resolve_backend(backend)
    threads = _count_threads(num_threads)
    require_support(backend, params)
    if backend != "cuda" and not isinstance(frames0, np.ndarray):
        raise ValueError(f"frames on a GPU need the cuda back end, got {backend}; move them by .cpu()")

    if backend == "cuda":
        from stin_pipe.pipeline.flow.cuda import engine as cuda

        # It quantises on the GPU: an eighth of the bytes to move.
        return cuda.solve(frames0, frames1, params, chained=chained, bound_px=bound_px)

    if backend == "cpu":
        from stin_pipe.pipeline.flow.cpu import engine as cpu

        traced = cpu.solve(frames0, frames1, params, threads, chained=chained)
    elif backend == "opencv":
        from stin_pipe.pipeline.flow import opencv

        traced = opencv.solve(frames0, frames1, params, threads)
    else:
        from stin_pipe.pipeline.flow import reference

        traced = reference.solve_pairs(frames0, frames1, params)
    if bound_px is None:
        return traced

    from stin_pipe.stin.shards.codec import quantise_flow

    return TracedFlow(flow=quantise_flow(traced.flow, bound_px=bound_px), iterations=traced.iterations)


def resolve_backend(name: str) -> Backend:
    """Turn `auto` into the best back end of this machine: cuda where it can run, else cpu.

    Raises:
        ValueError: If there is no back end of this name.
        StinPipeError: If cuda is asked for and cannot run here.
    """
    if name == "auto":
        return "cpu" if _why_no_cuda() else "cuda"
    for backend in get_args(Backend):
        if name == backend:
            if name == "cuda" and (reason := _why_no_cuda()):
                raise StinPipeError(f"the cuda flow back end cannot run here: {reason}; choose cpu or auto")
            return backend
    raise ValueError(f"backend must be auto, {', '.join(get_args(Backend))}, got {name!r}")


def require_support(backend: str, params: TVL1Params) -> None:
    """Refuse parameters that a back end would have to ignore.

    Raises:
        ValueError: If it lacks one of them.
    """
    default = TVL1Params().check_interval
    if backend == "opencv" and params.check_interval != default:
        raise ValueError(
            "the opencv flow back end tests its stop rule after every iteration and has no check_interval, "
            f"got {params.check_interval}; leave it at {default}, or choose cpu or cuda"
        )


def _why_no_cuda() -> str | None:
    """Say in a phrase why the cuda back end cannot run on this machine; None where it can."""
    # Most machines have no driver, and can say so without the seconds that importing torch takes.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"

    from stin_pipe.pipeline.flow.cuda import engine as cuda

    return cuda.why_unavailable()


def _count_threads(num_threads: int | None) -> int:
    if num_threads is None:
        return usable_cpus()
    if num_threads < 1:
        raise ValueError(f"num_threads must be >= 1, got {num_threads}")
    return num_threads
