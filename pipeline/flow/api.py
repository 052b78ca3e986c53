"""The call: frames in, TV-L1 flow out, on the back end that was asked for.

Back ends: `cuda` (an NVIDIA GPU), `cpu` (compiled, SIMD), `opencv` (cv2.optflow: yardstick and fallback),
`reference` (plain torch: the specification). They are imported where they are used, so that importing
this package stays cheap.

Legend: N pairs, T frames of a clip, H and W sides in pixels.
"""

import ctypes
import itertools
import os
from typing import Any, Literal, get_args

import numpy as np

from stin_pipe.pipeline.flow.frames import TracedFlow, check_frames, check_pairs
from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.shards.errors import StinPipeError

Backend = Literal["cuda", "cpu", "opencv", "reference"]


def tvl1(
    frames0: Any,
    frames1: Any,
    *,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Compute the TV-L1 flow of N pairs of frames.

    Args:
        frames0: (N, H, W) grey or (N, H, W, 3) RGB, uint8 or floating, grey values in 0..255; numpy, or
            torch tensors on the GPU for the cuda back end.
        frames1: The frames that follow them, of the same shape and dtype.
        params: TV-L1 parameters; the defaults of `TVL1Params` when absent.
        backend: `auto`, or a back end by name.
        num_threads: Threads over the pairs (cpu, opencv); all cores of this process when absent. The
            result does not depend on it.

    Returns:
        (N, H, W, 2) float32: pixels a frame, x (to the right) then y (down).

    Raises:
        ValueError: If the frames are empty, not finite, too small, of different shapes or dtypes, or an
            argument is out of range.
        StinPipeError: If the back end cannot run on this machine.
    """
    return trace_tvl1(frames0, frames1, params=params, backend=backend, num_threads=num_threads).flow


def tvl1_clip(
    frames: Any,
    *,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Compute the T-1 fields of a clip of T frames, making each frame's pyramid and gradients once.

    Equals `tvl1(frames[:-1], frames[1:])` bit for bit, unless `params.warm_start` is set.

    Args:
        frames: (T, H, W) grey or (T, H, W, 3) RGB, as for `tvl1`.
        params: As for `tvl1`.
        backend: As for `tvl1`.
        num_threads: As for `tvl1`.

    Returns:
        (T-1, H, W, 2) float32; field i is the motion from frame i to frame i+1.

    Raises:
        ValueError: As `tvl1`, and if there are fewer than 2 frames.
        StinPipeError: If the back end cannot run on this machine.
    """
    return trace_tvl1_clip(frames, params=params, backend=backend, num_threads=num_threads).flow


def trace_tvl1(
    frames0: Any,
    frames1: Any,
    *,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> TracedFlow:
    """Do what `tvl1` does and tell the iterations of each solve too."""
    params = params or TVL1Params()
    if params.warm_start:
        raise ValueError("warm_start must be False for separate pairs, got True: use tvl1_clip")
    backend, threads = resolve_backend(backend), _count_threads(num_threads)
    frames0, frames1 = check_pairs(frames0, frames1)
    _check_place(frames0, backend)
    if backend == "cuda":
        from stin_pipe.pipeline.flow.cuda import engine as cuda

        return cuda.tvl1_cuda(frames0, frames1, params)
    if backend == "cpu":
        from stin_pipe.pipeline.flow.cpu import engine as cpu

        return cpu.solve_pairs(frames0, frames1, params, threads)
    return _solve_in_turn(list(zip(frames0, frames1, strict=True)), params, backend, threads)


def trace_tvl1_clip(
    frames: Any,
    *,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> TracedFlow:
    """Do what `tvl1_clip` does and tell the iterations of each solve too."""
    params = params or TVL1Params()
    backend, threads = resolve_backend(backend), _count_threads(num_threads)
    frames = check_frames(frames, "frames")
    if len(frames) < 2:
        raise ValueError(f"a clip needs at least 2 frames for a flow field, got {len(frames)}")
    _check_place(frames, backend)
    if backend == "cuda":
        from stin_pipe.pipeline.flow.cuda import engine as cuda

        return cuda.tvl1_clip_cuda(frames, params)
    if backend == "cpu":
        from stin_pipe.pipeline.flow.cpu import engine as cpu

        return cpu.solve_clip(frames, params, threads)
    return _solve_in_turn(list(itertools.pairwise(frames)), params, backend, threads)


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


def _why_no_cuda() -> str | None:
    """Say in a phrase why the cuda back end cannot run on this machine; None where it can."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # known without the seconds that importing torch takes
        return "there is no NVIDIA driver (libcuda.so.1)"
    from stin_pipe.pipeline.flow.cuda import engine as cuda

    return cuda.why_unavailable()


def _count_threads(num_threads: int | None) -> int:
    if num_threads is None:
        return len(os.sched_getaffinity(0))
    if num_threads < 1:
        raise ValueError(f"num_threads must be >= 1, got {num_threads}")
    return num_threads


def _check_place(frames: Any, backend: Backend) -> None:
    if backend != "cuda" and not isinstance(frames, np.ndarray):
        raise ValueError(f"frames on a GPU need the cuda back end, got {backend}; move them by .cpu()")


def _solve_in_turn(pairs: list, params: TVL1Params, backend: Backend, threads: int) -> TracedFlow:
    """Solve pair after pair with a back end that has no batches."""
    if backend == "opencv":
        from stin_pipe.pipeline.flow import opencv

        return TracedFlow(flow=opencv.solve_pairs(pairs, params, threads), iterations=None)
    import torch

    from stin_pipe.pipeline.flow import reference

    flows, iterations, last = [], [], None
    for frame0, frame1 in pairs:
        frame0, frame1 = (torch.from_numpy(frame).float() for frame in (frame0, frame1))
        last, counts = reference.solve(frame0, frame1, params, last if params.warm_start else None)
        flows.append(last.numpy())
        iterations.append(counts)
    return TracedFlow(flow=np.stack(flows), iterations=np.array(iterations, np.int32))
