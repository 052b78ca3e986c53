"""TV-L1 on an NVIDIA GPU: batches of pairs, cut to the card's memory, in and out.

Frames may lie on the host (numpy) or on the GPU (torch, or anything with `__cuda_array_interface__`); the
flow comes back where the frames came from. A pair's result does not depend on the batch it is in.
"""

import collections
import importlib.util
import threading
from typing import Any

import numpy as np

from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params, pyramid_sizes
from stin_pipe.stin.shards.errors import StinPipeError

BATCH_SIZES = (1, 8, 32, 64, 128, 256)
"""Capacities of sessions; a batch takes the smallest that holds it, the rest of which stays idle."""

MEMORY_SHARE = 0.6
"""Share of the card's free memory that a session may take."""

KEPT_SESSIONS = 2


def why_unavailable() -> str | None:
    """Say in a phrase why this back end cannot run here; None where it can."""
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    for module, package in (("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")):
        if _find(module) is None:
            return f'the package {package} is missing (pip install "stin-pipe[cuda]")'
    try:
        import stin_pipe.pipeline.flow.cuda.device  # noqa: F401  (it tests which numba.cuda was loaded)
    except StinPipeError as error:
        return str(error)
    return None


def tvl1_cuda(frames0: Any, frames1: Any, params: TVL1Params) -> TracedFlow:
    """Solve N pairs; see `stin_pipe.pipeline.flow.tvl1`.

    Args:
        frames0: (N, H, W) grey frames, checked by `frames.check_pairs`.
        frames1: The frames that follow them.
        params: TV-L1 parameters, without `warm_start`.

    Raises:
        StinPipeError: If the kernels cannot be compiled or loaded, or one pair does not fit into the memory.
    """
    return TracedFlow(**_solve("pairs", (frames0, frames1), params, bound_px=None))


def tvl1_clip_cuda(frames: Any, params: TVL1Params) -> TracedFlow:
    """Solve the T-1 pairs of a clip, making each frame's pyramid and gradients once; see `tvl1_clip`.

    Args:
        frames: (T, H, W) grey frames, checked by `frames.check_frames`.
        params: TV-L1 parameters.

    Raises:
        StinPipeError: As `tvl1_cuda`.
    """
    return TracedFlow(**_solve("clip", (frames,), params, bound_px=None))


def tvl1_clip_packed_cuda(frames: Any, params: TVL1Params, *, bound_px: float) -> Any:
    """Solve a clip and give its T-1 fields quantised as shards keep them, an eighth of the bytes to move.

    Args:
        frames: As for `tvl1_clip_cuda`.
        params: TV-L1 parameters.
        bound_px: Flow beyond it is clipped.

    Returns:
        (T-1, 2 H, W) uint8, x above y, as `codec.quantise_flow` makes of the flow; where the
        frames are.

    Raises:
        ValueError: If `bound_px` is not positive.
        StinPipeError: As `tvl1_cuda`.
    """
    if not bound_px > 0:
        raise ValueError(f"bound_px must be > 0, got {bound_px}")
    return _solve("clip", (frames,), params, bound_px=bound_px)["flow"]


def release_memory() -> None:
    """Give back the GPU memory that is kept for the next batches."""
    with _lock:
        for session in _sessions.values():
            session.wait()
        _sessions.clear()


_sessions: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
_lock = threading.Lock()


