"""Everything that is counted on one list of scored videos: accuracies with intervals, paired comparisons,
calibration, classes, confusions, and which videos only one stream gets right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from stin_pipe.stin.results.calibration import Calibration, calibrate
from stin_pipe.stin.results.comparison import Comparison, compare_drawn, recording_numbers
from stin_pipe.stin.results.intervals import Interval, Resampled, resample, share_interval, worth_by_class
from stin_pipe.stin.scoring.fusion import FUSED, Accuracy, FusedScores, accuracy, label_ranks
from stin_pipe.stin.scoring.scores import Scores

NUM_CONFUSIONS = 20
NUM_LIKELIEST = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one stream, or the fusion, answers for N videos.

    Attributes:
        name: of the stream, or ``fused``.
        scores: float (N, C), the highest wins.
        log_probabilities: float64 (N, C).
    """

    name: str
    scores: np.ndarray
    log_probabilities: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """One class of the test list.

    Attributes:
        name: of the class.
        count: scored videos.
        right: stream -> share of its videos that are right, ``fused`` among them.
        mistaken_for: the class that the fusion most often answers instead, or None.
    """

    name: str
    count: int
    right: Mapping[str, float]
    mistaken_for: str | None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Videos of ``truth`` for which the fusion answers ``guess``."""

    truth: str
    guess: str
    count: int
    share: float
    """Of the videos of ``truth``."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Which videos the streams get right, as ids in the order of the list."""

    right_in_all: tuple[str, ...]
    right_alone: Mapping[str, tuple[str, ...]]
    """Stream -> videos that it alone gets right."""
    right_in_none: tuple[str, ...]
    won_by_fusion: tuple[str, ...]
    """No stream is right, but the fusion is."""
    lost_by_fusion: tuple[str, ...]
    """At least one stream is right, but the fusion is not."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The numbers of one list; mappings are by stream in the order of the fusion, and ``fused`` last."""

    accuracies: Mapping[str, Accuracy]
    intervals: Mapping[str, Mapping[str, Interval]]
    """Stream -> ``top1``, ``top5``, ``mean_class``."""
    num_recordings: int
    """Recordings that the videos were cut from; the intervals resample these."""
    comparisons: tuple[Comparison, ...]
    """The fusion against each stream, then each pair of streams."""
    calibration: Mapping[str, Calibration]
    classes: tuple[ClassAccuracy, ...]
    """Those with a scored video, in order of label."""
    confusions: tuple[Confusion, ...]
    """Most frequent first, at most 20."""
    agreement: Agreement


def analyse(
    streams: Sequence[Scores],
    fused: FusedScores,
    *,
    recordings: Mapping[str, str] | None = None,
    num_listed: int | None = None,
) -> Analysis:
    """Count everything that a report shows.

    Args:
        streams: the scores that were fused, in that order; joined to ``fused`` by id.
        fused: their fusion.
        recordings: video id -> recording; a video without one is a recording of its own.
        num_listed: length of the list that was to be scored.
    """
    labels = fused.labels
    answers = [answers_of(scores, fused.ids) for scores in (*streams, fused)]
    accuracies = {answer.name: accuracy(answer.scores, labels, num_listed=num_listed) for answer in answers}
    ranks = {answer.name: label_ranks(answer.scores, labels) for answer in answers}
    right = {name: rank == 0 for name, rank in ranks.items()}

    # One resampling for all: two columns a stream (top-1, top-5), so that every difference is paired.
    numbers = recording_numbers(fused.ids, labels, recordings)
    drawn = resample(
        np.column_stack([rank < most for rank in ranks.values() for most in (1, 5)]), labels, numbers
    )
    column_of = {name: 2 * index for index, name in enumerate(right)}

    names = [scores.stream for scores in streams]
    pairs = [(FUSED, name) for name in names] + list(combinations(names, 2))

    return Analysis(
        accuracies=accuracies,
        intervals=_intervals(accuracies, drawn, labels),
        num_recordings=len(np.unique(numbers)),
        comparisons=tuple(
            compare_drawn(
                first,
                right[first],
                second,
                right[second],
                labels,
                drawn=drawn,
                columns=(column_of[first], column_of[second]),
            )
            for first, second in pairs
        ),
        calibration={answer.name: calibrate(answer.log_probabilities, labels) for answer in answers},
        classes=_classes(fused, right),
        confusions=_confusions(fused),
        agreement=_agreement(fused.ids, right),
    )


