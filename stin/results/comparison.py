"""Two sets of answers on the same videos, compared video by video."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stin_pipe.stin.results.intervals import (
    Interval,
    Resampled,
    difference_interval,
    exact_mcnemar,
    resample,
    worth_by_class,
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First minus second, with a 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sets of answers on the same videos.

    Attributes:
        first, second: their names.
        top1, mean_class: difference of the accuracies.
        num_both, num_first_alone, num_second_alone, num_neither: videos that both, one or neither gets right.
        mcnemar_p: two-sided exact p of the hypothesis that both are right equally often.
    """

    first: str
    second: str
    top1: Difference
    mean_class: Difference
    num_both: int
    num_first_alone: int
    num_second_alone: int
    num_neither: int
    mcnemar_p: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value = asdict(self)
        for name in ("top1", "mean_class"):
            difference: Difference = getattr(self, name)
            value[name] = {"difference": difference.value, "interval": difference.interval.to_json()}
        return value


def compare(
    first: str,
    first_right_N: np.ndarray,
    second: str,
    second_right_N: np.ndarray,
    labels_N: np.ndarray,
    recordings_N: np.ndarray,
) -> Comparison:
    """Compare two sets of answers.

    Args:
        first, second: their names.
        first_right_N, second_right_N: whether each video's answer is right.
        labels_N: class of each video.
        recordings_N: recording of each video (``recording_numbers``).
    """
    drawn = resample(np.column_stack([first_right_N, second_right_N]), labels_N, recordings_N)
    return compare_drawn(first, first_right_N, second, second_right_N, labels_N, drawn=drawn, columns=(0, 1))


def compare_drawn(
    first: str,
    first_right_N: np.ndarray,
    second: str,
    second_right_N: np.ndarray,
    labels_N: np.ndarray,
    *,
    drawn: Resampled,
    columns: tuple[int, int],
) -> Comparison:
    """Compare two sets of answers that are resampled already, in these two columns of `drawn`."""
    signed = first_right_N.astype(np.int64) - second_right_N.astype(np.int64)
    alone = int((signed > 0).sum()), int((signed < 0).sum())
    both = int((first_right_N & second_right_N).sum())

    per_class = [signed[labels_N == label] for label in np.unique(labels_N)]

    # The deviation of the differences, not the difference of deviations: both saw the same recordings.
    overall, by_class = (
        float((means[:, columns[0]] - means[:, columns[1]]).std())
        for means in (drawn.overall, drawn.by_class)
    )

    return Comparison(
        first=first,
        second=second,
        top1=_difference(float(signed.mean()), float(np.abs(signed).mean()), overall, float(len(labels_N))),
        mean_class=_difference(
            float(np.mean([part.mean() for part in per_class])),
            float(np.mean([np.abs(part).mean() for part in per_class])),
            by_class,
            worth_by_class(labels_N),
        ),
        num_both=both,
        num_first_alone=alone[0],
        num_second_alone=alone[1],
        num_neither=len(signed) - both - sum(alone),
        mcnemar_p=exact_mcnemar(*alone),
    )


def recording_numbers(
    ids: Sequence[str], labels_N: np.ndarray, recordings: Mapping[str, str] | None
) -> np.ndarray:
    """Return the number of each video's recording, int64 (N,).

    A name that occurs in two classes stands for two recordings: data sets number them from 1 in each class.
    """
    names = recordings or {}
    keys = [
        (int(label), names.get(video_id) or f"\0{video_id}")  # no recording is called so
        for video_id, label in zip(ids, labels_N, strict=True)
    ]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([number_of[key] for key in keys], np.int64)


def _difference(value: float, disagreement: float, standard_error: float, largest_n: float) -> Difference:
    interval = difference_interval(
        value, standard_error=standard_error, disagreement=disagreement, largest_n=largest_n
    )
    return Difference(value=value, interval=interval)
