"""What goes into a flow back end and what comes out: checked grey frames, and fields with their iterations.

Legend: N pairs, T frames of a clip, H and W sides in pixels.
"""

import dataclasses
from typing import Any

import numpy as np

from stin_pipe.pipeline.flow.params import MIN_SIDE_PX

# cv2.cvtColor's weights of R, G, B: in 1/2^15 for uint8, plain for floats.
GREY_WEIGHTS_Q15 = (9798, 19235, 3735)
GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedFlow:
    """Flow fields and how long each solve took.

    Attributes:
        flow: (N, H, W, 2) float32, pixels a frame, x then y; of the kind of the frames (numpy or torch).
        iterations: (N, levels, warps) int32, finest level first; None where the back end does not tell.
    """

    flow: Any
    iterations: Any | None


def check_frames(frames: Any, name: str) -> Any:
    """Check frames and turn colour into grey; numpy arrays stay numpy, tensors on a GPU stay there.

    Args:
        frames: (N, H, W) grey or (N, H, W, 3) RGB, uint8 or floating, grey values in 0..255.
        name: What to call them in an error.

    Returns:
        (N, H, W) contiguous; uint8 frames stay uint8, floating ones become float32.

    Raises:
        ValueError: If they are empty, smaller than 16 px, of another shape or dtype, or not finite.
    """
    on_device = hasattr(frames, "__cuda_array_interface__")
    if not on_device:
        frames = np.asarray(frames)
    _check_shape(tuple(frames.shape), name)
    dtype = str(frames.dtype).removeprefix("torch.")
    if dtype not in ("uint8", "float16", "float32", "float64"):
        raise ValueError(f"{name} must be uint8 or floating (grey values in 0..255), got dtype {dtype}")
    if frames.ndim == 4:
        frames = _grey_on_device(frames, dtype) if on_device else _grey(frames)
    if dtype != "uint8":
        frames = frames.float() if on_device else frames.astype(np.float32, copy=False)
        finite = frames.isfinite().all() if on_device else np.isfinite(frames).all()
        if not bool(finite):
            raise ValueError(f"{name} must be finite, got NaN or infinity (or a value beyond float32)")
    return frames.contiguous() if on_device else np.ascontiguousarray(frames)


def check_pairs(frames0: Any, frames1: Any) -> tuple[Any, Any]:
    """Check the first and second frames of N pairs, as `check_frames` does, and that they match.

    Raises:
        ValueError: As `check_frames`, and if shapes, dtypes or devices of the two differ.
    """
    first, second = (getattr(frames, "dtype", None) for frames in (frames0, frames1))
    if first != second:
        raise ValueError(f"frames0 and frames1 must have one dtype, got {first} and {second}")
    if np.shape(frames0) != np.shape(frames1):
        raise ValueError(
            f"frames0 and frames1 must have one shape, got {tuple(np.shape(frames0))} and "
            f"{tuple(np.shape(frames1))}"
        )
    first, second = (getattr(frames, "device", "cpu") for frames in (frames0, frames1))
    if str(first) != str(second):
        raise ValueError(f"frames0 and frames1 must be on one device, got {first} and {second}")
    return check_frames(frames0, "frames0"), check_frames(frames1, "frames1")


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise ValueError(f"{name} must be (N, H, W) grey or (N, H, W, 3) RGB, got shape {shape}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {shape}")
    if min(shape[1:3]) < MIN_SIDE_PX:
        raise ValueError(
            f"{name} must be at least {MIN_SIDE_PX} px high and wide, got {shape[1]} x {shape[2]} (H x W); "
            "resize them first"
        )


def _grey(frames: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) RGB to (N, H, W)."""
    import cv2

    if frames.dtype != np.uint8:
        frames = frames.astype(np.float32, copy=False)
    return np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames])


def _grey_on_device(frames: Any, dtype: str) -> Any:
    """The same for a torch tensor where it lies, rounding uint8 as cv2.cvtColor does."""
    if dtype == "uint8":
        red, green, blue = frames.int().unbind(-1)
        r, g, b = GREY_WEIGHTS_Q15
        return ((red * r + green * g + blue * b + (1 << 14)) >> 15).byte()
    red, green, blue = frames.float().unbind(-1)
    r, g, b = GREY_WEIGHTS
    return red * r + green * g + blue * b
