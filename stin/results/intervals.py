"""How sure a share of right answers is: bootstrap over recordings, and intervals that stay honest at 9 of 9.

Videos cut from one recording are not independent, so recordings are drawn, not videos. For top-1 and top-5
they are drawn from the whole list; for mean class accuracy within each class, since its classes are fixed.

A percentile bootstrap sees no doubt where every answer is right, and too little in short lists (its simulated
coverage is in EXPERIMENTS.md). So the bootstrap gives the standard error here, this one the number of
independent videos that the list is worth, and that number enters Wilson's interval.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 2000
SEED = 20231173
"""Of the resampling; fixed, so that a result has one interval."""
_BLOCK = 4_000_000
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        """Return ``[low, high]``."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The means of K columns in every resampling, for the two ways of averaging."""

    overall: np.ndarray
    """float64 (resamples, K): means over videos, recordings drawn from the whole list."""
    by_class: np.ndarray
    """float64 (resamples, K): means over classes of the class's mean, recordings drawn within each class."""


def resample(
    values_NK: np.ndarray,
    labels_N: np.ndarray,
    recordings_N: np.ndarray,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Resampled:
    """Bootstrap the means of K columns over recordings; all columns see the same draws, so that differences
    of columns are paired.

    Args:
        values_NK: one row a video; shares of right answers are columns of 0 and 1.
        labels_N: class of each video.
        recordings_N: number of the recording that a video was cut from; its own number if it is alone.
        num_resamples: how often to draw.
        seed: of the draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 6 and 8. Of n recordings
    n - 1 are drawn, which makes the variance of a mean unbiased: Rao and Wu, Journal of the American
    Statistical Association 83, 1988.
    """
    values = np.asarray(values_NK, np.float64)
    rng = np.random.default_rng(seed)
    overall = _drawn_means(values, recordings_N, num_resamples, rng)
    classes = np.unique(labels_N)
    by_class = np.zeros_like(overall)
    for label in classes:
        rows = labels_N == label
        by_class += _drawn_means(values[rows], recordings_N[rows], num_resamples, rng) / len(classes)
    return Resampled(overall=overall, by_class=by_class)


def share_interval(share: float, *, standard_error: float, largest_n: float) -> Interval:
    """Return Wilson's interval for a share, at the number of independent videos that its bootstrap implies.

    Args:
        share: the share, 0..1.
        standard_error: of the share, from the bootstrap.
        largest_n: the list is worth no more independent videos than this; used alone where the bootstrap
            sees no spread.

    Source: Wilson, Journal of the American Statistical Association 22, 1927; with an effective sample size,
    Korn and Graubard, Survey Methodology 24, 1998.
    """
    spread = share * (1 - share)
    n = largest_n
    if spread > 0 and standard_error > 0:
        n = min(largest_n, spread / standard_error**2)
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(spread / n + Z**2 / (4 * n * n))
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))


def difference_interval(
    difference: float, *, standard_error: float, disagreement: float, largest_n: float
) -> Interval:
    """Return an interval for the difference of two shares of the same videos.

    Args:
        difference: first share minus second share.
        standard_error: of the difference, from the bootstrap.
        disagreement: share of the videos that exactly one of the two gets right.
        largest_n: as in ``share_interval``.

    Source: Agresti and Min, Statistics in Medicine 24, 2005 (half a video added to each cell), with the
    bootstrap's standard error where that is larger.
    """
    n = largest_n + 2
    middle = difference * largest_n / n
    variance = (disagreement * largest_n + 1) / n - middle**2
    half = Z * max(standard_error, math.sqrt(variance / n))
    return Interval(low=max(-1.0, middle - half), high=min(1.0, middle + half))


def exact_mcnemar(first_alone: int, second_alone: int) -> float:
    """Return the two-sided exact p of McNemar's test: would a fair coin share out the videos that only one
    gets right as unevenly as this?

    It takes the videos for independent, which the intervals do not.

    Source: McNemar, Psychometrika 12, 1947; exact as the sign test.
    """
    total = first_alone + second_alone
    tail = sum(math.comb(total, k) for k in range(min(first_alone, second_alone) + 1))
    return min(1.0, 2 * tail / 2**total)


def worth_by_class(labels_N: np.ndarray) -> float:
    """Return the most videos that a mean over classes can be worth: the number of classes times the harmonic
    mean of their sizes, because a class of few videos weighs as much as one of many."""
    counts = np.bincount(labels_N)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / np.sum(1 / counts))


def _drawn_means(
    values_NK: np.ndarray, recordings_N: np.ndarray, num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    _, row_N = np.unique(recordings_N, return_inverse=True)
    num = int(row_N.max()) + 1
    # The last column counts the videos, since recordings differ in length.
    sums = np.zeros((num, values_NK.shape[1] + 1))
    np.add.at(sums, row_N, np.column_stack([values_NK, np.ones(len(values_NK))]))
    if num == 1:  # nothing to draw from
        return np.repeat(sums[:, :-1] / sums[:, -1:], num_resamples, axis=0)

    # In blocks of resamplings: the drawn numbers of all at once would take gigabytes on a long list.
    parts = []
    for start in range(0, num_resamples, max(1, _BLOCK // num)):
        size = min(max(1, _BLOCK // num), num_resamples - start)
        drawn = rng.integers(num, size=(size, num - 1)) + num * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num).reshape(size, num)
        totals = counts @ sums
        parts.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(parts)
