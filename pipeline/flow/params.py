"""Parameters of TV-L1 optical flow, and the sizes of its pyramid.

Source: Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow" (DAGM 2007), and
Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow Estimation" (IPOL 2013), whose symbols are used.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

MIN_SIDE_PX = 16
"""No pyramid level, and no frame, is smaller than this on either side."""

MOST = 10_000
"""Largest value of the parameters that count something: far beyond use, and no typing error runs for days."""

_NUMBERS = ("tau", "lambda_", "theta", "epsilon", "scale_step")
_COUNTS = ("num_warps", "max_iterations", "check_interval", "num_scales", "median_filter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TVL1Params:
    """The parameters of one TV-L1 solve; the defaults are those of OpenCV's CUDA version.

    `num_warps` and the last three are levers on accuracy. Their defaults keep the meaning on which two-stream
    networks have been trained. What each gains and costs was measured on four FlyingChairs pairs (large
    motion, 2.44 px of end-point error by default) and RubberWhale (small motion, 0.154 px).

    Attributes:
        tau: Time step of the dual update; above 0.25 the scheme may not converge.
        lambda_: Weight of the data term; smaller is smoother.
        theta: Tightness of the coupling between u and v.
        num_warps: Linearisations of the data term at each pyramid level. 10 gain a little (2.40 and 0.154 px)
            for 1.8 times the time.
        epsilon: A solve stops when the mean of |du|^2 over its pixels is at most epsilon^2 (pixels).
        max_iterations: Iterations after which a solve ends in any case.
        check_interval: The stop rule is tested after each `check_interval` iterations, never between.
        num_scales: Most pyramid levels; each reaches 1/scale_step further. 7 gain on large motion (2.35 px),
            cost nothing on small motion (0.155 px) and 5 % of time; 12 and more lose (2.62 px), because
            structures vanish before motion does.
        scale_step: Size of a level relative to the next finer one. 0.65 gains on large motion (2.32 px) and
            a fifth of the time, costs 2 % on small motion (0.158 px). 0.5 reaches still further, but costs
            7 % on small motion (0.166 px), and on these pairs gained twice and lost twice (mean 2.63 px).
        median_filter: Side of the median filter on u after each warp: 0 (off), 3 or 5. Takes outliers away
            at motion boundaries: 3 gives 2.39 and 0.155 px for 1.4 times the time, 5 gives 2.34 and 0.155 px
            for 3.4 times.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    num_warps: int = 5
    epsilon: float = 0.01
    max_iterations: int = 300
    check_interval: int = 8
    num_scales: int = 5
    scale_step: float = 0.8
    median_filter: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: If a parameter is not a number of its kind, or outside its range.
        """
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{_spelled(name)} must be a finite number, got {value!r}")

        for name in _COUNTS:
            value, least = getattr(self, name), 0 if name == "median_filter" else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
                raise ValueError(f"{name} must be a whole number from {least} to {MOST}, got {value!r}")

        for name in ("lambda_", "theta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{_spelled(name)} must be > 0, got {getattr(self, name)}")

        if not 0 < self.tau <= 0.25:
            raise ValueError(f"tau must be in (0, 0.25], where the dual update converges, got {self.tau}")
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be >= 0, got {self.epsilon}")
        if not 0.1 <= self.scale_step <= 0.95:
            raise ValueError(f"scale_step must be in [0.1, 0.95], got {self.scale_step}")
        if self.median_filter not in (0, 3, 5):
            raise ValueError(f"median_filter must be 0 (off), 3 or 5, got {self.median_filter!r}")

    @property
    def threshold(self) -> float:
        """Half-width lambda * theta of the thresholding step."""
        return self.lambda_ * self.theta

    @property
    def dual_step(self) -> float:
        """Step tau / theta of the dual update."""
        return self.tau / self.theta

    def as_record(self) -> dict[str, Any]:
        """Return the parameters as plans, shards and model files keep them."""
        # A parameter until 0.1.0, then always off. The fingerprint of every run made since then includes it.
        return {**dataclasses.asdict(self), "warm_start": False}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TVL1Params":
        """Return the parameters that a plan, a shard or a model file keeps.

        Raises:
            ValueError: If a name or a value is not one of TV-L1's.
        """
        if not isinstance(record, Mapping):
            raise ValueError(
                f"the parameters of the flow must be an object of names and values, got {record!r}"
            )
        values = dict(record)
        if values.pop("warm_start", False):
            raise ValueError("warm_start (each field starting from the one before) was removed after 0.1.0")
        return set_params(values)


def set_params(settings: Mapping[str, Any]) -> TVL1Params:
    """Return the default parameters with some of them changed.

    Args:
        settings: Values by name. `lambda` may be written without its underscore.

    Raises:
        ValueError: If a name or a value is not one of TV-L1's.
    """
    values: dict[str, Any] = {}
    for name, value in settings.items():
        field = "lambda_" if name == "lambda" else name
        if field not in (*_NUMBERS, *_COUNTS):
            names = [_spelled(known) for known in (*_NUMBERS, *_COUNTS)]
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"TV-L1 has no parameter {name!r}{hint}: its parameters are {', '.join(names)}")

        # 1 and 1.0 are one value, and must give one fingerprint.
        whole = field in _NUMBERS and isinstance(value, int) and not isinstance(value, bool)
        values[field] = float(value) if whole else value
    return TVL1Params(**values)


def _spelled(name: str) -> str:
    return name.removesuffix("_")


def pyramid_sizes(height: int, width: int, params: TVL1Params) -> list[tuple[int, int]]:
    """Return (height, width) of each pyramid level in pixels, finest first.

    A level is `scale_step` times the one before, rounded half to even; levels end before either side
    would fall below `MIN_SIDE_PX`.
    """
    sizes = [(height, width)]
    while len(sizes) < params.num_scales:
        height, width = round(height * params.scale_step), round(width * params.scale_step)
        if min(height, width) < MIN_SIDE_PX:
            break
        sizes.append((height, width))
    return sizes
