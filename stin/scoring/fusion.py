"""Join the streams' scores by video, fuse them, and count how often they are right.

Joining by position is the classic silent mistake of two-stream code; here ids decide, and whatever does not
join is an error that lists it.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from stin_pipe.stin.scoring.scores import Scores, softmax
from stin_pipe.stin.shards.errors import StinPipeError, and_more

TSN_WEIGHTS = (1.0, 1.5)
"""Spatial and temporal weight of TSN (Wang et al., ECCV 2016, section 4.1)."""
MAX_WEIGHT = 1e6
"""Far beyond any use, and far from what overflows."""
MAX_LISTED = 5
FUSED = "fused"
"""Name of the fusion beside the streams' names."""

FusionPoint = Literal["before_softmax", "after_softmax"]


@dataclass(frozen=True, kw_only=True)
class FusedScores(Scores):
    """The fused scores of N videos, in the order of the first stream's.

    Attributes:
        weights: one a stream, in the order in which the streams were given.
        when: whether logits or probabilities were averaged, and so what the scores are.
    """

    weights: tuple[float, ...]
    when: FusionPoint


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often the scores are right, 0..1.

    Attributes:
        top1: share of the scored videos whose label scores highest.
        top5: share whose label is among the five highest.
        mean_class: mean of each class's top-1 share, over the classes with a scored video.
        top1_of_listed: top-1 if every listed video without a score counts as wrong.
        num_scored: videos with scores.
        num_listed: videos of the list.
    """

    top1: float
    top5: float
    mean_class: float
    top1_of_listed: float
    num_scored: int
    num_listed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def fuse(
    *streams: Scores,
    weights: tuple[float, ...] = TSN_WEIGHTS,
    when: FusionPoint = "before_softmax",
) -> FusedScores:
    """Return the weighted mean of the streams' scores, joined by video id.

    Args:
        streams: scores of the spatial and the temporal stream, and of any others; each with its videos in any
            order.
        weights: of the streams in that order; only their ratios matter.
        when: whether logits or probabilities are averaged.

    Raises:
        ValueError: for weights that are negative, too large, all zero, or not one a stream.
        StinPipeError: if a video is missing from a stream, occurs twice, has two labels, or a score is not
            finite; if the streams have different classes. The message lists the first videos.
    """
    check_weights(weights, names=[scores.stream for scores in streams])
    first = streams[0]
    _check_stream(first)
    rows = [np.arange(len(first.ids))] + [_joined_rows(first, other) for other in streams[1:]]
    fused = weighted_mean(
        [_logits(scores)[row] for scores, row in zip(streams, rows, strict=True)], weights, when=when
    )

    return FusedScores(
        ids=first.ids,
        labels=first.labels,
        class_names=first.class_names,
        scores=np.asarray(fused, np.float32),
        kind="logits" if when == "before_softmax" else "probabilities",
        stream=FUSED,
        protocol={"weights": list(weights), "when": when},
        weights=tuple(weights),
        when=when,
    )


def mean_of_members(members: Sequence[Scores], *, when: FusionPoint) -> Scores:
    """Return the scores of an ensemble: the mean over models of one stream, joined by video id.

    The mean is taken where the streams are fused afterwards, so that an ensemble is fused as its members
    would be: of logits before softmax, of probabilities after it.

    Args:
        members: scores of one stream by each model.
        when: where the streams are fused.

    Raises:
        StinPipeError: the members do not hold the same videos, labels and classes.
    """
    first = members[0]
    if len(members) == 1:
        return first
    rows = [np.arange(len(first.ids))] + [_joined_rows(first, other) for other in members[1:]]
    parts = [_logits(scores)[row] for scores, row in zip(members, rows, strict=True)]
    digests = "\n".join(scores.model_digest for scores in members)
    return Scores(
        ids=first.ids,
        labels=first.labels,
        class_names=first.class_names,
        scores=np.asarray(weighted_mean(parts, [1.0] * len(parts), when=when), np.float32),
        kind="logits" if when == "before_softmax" else "probabilities",
        stream=first.stream,
        protocol={**first.protocol, "num_members": len(members)},
        model_digest=hashlib.sha256(digests.encode()).hexdigest(),
    )


def weighted_mean(
    logits: Sequence[np.ndarray], weights: Sequence[float], *, when: FusionPoint = "before_softmax"
) -> np.ndarray:
    """Return the fusion of streams whose rows are the same videos in the same order: float64 (N, C).

    Args:
        logits: (N, C) of each stream.
        weights: of the streams in that order; only their ratios matter.
        when: ``before_softmax`` gives mean logits, ``after_softmax`` mean probabilities.
    """
    # In float64, so that the order of the streams and the scale of the weights do not show in the result.
    parts = [part.astype(np.float64) for part in logits]
    if when == "after_softmax":
        parts = [softmax(part) for part in parts]
    total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return np.asarray(total / sum(weights))


def check_weights(weights: Sequence[float], *, names: Sequence[str]) -> None:
    """Refuse weights that do not fit the streams of these names.

    Raises:
        ValueError: says which weights would fit.
    """
    if (
        len(weights) != len(names)
        or not all(0 <= weight <= MAX_WEIGHT for weight in weights)
        or not any(weights)
    ):
        count = {2: "two"}.get(len(names), str(len(names)))
        raise ValueError(
            f"fusion weights must be {count} numbers >= 0, not {'both' if len(names) == 2 else 'all'} 0 "
            f"({', '.join(names)}) and each up to {MAX_WEIGHT:g}, "
            f"got {', '.join(f'{weight:g}' for weight in weights)}"
        )


def accuracy(scores_NC: np.ndarray, labels_N: np.ndarray, *, num_listed: int | None = None) -> Accuracy:
    """Return how often the label's score is among the highest.

    Of equal scores the class with the lower index ranks first: constant scores answer class 0 for every
    video, which is right as often as chance.

    Args:
        scores_NC: scores, any scale.
        labels_N: labels in 0..C-1.
        num_listed: length of the list that was to be scored; N by default.

    Raises:
        ValueError: if there are no scores, shapes or labels do not fit, or ``num_listed`` is below N.
    """
    num_scored = len(labels_N)
    listed = num_scored if num_listed is None else num_listed
    if scores_NC.ndim != 2 or len(scores_NC) != num_scored or num_scored == 0:
        raise ValueError(f"scores must be (N, C) with N = {num_scored} labels >= 1, got {scores_NC.shape}")
    if labels_N.min() < 0 or labels_N.max() >= scores_NC.shape[1]:
        raise ValueError(
            f"labels must be in 0..{scores_NC.shape[1] - 1}, got {labels_N.min()}..{labels_N.max()}"
        )
    # A list shorter than its scores would make top1_of_listed exceed 1 without a word.
    if listed < num_scored:
        raise ValueError(f"num_listed must be >= the {num_scored} scored videos, got {listed}")

    ranks = label_ranks(scores_NC, labels_N)
    right = ranks == 0
    # Classes without a scored video have no share; they are left out rather than counted as 0.
    classes = np.unique(labels_N)
    return Accuracy(
        top1=float(right.mean()),
        top5=float((ranks < 5).mean()),
        mean_class=float(np.mean([right[labels_N == label].mean() for label in classes])),
        top1_of_listed=float(right.sum() / listed),
        num_scored=num_scored,
        num_listed=listed,
    )


def label_ranks(scores_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return how many classes rank before each video's label: int64 (N,)."""
    own = np.take_along_axis(scores_NC, labels_N[:, None], axis=1)
    before = np.arange(scores_NC.shape[1])[None, :] < labels_N[:, None]
    return ((scores_NC > own) | ((scores_NC == own) & before)).sum(1)


