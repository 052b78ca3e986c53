"""OpenCV's CPU version of TV-L1: the yardstick for speed and error, and the fallback.

Differs from the reference: bicubic kernel with a = -0.75 at fractions of 1/32 px, zero outside the image,
half-pixel centres in the pyramid, a stop test after every iteration.
"""

from typing import Any

import numpy as np

from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.shards.errors import StinPipeError


def solve_pairs(
    pairs: list[tuple[np.ndarray, np.ndarray]], params: TVL1Params, num_threads: int
) -> np.ndarray:
    """Solve pairs of (H, W) grey frames (uint8, or float32 in 0..255); give (N, H, W, 2) float32.

    Raises:
        ValueError: If `params` asks for what OpenCV lacks.
        StinPipeError: If the installed OpenCV lacks its contrib modules.
    """
    import cv2

    optflow: Any = getattr(cv2, "optflow", None)
    if params.warm_start:
        raise ValueError("warm_start must be False for the opencv back end, got True")
    if optflow is None:
        raise StinPipeError(
            f"OpenCV {cv2.__version__} has no cv2.optflow: install opencv-contrib-python in place of "
            "opencv-python, or choose the cpu flow back end"
        )
    solver = optflow.DualTVL1OpticalFlow_create(
        tau=params.tau,
        lambda_=params.lambda_,
        theta=params.theta,
        nscales=params.num_scales,
        warps=params.num_warps,
        epsilon=params.epsilon,
        innnerIterations=params.max_iterations,
        outerIterations=1,
        scaleStep=params.scale_step,
        gamma=0.0,
        medianFiltering=max(params.median_filter, 1),
    )
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(num_threads)
    try:
        return np.stack([solver.calc(_as_cv2(a), _as_cv2(b), None) for a, b in pairs])
    finally:
        cv2.setNumThreads(threads_before)


def _as_cv2(frame: np.ndarray) -> np.ndarray:
    """OpenCV takes uint8 as it is, but multiplies float frames by 255."""
    return frame if frame.dtype == np.uint8 else frame / np.float32(255)
