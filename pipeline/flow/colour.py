"""Flow as a picture: direction gives the hue, length the strength of the colour, no motion is white.

Source: Baker et al., A database and evaluation methodology for optical flow, IJCV 92, 2011, section 4.1: the
colour circle runs red, yellow, green, cyan, blue, magenta with steps of unequal length, because the eye tells
some of the colours apart better than others.
Differs: the circle is continuous, without the seam that 55 separate colours have between magenta and red.
"""

from typing import Any

import numpy as np

# The angles of the pure colours, in 55ths of a turn, clockwise from motion to the right (y down).
_TURNS = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
_COLOURS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)

_BEYOND = 0.75
"""Brightness of motion beyond the full length, so that it does not pass for the full one."""


def flow_to_colour(flow: Any, *, full_px: float | None = None) -> np.ndarray:
    """Draw optical flow in colours.

    Args:
        flow: (H, W, 2), motion in pixels, x to the right and y down, with any dimensions in front; numpy or
            torch.
        full_px: The length that gets the full colour; longer motion is darker. When absent, `full_length` of
            all of `flow`: then pictures of different calls have different scales.

    Returns:
        uint8 RGB (..., H, W, 3). Unknown motion (not finite) is black.

    Raises:
        ValueError: If the last dimension is not 2, or `full_px` is not above 0.
    """
    flow = np.asarray(flow.detach().cpu() if hasattr(flow, "detach") else flow)
    if flow.shape[-1:] != (2,):
        raise ValueError(f"flow must end in a dimension of 2 (x, y), got shape {flow.shape}")
    full_px = full_length(flow) if full_px is None else full_px
    if not 0 < full_px < np.inf:
        raise ValueError(f"full_px must be > 0, got {full_px}")

    x, y = (np.asarray(flow[..., part], np.float64) for part in (0, 1))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    turn = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    length = np.hypot(x, y)[..., None] / full_px

    # From white at rest to the pure hue at the full length.
    hue = np.stack([np.interp(turn, _TURNS, _COLOURS[:, part]) for part in range(3)], axis=-1)
    colour = np.where(length <= 1, 1 - length * (1 - hue), hue * _BEYOND)
    return np.rint(255 * colour * finite[..., None]).astype(np.uint8)


def colour_key(side_px: int) -> np.ndarray:
    """Draw the key as a square RGB picture: a disc whose rim is the full length; white around it."""
    position = (np.arange(side_px) + 0.5) / side_px * 2 - 1
    flow = np.stack(np.meshgrid(position, position), axis=-1)
    picture = flow_to_colour(flow, full_px=1.0)
    picture[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 255
    return picture


def full_length(flow_NHW2: np.ndarray, *, least_px: float = 0.5, percentile: float = 99.0) -> float:
    """Return the length that gets the full colour in these fields: nearly their longest motion, rounded up.

    Args:
        flow_NHW2: The fields that are shown together, in pixels.
        least_px: Smallest answer, so that the noise of a still picture stays pale.
        percentile: Share of the motions, in per cent, that are not longer.
    """
    lengths = np.hypot(flow_NHW2[..., 0], flow_NHW2[..., 1])
    lengths = lengths[np.isfinite(lengths)]
    longest = float(np.percentile(lengths, percentile)) if lengths.size else 0.0
    unit = 10.0 ** np.floor(np.log10(max(longest, least_px)))
    return float(max(least_px, np.ceil(longest / unit * 2) / 2 * unit))