def _logits(scores: Scores) -> np.ndarray:
    """Return scores that softmax turns into the stream's probabilities."""
    return scores.scores if scores.kind == "logits" else scores.log_probabilities()


def _joined_rows(first: Scores, other: Scores) -> np.ndarray:
    """Return the row in `other` of each video of `first`.

    Raises:
        StinPipeError: the two do not hold the same videos, labels and classes.
    """
    if first.class_names != other.class_names:
        raise StinPipeError(
            f"the streams have different classes: {len(first.class_names)} and {len(other.class_names)}, "
            f"first {first.class_names[:3]} and {other.class_names[:3]}; train both on one run"
        )
    _check_stream(other)
    _refuse(set(first.ids) - set(other.ids), f"are scored by the {first.stream} stream only")
    _refuse(set(other.ids) - set(first.ids), f"are scored by the {other.stream} stream only")

    row_of = {video_id: row for row, video_id in enumerate(other.ids)}
    rows = np.array([row_of[video_id] for video_id in first.ids], np.int64)
    differing = first.labels != other.labels[rows]
    _refuse(
        {video_id for video_id, differs in zip(first.ids, differing, strict=True) if differs},
        "have different labels in the two streams",
    )
    return rows


def _check_stream(scores: Scores) -> None:
    """Refuse a stream that scores a video twice, or not with finite numbers."""
    twice = {video_id for video_id, count in Counter(scores.ids).items() if count > 1}
    _refuse(twice, f"are scored more than once by the {scores.stream} stream")
    finite = np.asarray(np.isfinite(scores.scores).all(axis=1))
    _refuse(
        {video_id for video_id, is_finite in zip(scores.ids, finite, strict=True) if not is_finite},
        f"have scores of the {scores.stream} stream that are not finite",
    )


def _refuse(ids: set[str], what: str) -> None:
    if not ids:
        return
    raise StinPipeError(
        f"{len(ids)} videos {what}: {name_some(ids)}; score both streams on the same list again"
    )


def name_some(ids: Collection[str]) -> str:
    """Return the first five names in order, and how many more there are."""
    return and_more(sorted(ids), MAX_LISTED)
