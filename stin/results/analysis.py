"""Everything that is counted on one list of scored videos: accuracies with intervals, paired comparisons,
calibration, classes, confusions, and which videos only one stream gets right."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
        num_predicted: videos that the answer puts into this class.
        precision: share of these that belong here; None where there are none.
        recall: share of the class's videos that the answer puts here.
        f1: harmonic mean of precision and recall.
        intervals: 95 % intervals of ``precision`` (where there is one), ``recall`` and ``f1``.
        mistaken_for: the class that the answer most often is instead, or None.
    """

    name: str
    count: int
    right: Mapping[str, float]
    num_predicted: int
    precision: float | None
    recall: float
    f1: float
    intervals: Mapping[str, Interval]
    mistaken_for: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "class": self.name,
            "count": self.count,
            **self.right,
            "num_predicted": self.num_predicted,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "intervals": {name: found.to_json() for name, found in self.intervals.items()},
            "mistaken_for": self.mistaken_for,
        }


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Videos of ``truth`` that are answered with ``guess``."""

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

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "right_in_all": len(self.right_in_all),
            "right_alone": {name: len(ids) for name, ids in self.right_alone.items()},
            "right_in_none": len(self.right_in_none),
            "won_by_fusion": len(self.won_by_fusion),
            "lost_by_fusion": len(self.lost_by_fusion),
        }


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The numbers of one list; mappings are by stream in the order of the fusion, and ``fused`` last."""

    answer: str
    """What classes and confusions are counted of: the fusion, or the stream that stands alone."""
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
    cells: tuple[tuple[int, int, int], ...]
    """Of the confusion matrix, those that are not empty: truth, answer (labels), videos."""
    agreement: Agreement | None
    """None for one stream alone."""


def analyse(
    streams: Sequence[Scores],
    fused: FusedScores | None,
    *,
    recordings: Mapping[str, str] | None = None,
    num_listed: int | None = None,
) -> Analysis:
    """Count everything that a report shows.

    Args:
        streams: the scores that were fused, in that order; joined to ``fused`` by id.
        fused: their fusion; None for one stream alone.
        recordings: video id -> recording; a video without one is a recording of its own.
        num_listed: length of the list that was to be scored.
    """
    answer = streams[0] if fused is None else fused
    labels = answer.labels
    parts = [*streams] if fused is None else [*streams, fused]
    answers = [answers_of(scores, answer.ids) for scores in parts]
    accuracies = {item.name: accuracy(item.scores, labels, num_listed=num_listed) for item in answers}
    ranks = {item.name: label_ranks(item.scores, labels) for item in answers}
    right = {name: rank == 0 for name, rank in ranks.items()}

    # One resampling for all: two columns a stream (top-1, top-5), so that every difference is paired.
    numbers = recording_numbers(answer.ids, labels, recordings)
    drawn = resample(
        np.column_stack([rank < most for rank in ranks.values() for most in (1, 5)]), labels, numbers
    )
    column_of = {name: 2 * index for index, name in enumerate(right)}

    names = [scores.stream for scores in streams]
    pairs = [] if fused is None else [(FUSED, name) for name in names]
    pairs += list(combinations(names, 2))

    return Analysis(
        answer=answer.stream,
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
        calibration={item.name: calibrate(item.log_probabilities, labels, numbers) for item in answers},
        classes=_classes(answer, right, numbers),
        confusions=_confusions(answer),
        cells=_cells(answer),
        agreement=None if fused is None else _agreement(fused.ids, right),
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


def _classes(
    answer: Scores, right: Mapping[str, np.ndarray], recordings_N: np.ndarray
) -> tuple[ClassAccuracy, ...]:
    guesses = answer.scores.argmax(1)
    rows = []
    for label in np.unique(answer.labels):
        own, said = answer.labels == label, guesses == label
        hits = own & said
        wrong = np.bincount(guesses[own & ~said], minlength=len(answer.class_names))

        shares = {
            "recall": _share_of(hits[own], recordings_N[own]),
            # F1 is 2J / (1 + J) of the Jaccard share J, so the interval of the one gives that of the other.
            "f1": _share_of(hits[own | said], recordings_N[own | said]).mapped(lambda j: 2 * j / (1 + j)),
        }
        if said.any():
            shares["precision"] = _share_of(hits[said], recordings_N[said])

        rows.append(
            ClassAccuracy(
                name=answer.class_names[label],
                count=int(own.sum()),
                right={name: float(item[own].mean()) for name, item in right.items()},
                num_predicted=int(said.sum()),
                precision=shares["precision"].value if said.any() else None,
                recall=shares["recall"].value,
                f1=shares["f1"].value,
                intervals={name: share.interval for name, share in shares.items()},
                mistaken_for=answer.class_names[int(wrong.argmax())] if wrong.any() else None,
            )
        )
    return tuple(rows)


@dataclass(frozen=True, kw_only=True)
class _Share:
    value: float
    interval: Interval

    def mapped(self, rising: Callable[[float], float]) -> "_Share":
        """Return the same through a function that rises."""
        low, high = rising(self.interval.low), rising(self.interval.high)
        return _Share(value=rising(self.value), interval=Interval(low=low, high=high))


def _share_of(right_N: np.ndarray, recordings_N: np.ndarray) -> _Share:
    """Return a share of some of the videos, with its interval over their recordings."""
    share = float(right_N.mean())
    drawn = resample(right_N[:, None], np.zeros(len(right_N), np.int64), recordings_N)
    interval = share_interval(share, standard_error=float(drawn.overall.std()), largest_n=float(len(right_N)))
    return _Share(value=share, interval=interval)


def _cells(answer: Scores) -> tuple[tuple[int, int, int], ...]:
    pairs = Counter(zip(answer.labels.tolist(), answer.scores.argmax(1).tolist(), strict=True))
    return tuple((truth, guess, count) for (truth, guess), count in sorted(pairs.items()))


def _confusions(answer: Scores) -> tuple[Confusion, ...]:
    names, cells = answer.class_names, _cells(answer)
    totals = np.bincount(answer.labels, minlength=len(names))
    wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
    return tuple(
        Confusion(truth=names[truth], guess=names[guess], count=count, share=float(count / totals[truth]))
        for truth, guess, count in wrong[:NUM_CONFUSIONS]
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
