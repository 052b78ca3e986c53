"""Calibration: whether a stream that is 80 % sure is right on 8 of 10 videos."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities can be taken at their word.

    Attributes:
        ece: expected calibration error, the mean over videos of |accuracy - confidence| of their bin.
        nll: mean negative log probability of the label, nats.
        bins: 15 of equal width.
    """

    ece: float
    nll: float
    bins: tuple[ReliabilityBin, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"bins": [asdict(item) for item in self.bins]}


def calibrate(log_probabilities_NC: np.ndarray, labels_N: np.ndarray) -> Calibration:
    """Compare what is said with what is right.

    Args:
        log_probabilities_NC: natural logarithms, one row a video.
        labels_N: labels in 0..C-1.

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
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else 0.0,
                accuracy=float(right[inside].mean()) if count else 0.0,
            )
        )
    gaps = sum(item.count * abs(item.accuracy - item.confidence) for item in bins)
    own = np.take_along_axis(log_probabilities_NC, labels_N[:, None], axis=1)
    return Calibration(ece=gaps / len(labels_N), nll=float(-own.mean()), bins=tuple(bins))
