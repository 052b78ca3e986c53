"""Two or more results on the same videos, joined by id: the accuracies of each, and paired differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from stin_pipe.stin.results.comparison import Comparison, compare_drawn, recording_numbers
from stin_pipe.stin.results.intervals import Interval, resample, share_interval, worth_by_class
from stin_pipe.stin.scoring.fusion import Accuracy, accuracy, label_ranks, name_some
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the results: its scores by stream, ``fused`` among them if there is a fusion."""

    name: str
    streams: Mapping[str, Scores]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What one contender gets right on the videos that all have.

    Attributes:
        name: of the contender.
        accuracy: on the common videos.
        intervals: ``top1``, ``mean_class``.
        by_class: share of each class that is right, in the order of ``StreamTable.classes``.
    """

    name: str
    accuracy: Accuracy
    intervals: Mapping[str, Interval]
    by_class: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StreamTable:
    """One stream of all contenders, side by side.

    Attributes:
        stream: ``fused``, ``spatial``, ...
        standings: in the order in which the contenders were given.
        comparisons: each later contender (first) against the first one (second).
        classes: those with a common video, and how many they have.
    """

    stream: str
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]
    classes: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "stream": self.stream,
            "standings": [
                {
                    "name": item.name,
                    **{key: getattr(item.accuracy, key) for key in ("top1", "top5", "mean_class")},
                    "intervals": {key: interval.to_json() for key, interval in item.intervals.items()},
                }
                for item in self.standings
            ],
            "comparisons": [item.to_json() for item in self.comparisons],
            "classes": [
                {
                    "class": name,
                    "count": count,
                    "right": {item.name: item.by_class[row] for item in self.standings},
                }
                for row, (name, count) in enumerate(self.classes)
            ],
        }


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The comparison of all contenders.

    Attributes:
        names: of the contenders.
        num_common: videos that all contenders have scored; only these count.
        num_left_out: contender -> its videos that others lack.
        num_classes: that the contenders tell apart.
        tables: one a stream that all have; ``fused`` first.
    """

    names: tuple[str, ...]
    num_common: int
    num_left_out: Mapping[str, int]
    num_classes: int
    tables: tuple[StreamTable, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"tables": [table.to_json() for table in self.tables]}


def stand_side_by_side(
    contenders: Sequence[Contender], *, recordings: Mapping[str, str] | None = None
) -> SideBySide:
    """Compare contenders on the videos that all have.

    Args:
        contenders: two or more, of different names; the others are compared with the first.
        recordings: video id -> recording, for the intervals.

    Raises:
        ValueError: for fewer than two contenders, or two of one name.
        StinPipeError: if they have different classes, no video or no stream in common, or different classes
            for one video; if one holds a video twice or a score that is not finite.
    """
    names = [item.name for item in contenders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"contenders must be two or more of different names, got {names}")

    shared = [name for name in contenders[0].streams if all(name in item.streams for item in contenders)]
    if not shared:
        having = "; ".join(f"{item.name} has {', '.join(item.streams)}" for item in contenders)
        raise StinPipeError(f"nothing to compare: no stream is in all results ({having})")
    shared.sort(key=lambda name: (name != "fused", name))

    # Over all shared streams: a table with other videos than the next one could not be read beside it.
    sets = [set(item.streams[name].ids) for item in contenders for name in shared]
    common = sorted(set.intersection(*sets))
    if not common:
        raise StinPipeError(
            f"no video is in all of {', '.join(names)}: their ids have nothing in common "
            f"(compare {_example(contenders[0])} with {_example(contenders[1])})"
        )
    return SideBySide(
        names=tuple(names),
        num_common=len(common),
        num_left_out={item.name: len(set(item.streams[shared[0]].ids)) - len(common) for item in contenders},
        num_classes=len(contenders[0].streams[shared[0]].class_names),
        tables=tuple(_table(name, contenders, common, recordings) for name in shared),
    )


