"""The call: frames in, TV-L1 flow out.

`tvl1` takes a pair or many, as a person at a notebook has them; `tvl1_clip` takes the frames of a video, in
whose fields each frame is used twice. What runs behind them is chosen in `backends`.

Legend: N pairs, T frames of a clip, H and W sides in pixels.
"""

from typing import Any

from stin_pipe.pipeline.flow.backends import solve
from stin_pipe.pipeline.flow.frames import as_batch, check_frames, check_pairs, like
from stin_pipe.pipeline.flow.params import TVL1Params


def tvl1(
    frames0: Any,
    frames1: Any,
    *,
    value_range: float | None = None,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Compute the TV-L1 optical flow between two frames, or between the frames of N pairs.

    Args:
        frames0: A frame, (H, W) grey or (H, W, 3) RGB, or N of them, (N, H, W) or (N, H, W, 3); numpy arrays
            or torch tensors, uint8 or floating. Both sides must have at least 16 px.
        frames1: The frame that follows, or the N frames that follow, of the same shape and dtype.
        value_range: The value of white in floating frames: 255 (taken when absent) or 1. It must be given
            where all values lie in 0..1, since they may be black pictures as well as scaled ones.
        params: TV-L1 parameters; the defaults of `TVL1Params` when absent.
        backend: `auto` (the GPU where there is one, else the CPU), `cuda`, `cpu`, `opencv` or `reference`.
        num_threads: Threads over the pairs (cpu, opencv); all cores of this process when absent. The
            result does not depend on it.

    Returns:
        (H, W, 2) float32, or (N, H, W, 2) for N pairs: pixels a frame, x (to the right) then y (down); what
        is at (y, x) of the first frame is at (y + flow y, x + flow x) of the second. It is of the kind of
        the frames, and where they are: numpy, or torch on their device.

    Raises:
        ValueError: If the frames are empty, not finite, too small, outside of their range of values, of
            different shapes or dtypes, or an argument is out of range.
        StinPipeError: If the back end cannot run on this machine.

    Example:
        >>> import cv2, stin_pipe
        >>> before, after = (cv2.imread(name)[..., ::-1] for name in ("1.png", "2.png"))  # RGB
        >>> flow = stin_pipe.tvl1(before, after)
        >>> picture = stin_pipe.flow_to_colour(flow)
    """
    batch0, batch1 = as_batch(frames0, "frames0"), as_batch(frames1, "frames1")
    grey0, grey1 = check_pairs(batch0, batch1, value_range=value_range)
    traced = solve(grey0, grey1, params=params, backend=backend, num_threads=num_threads)
    return like(frames0, traced.flow if batch0 is frames0 else traced.flow[0])


def tvl1_clip(
    frames: Any,
    *,
    bound_px: float | None = None,
    value_range: float | None = None,
    params: TVL1Params | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Compute the T-1 fields of a clip of T frames, making each frame's pyramid and gradients once.

    The fields are those of `tvl1(frames[:-1], frames[1:])` bit for bit.

    Args:
        frames: (T, H, W) grey or (T, H, W, 3) RGB, as for `tvl1`.
        bound_px: When given, fields are quantised as shards keep them, with flow beyond this bound clipped.
        value_range: As for `tvl1`.
        params: As for `tvl1`.
        backend: As for `tvl1`.
        num_threads: As for `tvl1`.

    Returns:
        (T-1, H, W, 2) float32; field i is the motion from frame i to frame i+1. With `bound_px`
        (T-1, 2 H, W) uint8, x above y, as `codec.quantise_flow` gives it.

    Raises:
        ValueError: As `tvl1`, and if there are fewer than 2 frames, or the bound is not above 0.
        StinPipeError: If the back end cannot run on this machine.
    """
    if bound_px is not None and not bound_px > 0:
        raise ValueError(f"bound_px must be > 0, got {bound_px}")
    greys = check_frames(frames, "frames", value_range=value_range)
    if len(greys) < 2:
        raise ValueError(f"a clip needs at least 2 frames for a flow field, got {len(greys)}")
    traced = solve(
        greys[:-1],
        greys[1:],
        params=params,
        backend=backend,
        num_threads=num_threads,
        chained=True,
        bound_px=bound_px,
    )
    return like(frames, traced.flow)
