"""Flow as a picture: the direction gives the hue, the length the strength of the colour, no motion is white.

Source: Baker et al., A database and evaluation methodology for optical flow, IJCV 92, 2011, section 4.1: the
colour circle runs red, yellow, green, cyan, blue, magenta with steps of unequal length, because the eye tells
some of the colours apart better than others.
Differs: the circle is continuous, without the seam that 55 separate colours have between magenta and red.
"""

import numpy as np

# Where the pure colours lie on the circle, in 55ths of a turn, clockwise from motion to the right (y down).
_PLACES = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
_COLOURS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)
_BEYOND = (
    0.75  # motion longer than the full length is shown darker, so that it does not pass for the full one
)


def flow_to_colour(flow_HW2: np.ndarray, *, full_px: float) -> np.ndarray:
    """Return flow as an RGB picture.

    Args:
        flow_HW2: motion in pixels, x to the right and y down; any leading dimensions.
        full_px: length of motion that gets the full colour; longer ones are darker.

    Returns:
        uint8 (..., 3). Unknown motion (not finite) is black.

    Raises:
        ValueError: if the last dimension is not 2, or ``full_px`` is not above 0.
    """
    if flow_HW2.shape[-1:] != (2,):
        raise ValueError(f"flow must end in a dimension of 2 (x, y), got shape {flow_HW2.shape}")
    if not 0 < full_px < np.inf:
        raise ValueError(f"full_px must be > 0, got {full_px}")
    x, y = (np.asarray(flow_HW2[..., part], np.float64) for part in (0, 1))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(known, x, 0.0), np.where(known, y, 0.0)
    turn = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    length = np.hypot(x, y)[..., None] / full_px
    hue = np.stack([np.interp(turn, _PLACES, _COLOURS[:, part]) for part in range(3)], axis=-1)
    shown = np.where(length <= 1, 1 - length * (1 - hue), hue * _BEYOND)
    return np.rint(255 * shown * known[..., None]).astype(np.uint8)


def colour_key(side_px: int) -> np.ndarray:
    """Return the key as a square RGB picture: a disc whose rim is the full length; white around it."""
    place = (np.arange(side_px) + 0.5) / side_px * 2 - 1
    flow = np.stack(np.meshgrid(place, place), axis=-1)
    picture = flow_to_colour(flow, full_px=1.0)
    picture[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 255
    return picture


def full_length(flow_NHW2: np.ndarray, *, least_px: float = 0.5, percentile: float = 99.0) -> float:
    """Return the length that gets the full colour for these fields: nearly their longest motion, rounded up.

    Args:
        flow_NHW2: the fields that are shown together, in pixels.
        least_px: smallest answer, so that the noise of a still picture stays pale.
        percentile: share of the motions, in per cent, that are not longer.
    """
    longest = float(np.percentile(np.hypot(flow_NHW2[..., 0], flow_NHW2[..., 1]), percentile))
    unit = 10.0 ** np.floor(np.log10(max(longest, least_px)))
    return float(max(least_px, np.ceil(longest / unit * 2) / 2 * unit))
