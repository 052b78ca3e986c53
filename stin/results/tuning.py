"""Choose the fusion weights on the held-out part of the training list; the test list is never read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stin_pipe.stin.results.comparison import recording_numbers
from stin_pipe.stin.results.intervals import Interval, resample, share_interval
from stin_pipe.stin.scoring.fusion import FusionPoint, accuracy, fuse
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError

GRID = tuple(round(0.05 * step, 2) for step in range(21))
"""Shares of the temporal stream to try: 0 is the spatial stream alone, 1 the temporal alone."""
DEFAULT_SHARE = 0.6
"""TSN's 1 : 1.5."""
MIN_VIDEOS = 10
RULE = (
    "the highest held-out top-1 on a grid of 21 shares of the temporal stream from 0 to 1 in steps of 0.05; "
    "of equal ones the share nearest to 0.6 (1 : 1.5), and of two equally near ones the smaller"
)


@dataclass(frozen=True, kw_only=True)
class TuningPoint:
    """The held-out part fused with one weight."""

    temporal_share: float
    top1: float
    mean_class: float
    nll: float
    """Mean negative log probability of the label, nats; shown, but not used for the choice."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A weight, and the curve that it was chosen from.

    Attributes:
        curve: one point a share of ``GRID``.
        temporal_share: the chosen one.
        weights: spatial and temporal, summing to 1.
        num_videos: held-out videos that neither stream was trained on.
        top1: held-out top-1 with the chosen weight; it looks too good, because it made the choice.
        interval: its 95 % interval.
        rule: how it was chosen, in words.
    """

    curve: tuple[TuningPoint, ...]
    temporal_share: float
    weights: tuple[float, float]
    num_videos: int
    top1: float
    interval: Interval
    rule: str = RULE

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "curve": [asdict(point) for point in self.curve],
            "weights": list(self.weights),
            "interval": self.interval.to_json(),
        }


def tune_fusion(
    spatial: Scores,
    temporal: Scores,
    *,
    when: FusionPoint,
    recordings: Mapping[str, str] | None = None,
) -> Tuning:
    """Choose the share of the temporal stream by the held-out videos' top-1.

    Args:
        spatial: scores of held-out videos of the training list.
        temporal: scores of the same videos.
        when: where the mean is taken, as in the later fusion.
        recordings: video id -> recording, for the interval.

    Raises:
        StinPipeError: if there are fewer than 10 videos, or they do not join.
    """
    if len(spatial.ids) < MIN_VIDEOS:
        raise StinPipeError(
            f"--tune-fusion: {len(spatial.ids)} held-out videos are too few to choose weights on (at least "
            f"{MIN_VIDEOS}); train both streams with a larger --val-share, or leave --tune-fusion out"
        )

    # A grid, not an optimiser: with some dozen videos top-1 is a staircase, and the whole curve is shown.
    curve, rights = [], []
    for share in GRID:
        fused = fuse(spatial, temporal, weights=(1 - share, share), when=when)
        shares = accuracy(fused.scores, fused.labels)
        own = np.take_along_axis(fused.log_probabilities(), fused.labels[:, None], axis=1)
        rights.append(fused.scores.argmax(1) == fused.labels)
        curve.append(
            TuningPoint(
                temporal_share=share, top1=shares.top1, mean_class=shares.mean_class, nll=float(-own.mean())
            )
        )

    # Rounded, because 0.65 and 0.55 are equally near to 0.6 only on paper.
    best = min(
        range(len(GRID)), key=lambda i: (-curve[i].top1, round(abs(GRID[i] - DEFAULT_SHARE), 6), GRID[i])
    )

    numbers = recording_numbers(spatial.ids, spatial.labels, recordings)
    drawn = resample(rights[best][:, None], spatial.labels, numbers)
    return Tuning(
        curve=tuple(curve),
        temporal_share=GRID[best],
        weights=(round(1 - GRID[best], 2), GRID[best]),
        num_videos=len(spatial.ids),
        top1=curve[best].top1,
        interval=share_interval(
            curve[best].top1,
            standard_error=float(drawn.overall.std()),
            largest_n=float(len(spatial.ids)),
        ),
    )