def answers_of(scores: Scores, ids: Sequence[str]) -> Answers:
    """Return what a stream or the fusion answers for these videos, in their order."""
    row_of = {video_id: row for row, video_id in enumerate(scores.ids)}
    rows = [row_of[video_id] for video_id in ids]
    return Answers(
        name=scores.stream, scores=scores.scores[rows], log_probabilities=scores.log_probabilities()[rows]
    )


def likeliest(answers: Answers, row: int, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the five likeliest classes of one video as JSON values, the likeliest first."""
    order = np.argsort(-answers.scores[row], kind="stable")[:NUM_LIKELIEST]
    return [
        {
            "class": class_names[label],
            "score": float(answers.scores[row, label]),
            "probability": round(float(np.exp(answers.log_probabilities[row, label])), 6),
        }
        for label in order
    ]


def _intervals(
    accuracies: Mapping[str, Accuracy], drawn: Resampled, labels_N: np.ndarray
) -> dict[str, dict[str, Interval]]:
    """Return the intervals of each stream; `drawn` has two columns a stream, its top-1 and its top-5."""
    num = float(len(labels_N))
    largest_n = {"top1": num, "top5": num, "mean_class": worth_by_class(labels_N)}
    overall, by_class = drawn.overall.std(0), drawn.by_class.std(0)
    errors = {"top1": overall[0::2], "top5": overall[1::2], "mean_class": by_class[0::2]}
    return {
        name: {
            metric: share_interval(
                getattr(value, metric),
                standard_error=float(errors[metric][index]),
                largest_n=largest_n[metric],
            )
            for metric in largest_n
        }
        for index, (name, value) in enumerate(accuracies.items())
    }


def _classes(fused: FusedScores, right: Mapping[str, np.ndarray]) -> tuple[ClassAccuracy, ...]:
    guesses = fused.scores.argmax(1)
    rows = []
    for label in np.unique(fused.labels):
        own = fused.labels == label
        wrong = np.bincount(guesses[own], minlength=len(fused.class_names))
        wrong[label] = 0
        rows.append(
            ClassAccuracy(
                name=fused.class_names[label],
                count=int(own.sum()),
                right={name: float(hits[own].mean()) for name, hits in right.items()},
                mistaken_for=fused.class_names[int(wrong.argmax())] if wrong.any() else None,
            )
        )
    return tuple(rows)


def _confusions(fused: FusedScores) -> tuple[Confusion, ...]:
    num = len(fused.class_names)
    guesses = fused.scores.argmax(1)
    counts = np.bincount(fused.labels * num + guesses, minlength=num * num).reshape(num, num)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [divmod(int(cell), num) for cell in order]
    return tuple(
        Confusion(
            truth=fused.class_names[truth],
            guess=fused.class_names[guess],
            count=int(wrong[truth, guess]),
            share=float(wrong[truth, guess] / counts[truth].sum()),
        )
        for truth, guess in pairs
        if wrong[truth, guess]
    )


def _agreement(ids: tuple[str, ...], right: Mapping[str, np.ndarray]) -> Agreement:
    streams = [name for name in right if name != FUSED]
    table_SN = np.stack([right[name] for name in streams])
    num_right = table_SN.sum(0)

    def ids_where(mask: np.ndarray) -> tuple[str, ...]:
        return tuple(ids[row] for row in np.flatnonzero(mask))

    return Agreement(
        right_in_all=ids_where(num_right == len(streams)),
        right_alone={
            name: ids_where((num_right == 1) & is_right)
            for name, is_right in zip(streams, table_SN, strict=True)
        },
        right_in_none=ids_where(num_right == 0),
        won_by_fusion=ids_where((num_right == 0) & right[FUSED]),
        lost_by_fusion=ids_where((num_right > 0) & ~right[FUSED]),
    )
