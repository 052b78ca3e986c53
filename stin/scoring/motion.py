"""How much moves in a video, and so whether its flow can tell anything."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stin_pipe.stin.clips.read_clips import ClipShape, ClipSource
from stin_pipe.stin.shards.codec import dequantise_flow

MAX_FIELDS = 48
"""Fields to look at, evenly spaced, so that a long video costs no more than a short one."""
SPEED_SHARE = 0.5 / 256
"""A pixel moves if it covers this share of the short side in a frame (half a pixel of 256), and at least half
a pixel: below that, the flow of small pictures follows the noise of camera and codec."""
LEAST_SPEED_PX = 0.5
LEAST_MOVING = 0.002
"""Share of pixels, over all fields, that must move; with less there is too little motion to tell."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What moves in one video.

    Attributes:
        num_fields: flow fields of the video.
        mean_px: mean length of the motion, pixels a frame at the stored size.
        moving_share: share of pixels, over the fields looked at, that move (see ``SPEED_SHARE``).
    """

    num_fields: int
    mean_px: float
    moving_share: float

    def doubt(self, *, stack_len: int) -> str:
        """Return why the temporal stream cannot tell much, or an empty text.

        Args:
            stack_len: fields of one clip of the temporal stream.
        """
        if self.num_fields == 0:
            return "a single frame has no motion: only the spatial stream answers"
        few = f"{self.num_fields} flow fields do not fill a stack of {stack_len}"
        if self.moving_share < LEAST_MOVING:
            still = (
                f"{100 * self.moving_share:.2g} % of the picture moves (less than {100 * LEAST_MOVING:g} %)"
            )
            return f"too little motion to tell: {still}" + (
                f", and {few}" if self.num_fields < stack_len else ""
            )
        return f"too few frames to tell: {few}" if self.num_fields < stack_len else ""

    def to_json(self, *, stack_len: int) -> dict[str, Any]:
        """Return plain JSON values, with the doubt as a sentence."""
        return asdict(self) | {"doubt": self.doubt(stack_len=stack_len)}


def measure_motion(source: ClipSource, video: ClipShape) -> Motion:
    """Measure the motion of a video by up to 48 of its fields."""
    num_fields = video.num_frames - 1
    if num_fields < 1:
        return Motion(num_fields=0, mean_px=0.0, moving_share=0.0)
    chosen = np.unique(np.linspace(0, num_fields - 1, min(num_fields, MAX_FIELDS)).round().astype(int))
    coding = source.flow_coding(video.id)
    fields_N2HW = dequantise_flow(source.read_flow(video.id, chosen.tolist()), coding)
    length_NHW = np.hypot(fields_N2HW[:, 0], fields_N2HW[:, 1])
    limit_px = max(LEAST_SPEED_PX, SPEED_SHARE * min(video.height, video.width))
    return Motion(
        num_fields=num_fields,
        mean_px=float(length_NHW.mean()),
        moving_share=float((length_NHW >= limit_px).mean()),
    )