def _solve(
    source: str, frames: tuple[Any, ...], params: TVL1Params, *, bound_px: float | None
) -> dict[str, Any]:
    """Solve in batches; give the flow and the iterations where the frames are."""
    import torch

    on_host = isinstance(frames[0], np.ndarray)
    device = torch.device("cuda", torch.cuda.current_device()) if on_host else frames[0].device
    num_pairs = len(frames[0]) - (source == "clip")
    height, width = frames[0].shape[1:]
    sizes = pyramid_sizes(height, width, params)
    shape, dtype = (
        ((height, width, 2), torch.float32) if bound_px is None else ((2 * height, width), torch.uint8)
    )
    flow = torch.empty((num_pairs, *shape), dtype=dtype, device="cpu" if on_host else device)
    iterations = torch.empty((num_pairs, len(sizes), params.num_warps), dtype=torch.int32, device=flow.device)
    with torch.cuda.device(device):
        session = _session(source, (height, width), 1 if params.warm_start else num_pairs, params, device)
        capacity, initial = session.shape.capacity, None
        for start in range(0, num_pairs, capacity):
            stop = min(start + capacity, num_pairs)
            output = torch.empty((stop - start, *shape), dtype=dtype, device=device)
            with session.lock:
                traced = session.solve(
                    _filler(frames, start, stop, capacity), stop - start,
                    initial=initial, bound_px=bound_px, output=output,
                )  # fmt: skip
                if params.warm_start:
                    initial = _carry(session.flow(), sizes, params)
            flow[start:stop].copy_(output)
            iterations[start:stop].copy_(traced)
    return {
        name: value.numpy() if on_host else value
        for name, value in (("flow", flow), ("iterations", iterations))
    }


def _filler(frames: tuple[Any, ...], start: int, stop: int, capacity: int):
    """Make the function that puts the frames of pairs start..stop-1 into a session's places."""
    import torch

    def put(places: Any) -> None:
        for part, images in enumerate(frames):
            chosen = images[start : stop + (len(frames) == 1)]
            if isinstance(chosen, np.ndarray):
                chosen = torch.from_numpy(chosen if chosen.flags.writeable else chosen.copy())
                chosen = chosen.to(places.device)  # as bytes, if they are: they widen on the GPU
            places[part * capacity :][: len(chosen)].copy_(chosen)

    return put


def _carry(flow: Any, sizes: list[tuple[int, int]], params: TVL1Params) -> Any:
    """Bring the (2, H, W) flow of the pair before to the coarsest level, as the reference does."""
    import torch

    from stin_pipe.pipeline.flow.reference import resize

    for size in sizes[1:]:
        flow = torch.stack([resize(u, size, 1 / params.scale_step) for u in flow]) * params.scale_step
    return flow


def _session(source: str, size: tuple[int, int], num_pairs: int, params: TVL1Params, device: Any) -> Any:
    """Give a session for batches of this kind: a kept one, or a new one that the free memory allows."""
    import torch

    from stin_pipe.pipeline.flow.cuda.program import BatchShape, buffers
    from stin_pipe.pipeline.flow.cuda.session import Session, blocks_of

    wanted = next((n for n in BATCH_SIZES if n >= num_pairs), BATCH_SIZES[-1])
    key = (source, size, wanted, params, device)
    with _lock:
        if key in _sessions:
            _sessions.move_to_end(key)
            return _sessions[key]
        while len(_sessions) >= KEPT_SESSIONS:
            _sessions.popitem(last=False)[1].wait()
        threads, blocks = blocks_of(device)
        shapes = [
            BatchShape(
                height=size[0], width=size[1], capacity=n, source=source, threads=threads, blocks=blocks
            )
            for n in BATCH_SIZES
            if n <= wanted
        ]
        torch.cuda.empty_cache()
        room = MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
        fitting = [shape for shape in shapes if session_bytes(buffers(shape, params)) <= room]
        if not fitting:
            raise StinPipeError(
                f"a pair of {size[1]}x{size[0]} px needs "
                f"{session_bytes(buffers(shapes[0], params)) >> 20} MiB of GPU memory, of which "
                f"{int(room) >> 20} MiB may be used; free some, or choose the cpu flow back end"
            )
        _sessions[key] = Session(fitting[-1], params, device)
        return _sessions[key]


def session_bytes(buffers: dict[str, tuple[type[np.generic], int]]) -> int:
    """Bytes of a session's buffers."""
    return sum(np.dtype(kind).itemsize * count for kind, count in buffers.values())


def _find(module: str) -> Any:
    """Find a module, also one in a package that is missing."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