def _table(
    stream: str,
    contenders: Sequence[Contender],
    common: Sequence[str],
    recordings: Mapping[str, str] | None,
) -> StreamTable:
    joined = _joined(stream, contenders, common)
    labels, class_names = joined[0].labels, joined[0].class_names
    right = [label_ranks(scores.scores, labels) == 0 for scores in joined]
    present = np.unique(labels)

    # One resampling for all contenders, so that their differences are paired.
    drawn = resample(np.column_stack(right), labels, recording_numbers(common, labels, recordings))
    largest_n = {"top1": float(len(labels)), "mean_class": worth_by_class(labels)}
    errors = {"top1": drawn.overall.std(0), "mean_class": drawn.by_class.std(0)}

    standings = []
    for column, (item, scores) in enumerate(zip(contenders, joined, strict=True)):
        shares = accuracy(scores.scores, labels)
        standings.append(
            Standing(
                name=item.name,
                accuracy=shares,
                intervals={
                    key: share_interval(
                        getattr(shares, key),
                        standard_error=float(errors[key][column]),
                        largest_n=largest_n[key],
                    )
                    for key in largest_n
                },
                by_class=tuple(float(right[column][labels == label].mean()) for label in present),
            )
        )
    return StreamTable(
        stream=stream,
        standings=tuple(standings),
        comparisons=tuple(
            compare_drawn(
                contenders[column].name,
                right[column],
                contenders[0].name,
                right[0],
                labels,
                drawn=drawn,
                columns=(column, 0),
            )
            for column in range(1, len(contenders))
        ),
        classes=tuple((class_names[label], int((labels == label).sum())) for label in present),
    )


def _joined(stream: str, contenders: Sequence[Contender], common: Sequence[str]) -> list[Scores]:
    """Return each contender's scores of the common videos, with videos and classes in one order.

    Raises:
        StinPipeError: two contenders disagree about the class of a video.
    """
    base = contenders[0]
    reference = _rows(base.name, base.streams[stream], common)
    joined = [reference]
    for item in contenders[1:]:
        scores = _as_classes_of(item.name, item.streams[stream], base.name, reference.class_names)
        scores = _rows(item.name, scores, common)
        differing = np.flatnonzero(scores.labels != reference.labels)
        if len(differing):
            raise StinPipeError(
                f"{len(differing)} videos have another class in {item.name} than in {base.name}: "
                f"{name_some([common[int(row)] for row in differing])}; compare results of one labelling"
            )
        joined.append(scores)
    return joined


def _as_classes_of(name: str, scores: Scores, other: str, class_names: tuple[str, ...]) -> Scores:
    """Return the scores with their classes in this order.

    Raises:
        StinPipeError: they are not the same classes.
    """
    if scores.class_names == class_names:
        return scores

    ours, theirs = set(scores.class_names), set(class_names)
    if ours != theirs:
        extra = [
            f"{len(only)} only in {who}: {name_some(only)}"
            for who, only in ((name, ours - theirs), (other, theirs - ours))
            if only
        ]
        raise StinPipeError(
            f"{name} and {other} have different classes ({'; '.join(extra)}); accuracies over different "
            "classes cannot be compared"
        )

    columns = [scores.class_names.index(class_name) for class_name in class_names]
    new_label = {label: column for column, label in enumerate(columns)}
    return replace(
        scores,
        labels=np.array([new_label[int(label)] for label in scores.labels], np.int64),
        class_names=class_names,
        scores=scores.scores[:, columns],
        main_logits=None,
        aux_logits=None,
    )


def _rows(name: str, scores: Scores, ids: Sequence[str]) -> Scores:
    """Return the scores of these videos, in this order.

    Raises:
        StinPipeError: a video is scored twice, or a score is not finite.
    """
    twice = [video_id for video_id, count in Counter(scores.ids).items() if count > 1]
    if twice:
        raise StinPipeError(f"{name}: {len(twice)} videos are scored more than once: {name_some(twice)}")

    row_of = {video_id: row for row, video_id in enumerate(scores.ids)}
    rows = [row_of[video_id] for video_id in ids]
    chosen = scores.scores[rows]
    broken = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if len(broken):
        raise StinPipeError(
            f"{name}: {len(broken)} videos have {scores.stream} scores that are not finite: "
            f"{name_some([ids[int(row)] for row in broken])}; score them again"
        )

    return replace(
        scores,
        ids=tuple(ids),
        labels=scores.labels[rows],
        scores=chosen,
        main_logits=None,
        aux_logits=None,
    )


def _example(item: Contender) -> str:
    ids = next(iter(item.streams.values())).ids
    return repr(ids[0]) if ids else "none"
