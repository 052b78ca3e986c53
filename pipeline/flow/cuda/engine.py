"""TV-L1 on an NVIDIA GPU: pairs go in and fields come out in batches that fit the card's memory.

Frames may lie on the host (numpy) or on the GPU (torch, or anything with `__cuda_array_interface__`); the
flow comes back where the frames came from. A pair's result does not depend on the batch it is in.
"""

import collections
import importlib.util
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params, pyramid_sizes
from stin_pipe.stin.shards.errors import StinPipeError

if TYPE_CHECKING:  # importing this module loads neither torch nor numba
    from stin_pipe.pipeline.flow.cuda.program import BatchShape

BATCH_SIZES = (1, 8, 32, 64, 128, 256)
"""Capacities of sessions; a batch takes the smallest that holds it, and what it does not fill stays idle."""

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


_sessions: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
_lock = threading.Lock()


def solve(
    frames0: Any, frames1: Any, params: TVL1Params, *, chained: bool, bound_px: float | None
) -> TracedFlow:
    """Solve N pairs of checked (N, H, W) frames in batches; see `backends.solve`.

    Raises:
        StinPipeError: If the kernels cannot be compiled or loaded, or one pair does not fit into the memory.
    """
    import torch

    on_host = isinstance(frames0, np.ndarray)
    device = torch.device("cuda", torch.cuda.current_device()) if on_host else frames0.device
    num_pairs, height, width = frames0.shape
    num_levels = len(pyramid_sizes(height, width, params))
    shape, dtype = ((height, width, 2), torch.float32)
    if bound_px is not None:
        shape, dtype = ((2 * height, width), torch.uint8)
    flow = torch.empty((num_pairs, *shape), dtype=dtype, device="cpu" if on_host else device)
    iterations = torch.empty((num_pairs, num_levels, params.num_warps), dtype=torch.int32, device=flow.device)

    with torch.cuda.device(device):
        session = _session((height, width), num_pairs, params, device, chained=chained)
        capacity = session.shape.capacity
        # Where the memory is short, the session is smaller than the batch.
        for start in range(0, num_pairs, capacity):
            batch = slice(start, min(start + capacity, num_pairs))
            put = _filler(frames0[batch], frames1[batch], session.shape)
            output = torch.empty((batch.stop - start, *shape), dtype=dtype, device=device)
            traced = session.solve(put, batch.stop - start, bound_px=bound_px, output=output)
            flow[batch].copy_(output)
            iterations[batch].copy_(traced)

    if on_host:
        return TracedFlow(flow=flow.numpy(), iterations=iterations.numpy())
    return TracedFlow(flow=flow, iterations=iterations)


def _filler(frames0: Any, frames1: Any, shape: "BatchShape") -> Callable[[Any], None]:
    """Make the function that puts the frames of a batch where a session expects them."""
    import torch

    num_pairs = len(frames0)
    # A clip of n pairs has n + 1 frames; of separate pairs, the second frames come after all first ones.
    parts = {0: frames0, num_pairs: frames1[-1:]} if shape.chained else {0: frames0, shape.capacity: frames1}

    def put(target: Any) -> None:
        for start, images in parts.items():
            if isinstance(images, np.ndarray):
                images = torch.from_numpy(images if images.flags.writeable else images.copy())
                # Bytes travel as bytes, a quarter of the floats, and widen on the GPU.
                images = images.to(target.device)
            target[start : start + len(images)].copy_(images)

    return put


def _session(size: tuple[int, int], num_pairs: int, params: TVL1Params, device: Any, *, chained: bool) -> Any:
    """Return a session for batches of this kind: a kept one, or a new one that fits the free memory."""
    import torch

    from stin_pipe.pipeline.flow.cuda.program import BatchShape, buffers
    from stin_pipe.pipeline.flow.cuda.session import Session, blocks_of

    most = next((n for n in BATCH_SIZES if n >= num_pairs), BATCH_SIZES[-1])
    key = (chained, size, most, params, device)
    with _lock:
        if key in _sessions:
            _sessions.move_to_end(key)
            return _sessions[key]
        # Make room before the free memory is asked for, which would not count what torch still holds.
        while len(_sessions) >= KEPT_SESSIONS:
            _sessions.popitem(last=False)[1].wait()

        threads, blocks = blocks_of(device)
        shapes = [
            BatchShape(
                height=size[0], width=size[1], capacity=n, chained=chained, threads=threads, blocks=blocks
            )
            for n in BATCH_SIZES
            if n <= most
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
