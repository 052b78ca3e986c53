"""What goes into a flow back end and what comes out: checked grey frames, and fields with their iterations.

Legend: N pairs, T frames of a clip, H and W sides in pixels.
"""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from stin_pipe.pipeline.flow.params import MIN_SIDE_PX

# cv2.cvtColor's weights of R, G, B: in 1/2^15 for uint8, plain for floats.
GREY_WEIGHTS_Q15 = (9798, 19235, 3735)
GREY_WEIGHTS = (0.299, 0.587, 0.114)

WHITE = 255
ROUNDING = 1e-3
"""Share of the range of values by which resizing and colour conversion may overshoot it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedFlow:
    """Flow fields and how long each solve took.

    Attributes:
        flow: (N, H, W, 2) float32, pixels a frame, x then y; or (N, 2 H, W) uint8, quantised. numpy, or
            torch where the frames are on a GPU.
        iterations: (N, levels, warps) int32, finest level first; None where they are not counted.
    """

    flow: Any
    iterations: Any | None


def as_batch(frames: Any, name: str) -> Any:
    """Turn one frame, (H, W) or (H, W, 3), into a batch of one; leave a batch as it is.

    Raises:
        ValueError: If it is neither.
    """
    shape = np.shape(frames)
    # A batch of grey frames 3 px wide does not exist: frames have at least 16 px.
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return (frames if hasattr(frames, "dtype") else np.asarray(frames))[None]
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{name} must be one frame, (H, W) grey or (H, W, 3) RGB, or a batch of them with N in front, "
            f"got shape {tuple(shape)}"
        )
    return frames


def like(frames: Any, flow: Any) -> Any:
    """Return flow as a torch tensor if the frames are one; a back end for the CPU returns numpy."""
    # Frames are no tensors where nobody has imported torch, and importing it would take seconds.
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(frames, torch.Tensor)
    return torch.from_numpy(flow) if torch and is_tensor and isinstance(flow, np.ndarray) else flow


def check_frames(frames: Any, name: str, *, value_range: float | None = None) -> Any:
    """Check frames and turn colour into grey; numpy arrays stay numpy, tensors on a GPU stay there.

    Args:
        frames: (N, H, W) grey or (N, H, W, 3) RGB, uint8 or floating.
        name: What to call them in an error.
        value_range: The value of white in floating frames, 255 or 1; when absent 255, and frames that could
            be meant either way are refused.

    Returns:
        (N, H, W) contiguous; uint8 frames stay uint8, floating ones become float32 in 0..255.

    Raises:
        ValueError: If they are empty, smaller than 16 px, of another shape or dtype, not finite, or outside
            of their range of values.
    """
    return _check({name: frames}, value_range)[0]


def check_pairs(frames0: Any, frames1: Any, *, value_range: float | None = None) -> tuple[Any, Any]:
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

    grey0, grey1 = _check({"frames0": frames0, "frames1": frames1}, value_range)
    return grey0, grey1


def _check(batches: dict[str, Any], value_range: float | None) -> list[Any]:
    """Check batches by name and make them grey."""
    checked = [_check_batch(frames, name) for name, frames in batches.items()]
    is_uint8 = "uint8" in str(checked[0].dtype)
    if value_range not in (None, 1, WHITE):
        raise ValueError(f"value_range must be 1 or 255, got {value_range!r}")
    if is_uint8 and value_range == 1:
        raise ValueError(f"{' and '.join(batches)} are uint8, whose white is 255, got value_range 1")
    # Of all batches together: one of two frames may well be black.
    white = WHITE if is_uint8 else _white(checked, " and ".join(batches), value_range)

    greys = []
    for frames in checked:
        scaled = frames if white == WHITE else frames * (WHITE / white)
        if isinstance(scaled, np.ndarray):
            greys.append(np.ascontiguousarray(_grey(scaled) if scaled.ndim == 4 else scaled))
        else:
            greys.append((_grey_on_device(scaled) if scaled.ndim == 4 else scaled).contiguous())
    return greys


def _check_batch(frames: Any, name: str) -> Any:
    """Check the shape and the dtype of frames; return uint8 or float32, numpy unless on a GPU."""
    if hasattr(frames, "detach"):
        # numpy cannot look into a tensor that requires a gradient.
        frames = frames.detach()
    elif not hasattr(frames, "dtype"):
        frames = np.asarray(frames)
    _check_shape(tuple(frames.shape), name)
    dtype = str(frames.dtype).removeprefix("torch.")
    if dtype not in ("uint8", "float16", "float32", "float64"):
        raise ValueError(f"{name} must be uint8 or floating (grey values in 0..255), got dtype {dtype}")

    on_device = hasattr(frames, "__cuda_array_interface__")
    frames = frames if on_device else np.asarray(frames)
    if dtype == "uint8":
        return frames
    frames = frames.float() if on_device else frames.astype(np.float32, copy=False)
    if not math.isfinite(float(frames.min())) or not math.isfinite(float(frames.max())):
        raise ValueError(f"{name} must be finite, got NaN or infinity (or a value beyond float32)")
    return frames


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


def _white(batches: list[Any], names: str, value_range: float | None) -> float:
    """Return the value of white in floating frames, 1 or 255.

    Raises:
        ValueError: If it may be either, or values lie outside of the range.
    """
    least, most = min(float(b.min()) for b in batches), max(float(b.max()) for b in batches)
    # TV-L1's weights are made for 0..255: the flow of frames in 0..1 looks like flow, and is nearly zero.
    if value_range is None and least >= 0 and most <= 1:
        raise ValueError(
            f"{names} are floating with all values in 0..1: give value_range=1 if 1 is white, or "
            "value_range=255 if they are nearly black"
        )
    white = float(value_range or WHITE)
    if least < -ROUNDING * white or most > (1 + ROUNDING) * white:
        raise ValueError(
            f"{names} must have values in 0..{white:g}, got {least:g}..{most:g}; undo their normalisation, "
            f"clip them, or give another value_range (1 or 255)"
        )
    return white


def _grey(frames: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) RGB to (N, H, W)."""
    import cv2

    return np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames])


def _grey_on_device(frames: Any) -> Any:
    """The same for a torch tensor where it lies, rounding uint8 as cv2.cvtColor does."""
    if not frames.is_floating_point():
        red, green, blue = frames.int().unbind(-1)
        r, g, b = GREY_WEIGHTS_Q15
        return ((red * r + green * g + blue * b + (1 << 14)) >> 15).byte()

    red, green, blue = frames.float().unbind(-1)
    r, g, b = GREY_WEIGHTS
    return red * r + green * g + blue * b
