"""Scores of another program, joined to a run's list, or compared by the labels in their own file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stin_pipe.stin.results.score_files import ScoreTable, label_text, read_score_table
from stin_pipe.stin.scoring.fusion import name_some
from stin_pipe.stin.scoring.scores import SCORES, Kind, Scores
from stin_pipe.stin.shards.bounded import read_bytes
from stin_pipe.stin.shards.errors import StinPipeError

MAX_SCORE = 1e30
"""Fits into float32, with room for sums."""
SUM_TOLERANCE = 1e-3
"""By how much the sum of probabilities may be off that are written with many digits, or stored as float16."""
MAX_DIGITS = 6
PROBABILITIES_TAKEN = "probabilities, taken as their logarithms"
LEAST_PROBABILITY = 1e-12
"""Stands for a probability of zero, whose logarithm would decide every fusion."""


def read_foreign_scores(
    path: Path,
    *,
    stream: str,
    labels: Mapping[str, int],
    class_names: Sequence[str],
    scores_as: Kind | None = None,
    notify: Callable[[str], None] = lambda _message: None,
) -> Scores:
    """Read the scores of one stream on a run's list.

    Args:
        path: ``.npz``, ``.json`` or ``.csv``.
        stream: name that the scores get.
        labels: the run's list: video id -> label.
        class_names: the run's classes by label.
        scores_as: what the scores are where neither the file nor its numbers tell.
        notify: called with what is assumed where the file does not say.

    Raises:
        StinPipeError: if the file is missing, pickled or damaged; if its videos are not exactly the list's,
            each once, with the list's labels and finite scores up to 1e30 for the run's classes; or if it is
            open what the scores are.
    """
    stored = read_score_table(path)
    table = _in_class_order(path, stored, class_names)
    if stored.classes is None:
        notify(
            f"{path}: names no classes; its columns are taken to be in the run's class order "
            f"({', '.join(class_names[:3])}{', ...' if len(class_names) > 3 else ''})"
        )

    # All of it, before anything is joined: a file of another split often has some of its videos in common.
    _check_videos(path, table.ids, labels)
    _check_labels(path, table, labels, class_names)
    _check_values(path, table)

    # As logits, all streams mean the same in a fusion before softmax.
    are_probabilities = _told_kind(path, table, scores_as) == "probabilities"
    logits = np.log(np.maximum(table.scores, LEAST_PROBABILITY)) if are_probabilities else table.scores
    return Scores(
        ids=tuple(table.ids),
        labels=np.array([labels[video_id] for video_id in table.ids], np.int64),
        class_names=tuple(class_names),
        scores=logits.astype(np.float32),
        stream=stream,
        protocol={
            "file": str(path),
            "sha256": hashlib.sha256(read_bytes(path, SCORES)).hexdigest(),
            "values": PROBABILITIES_TAKEN if are_probabilities else "before softmax",
        },
    )


def read_labelled_scores(path: Path) -> Scores:
    """Read a score file that holds labels and classes itself, so that it needs no run beside it.

    Raises:
        StinPipeError: if it is missing, pickled or damaged, does not name its classes and labels, or has
            scores that are not finite.
    """
    table = read_score_table(path)
    if table.classes is None or table.labels is None:
        missing = " and ".join(
            name for name, value in (("classes", table.classes), ("labels", table.labels)) if value is None
        )
        raise StinPipeError(
            f"{path}: has no {missing}, without which it cannot be compared; add them (a column label in a "
            ".csv; arrays labels and classes in an .npz or .json)"
        )

    table = _in_class_order(path, table, table.classes)
    _check_values(path, table)
    assert table.classes is not None and table.labels is not None
    unknown = {label_text(label) for label in table.labels} - set(table.classes)
    if unknown:
        raise StinPipeError(f"{path}: {len(unknown)} labels are not among its classes: {name_some(unknown)}")
    return Scores(
        ids=tuple(table.ids),
        labels=np.array([table.classes.index(label_text(label)) for label in table.labels], np.int64),
        class_names=tuple(table.classes),
        scores=table.scores.astype(np.float32),
        kind=kind_of(table) or "logits",
        stream=path.stem,
    )


def _in_class_order(path: Path, table: ScoreTable, class_names: Sequence[str]) -> ScoreTable:
    """Return the table with its columns, and labels that are numbers, in the run's class order.

    Raises:
        StinPipeError: the file's classes are not the run's.
    """
    if table.classes is None:
        if table.scores.shape[1] != len(class_names):
            raise StinPipeError(
                f"{path}: scores of {table.scores.shape[1]} classes, but the run has {len(class_names)} "
                f"({', '.join(class_names[:3])}, ...); give the scores of the run's classes"
            )
        return table

    if len(table.classes) != table.scores.shape[1]:
        raise StinPipeError(
            f"{path}: {len(table.classes)} class names, but scores of {table.scores.shape[1]} classes"
        )
    twice = {name for name, count in Counter(table.classes).items() if count > 1}
    if twice:
        raise StinPipeError(f"{path}: {len(twice)} classes are named more than once: {name_some(twice)}")
    unknown, missing = set(table.classes) - set(class_names), set(class_names) - set(table.classes)
    if unknown or missing:
        parts = [f"{len(unknown)} classes are not in the run: {name_some(unknown)}"] if unknown else []
        parts += [f"{len(missing)} classes of the run are missing: {name_some(missing)}"] if missing else []
        raise StinPipeError(f"{path}: {'; '.join(parts)}; name the classes as the run does")

    columns = [table.classes.index(name) for name in class_names]
    # A number as a label is an index into the file's own classes, in whatever order those are.
    labels = table.labels
    if labels is not None:
        labels = [
            table.classes[item] if isinstance(item, int) and 0 <= item < len(columns) else item
            for item in labels
        ]
    return replace(table, scores=table.scores[:, columns], labels=labels, classes=list(class_names))


def kind_of(table: ScoreTable) -> Kind | None:
    """Return what the scores are; None where neither the file nor its numbers tell.

    Rows in [0, 1] that sum to 1, as nearly as the digits they are written with allow, are probabilities.
    Rows in [0, 1] with other sums, and percentages, might be one or the other.
    """
    if table.kind is not None:
        return table.kind
    if (table.scores < 0).any():
        return "logits"
    for total in (1.0, 100.0):
        sums = table.scores.sum(1) / total
        if np.abs(sums - 1).max(initial=0) <= _rounding(table.scores, total):
            return "probabilities" if total == 1.0 else None
    return None if (table.scores <= 1).all() else "logits"


def _rounding(scores: np.ndarray, total: float) -> float:
    """Return by how much rounding to the digits that are written may move the sum of a row, as a share."""
    for digits in range(1, MAX_DIGITS + 1):
        if np.allclose(scores, scores.round(digits), rtol=0, atol=10.0**-digits / 1000):
            return max(SUM_TOLERANCE, scores.shape[1] * 0.5 * 10.0**-digits / total)
    return SUM_TOLERANCE


def _told_kind(path: Path, table: ScoreTable, scores_as: Kind | None) -> Kind:
    kind = kind_of(table) or scores_as
    if kind is not None:
        return kind
    sums = table.scores.sum(1)
    raise StinPipeError(
        f"{path}: its numbers do not tell probabilities from scores before softmax (all lie in "
        f"{table.scores.min():g} to {table.scores.max():g}, and rows sum to {sums.min():g} to "
        f"{sums.max():g}); give --scores-as probabilities or --scores-as logits, or rows that sum to 1"
    )


def _check_videos(path: Path, ids: Sequence[str], labels: Mapping[str, int]) -> None:
    _refuse(path, {name for name, count in Counter(ids).items() if count > 1}, "are scored more than once")
    example = next(iter(labels), "")
    _refuse(
        path,
        set(ids) - set(labels),
        f"are not on the evaluated list (whose ids look like {example!r})",
    )
    _refuse(path, set(labels) - set(ids), "of the evaluated list have no scores")


def _check_values(path: Path, table: ScoreTable) -> None:
    usable = (np.abs(table.scores) <= MAX_SCORE).all(axis=1)  # False for nan, too
    _refuse(
        path,
        {table.ids[row] for row in np.flatnonzero(~usable)},
        f"have scores that are not finite or beyond {MAX_SCORE:g}",
    )


def _check_labels(
    path: Path, table: ScoreTable, labels: Mapping[str, int], class_names: Sequence[str]
) -> None:
    if table.labels is None:
        return
    differing = {
        video_id
        for video_id, label in zip(table.ids, table.labels, strict=True)
        if label != labels[video_id] and label_text(label) != class_names[labels[video_id]]
    }
    _refuse(path, differing, "have a different label in the run")


def _refuse(path: Path, ids: set[str], what: str) -> None:
    if ids:
        raise StinPipeError(
            f"{path}: {len(ids)} videos {what}: {name_some(ids)}; correct the file and give it again"
        )
