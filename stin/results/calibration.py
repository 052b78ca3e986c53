"""Calibration: whether a stream that is 80 % sure is right on 8 of 10 videos."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stin_pipe.stin.results.intervals import Interval, Z, resample, share_interval

NUM_BINS = 15


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The videos whose highest probability lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean of the highest probability; 0 in an empty bin."""
    accuracy: float
    """Share right; 0 in an empty bin."""
    interval: Interval
    """95 % interval of the accuracy; 0 to 1 in an empty bin."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities can be taken at their word.

    Attributes:
        num_videos: that all this is counted on.
        ece: expected calibration error, the mean over videos of |accuracy - confidence| of their bin.
        nll: mean negative log probability of the label, nats.
        overconfidence: mean confidence minus accuracy.
        overconfidence_interval: its 95 % interval, over recordings.
        bins: 15 of equal width.
    """

    num_videos: int
    ece: float
    nll: float
    overconfidence: float
    overconfidence_interval: Interval
    bins: tuple[ReliabilityBin, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "overconfidence_interval": self.overconfidence_interval.to_json(),
            "bins": [asdict(item) | {"interval": item.interval.to_json()} for item in self.bins],
        }


def calibrate(
    log_probabilities_NC: np.ndarray, labels_N: np.ndarray, recordings_N: np.ndarray
) -> Calibration:
    """Compare what is said with what is right.

    Args:
        log_probabilities_NC: natural logarithms, one row a video.
        labels_N: labels in 0..C-1.
        recordings_N: recording of each video (``comparison.recording_numbers``).

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    guesses = log_probabilities_NC.argmax(1)
    confidence = np.exp(log_probabilities_NC.max(1))
    right = guesses == labels_N
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bin_N = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_BINS - 1)
    bins = []
    for index in range(NUM_BINS):
        inside = bin_N == index
        count = int(inside.sum())
        share = float(right[inside].mean()) if count else 0.0
        num_recordings = len(np.unique(recordings_N[inside]))
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else 0.0,
                accuracy=share,
                # A bin is worth no more than its recordings; of so few a bootstrap tells nothing.
                interval=share_interval(share, standard_error=0.0, largest_n=float(num_recordings))
                if count
                else Interval(low=0.0, high=1.0),
            )
        )

    gaps = sum(item.count * abs(item.accuracy - item.confidence) for item in bins)
    own = np.take_along_axis(log_probabilities_NC, labels_N[:, None], axis=1)
    excess = confidence - right
    drawn = resample(excess[:, None], np.zeros(len(labels_N), np.int64), recordings_N)
    middle, half = float(excess.mean()), Z * float(drawn.overall.std())
    return Calibration(
        num_videos=len(labels_N),
        ece=gaps / len(labels_N),
        nll=float(-own.mean()),
        overconfidence=middle,
        overconfidence_interval=Interval(low=max(-1.0, middle - half), high=min(1.0, middle + half)),
        bins=tuple(bins),
    )
