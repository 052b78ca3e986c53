"""OpenCV's CPU version of TV-L1: the yardstick for speed and error, and the fallback.

Differs from the reference: bicubic kernel with a = -0.75 at fractions of 1/32 px, zero outside the image,
half-pixel centres in the pyramid, a stop test after every iteration.
"""

from typing import Any

import numpy as np

from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.shards.errors import StinPipeError


def solve(frames0: np.ndarray, frames1: np.ndarray, params: TVL1Params, num_threads: int) -> TracedFlow:
    """Solve N pairs of checked (N, H, W) frames, one after another; see `backends.solve`.

    Raises:
        StinPipeError: If the installed OpenCV lacks its contrib modules.
    """
    import cv2

    optflow: Any = getattr(cv2, "optflow", None)
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
        innnerIterations=params.max_iterations,  # OpenCV's own spelling
        outerIterations=1,
        scaleStep=params.scale_step,
        gamma=0.0,
        medianFiltering=max(params.median_filter, 1),
    )

    # The number is one of the whole process, and others rely on it.
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(num_threads)
    try:
        pairs = zip(frames0, frames1, strict=True)
        flow = np.stack([solver.calc(_as_cv2(a), _as_cv2(b), None) for a, b in pairs])
    finally:
        cv2.setNumThreads(threads_before)
    return TracedFlow(flow=flow, iterations=None)


def _as_cv2(frame: np.ndarray) -> np.ndarray:
    """OpenCV takes uint8 as it is, but multiplies float frames by 255."""
    return frame if frame.dtype == np.uint8 else frame / np.float32(255)
