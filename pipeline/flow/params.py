"""Parameters of TV-L1 optical flow, and the sizes of its pyramid.

Source: Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow" (DAGM 2007), and
Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow Estimation" (IPOL 2013), whose symbols are used.
"""

import dataclasses
import math

MIN_SIDE_PX = 16
"""No pyramid level, and no frame, is smaller than this on either side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TVL1Params:
    """The parameters of one TV-L1 solve; the defaults are those of OpenCV's CUDA version.

    `num_warps` and the last four are levers on accuracy. Their defaults keep the meaning on which two-stream
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
        warm_start: In clips alone, start each pair from the field of the pair before. Reaches motion that
            persists and is too large for the pyramid; but a field then depends on its clip's earlier
            frames, so that the same pair solved alone gives another field, and one thread does the clip.
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
    warm_start: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: If a parameter is not a number of its kind, or outside its range.
        """
        for name in ("tau", "lambda_", "theta", "epsilon", "scale_step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        for name in ("num_warps", "max_iterations", "check_interval", "num_scales"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        for name in ("lambda_", "theta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
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


def pyramid_sizes(height: int, width: int, params: TVL1Params) -> list[tuple[int, int]]:
    """Give (height, width) of each pyramid level in pixels, finest first.

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
