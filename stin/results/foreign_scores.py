"""Scores that another program made, read from a file of one of three plain kinds and joined to a run's list.

- ``.npz``: ``ids`` (N texts), ``scores`` (N, C); optionally ``labels`` (N, class names or numbers) and
  ``classes`` (C names, the order of the columns).
- ``.json``: an object with the same keys.
- ``.csv``: a header ``id,label,<class>,<class>,...`` (``label`` may be absent), then a line a video.

Without ``classes`` the columns are in the order of the run's classes. A score file that fuse-eval wrote is
taken as well. Nothing is unpickled.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stin.fusion import name_some
from stin.scores import Scores
from stin.shards.errors import StinPipeError

PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".joblib")
LEAST_PROBABILITY = 1e-12
"""Stands for a probability of zero, whose logarithm would rule the fusion."""


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What a file says, before anything of it is believed."""

    ids: list[str]
    scores: np.ndarray
    labels: list[Any] | None
    classes: list[str] | None


def read_foreign_scores(
    path: Path, *, stream: str, labels: Mapping[str, int], class_names: Sequence[str]
) -> Scores:
    """Read the scores of one stream on a run's list.

    Args:
        path: ``.npz``, ``.json`` or ``.csv``.
        stream: name that the scores get.
        labels: the run's list: video id -> label.
        class_names: the run's classes by label.

    Raises:
        StinPipeError: if the file is missing, pickled or damaged; if its videos are not exactly the list's,
            each once, with the list's labels and finite scores for the run's classes.
    """
    table = _read(path)
    table = _in_class_order(path, table, class_names)
    _check_videos(path, table.ids, labels)
    _check_labels(path, table, labels, class_names)
    finite = np.isfinite(table.scores).all(axis=1)
    _refuse(path, {table.ids[row] for row in np.flatnonzero(~finite)}, "have scores that are not finite")
    are_probabilities = bool(
        (table.scores >= 0).all() and np.allclose(table.scores.sum(1), 1, rtol=0, atol=1e-3)
    )
    logits = (
        np.log(np.maximum(table.scores, LEAST_PROBABILITY)) if are_probabilities else table.scores
    ).astype(np.float32)
    return Scores(
        ids=tuple(table.ids),
        labels=np.array([labels[video_id] for video_id in table.ids], np.int64),
        class_names=tuple(class_names),
        logits=logits,
        main_logits=logits,
        aux_logits=None,
        stream=stream,
        protocol={
            "file": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "values": "probabilities, taken as their logarithms" if are_probabilities else "before softmax",
        },
    )


def read_labelled_scores(path: Path) -> Scores:
    """Read a score file that says itself what its videos and classes are, with no run beside it.

    Raises:
        StinPipeError: if it is missing, pickled or damaged, or does not name its classes and labels.
    """
    table = _read(path)
    if table.classes is None or table.labels is None:
        missing = " and ".join(
            name for name, value in (("classes", table.classes), ("labels", table.labels)) if value is None
        )
        raise StinPipeError(
            f"{path}: has no {missing}, without which it cannot be compared; add them (a column label in a "
            ".csv; arrays labels and classes in an .npz or .json)"
        )
    table = _in_class_order(path, table, table.classes)
    assert table.classes is not None and table.labels is not None
    unknown = {_text(label) for label in table.labels} - set(table.classes)
    if unknown:
        raise StinPipeError(f"{path}: {len(unknown)} labels are none of its classes: {name_some(unknown)}")
    logits = table.scores.astype(np.float32)
    return Scores(
        ids=tuple(table.ids),
        labels=np.array([table.classes.index(_text(label)) for label in table.labels], np.int64),
        class_names=tuple(table.classes),
        logits=logits,
        main_logits=logits,
        aux_logits=None,
        stream=path.stem,
    )


def _read(path: Path) -> _Table:
    if path.suffix.lower() in PICKLES:
        raise StinPipeError(
            f"{path}: pickled files run code when they are opened, so they are not read. Convert it where "
            "you trust it, here from a dict of id -> scores of the classes:\n"
            "  import numpy, pickle\n"
            f"  found = pickle.load(open({path.name!r}, 'rb'))\n"
            f"  ids, scores = list(found), numpy.stack(list(found.values()))\n"
            f"  numpy.savez({path.stem + '.npz'!r}, ids=ids, scores=scores)"
        )
    readers = {".npz": _read_npz, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StinPipeError(f"{path}: scores are read from .npz, .json or .csv files, not {path.suffix!r}")
    if not path.is_file():
        raise StinPipeError(f"{path}: no such score file; give another path")
    try:
        table = reader(path)
        if table.scores.ndim != 2 or len(table.scores) != len(table.ids):
            raise ValueError(f"{len(table.ids)} ids, but scores of shape {table.scores.shape}")
        if table.labels is not None and len(table.labels) != len(table.ids):
            raise ValueError(f"{len(table.ids)} ids, but {len(table.labels)} labels")
    except Exception as error:  # zip, numpy, csv and json each have their own ways to find a file damaged
        raise StinPipeError(
            f"{path}: not a readable score file: {type(error).__name__}: {error}; wanted: ids, scores, and "
            "optionally labels and classes (see --help)"
        ) from error
    return table


def _read_npz(path: Path) -> _Table:
    with np.load(path, allow_pickle=False) as opened:
        if "about" in opened.files:
            return _own(path)
        arrays = {name: opened[name] for name in opened.files}
    return _Table(
        ids=[_text(item) for item in arrays["ids"].tolist()],
        scores=np.asarray(arrays["scores"], np.float64),
        labels=arrays["labels"].tolist() if "labels" in arrays else None,
        classes=[_text(item) for item in arrays["classes"].tolist()] if "classes" in arrays else None,
    )


def _read_json(path: Path) -> _Table:
    value = json.loads(path.read_text(encoding="utf-8"))
    if "format" in value:
        return _own(path)
    return _Table(
        ids=[str(item) for item in value["ids"]],
        scores=np.asarray(value["scores"], np.float64),
        labels=value.get("labels"),
        classes=value.get("classes"),
    )


def _read_csv(path: Path) -> _Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *lines = list(csv.reader(file))
    if header[0] != "id":
        raise ValueError(f"the first column must be 'id', got {header[0]!r}")
    first = 2 if header[1:2] == ["label"] else 1
    lines = [line for line in lines if line]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"line {number} has {len(line)} cells, the header {len(header)}")
    return _Table(
        ids=[line[0] for line in lines],
        scores=np.array([[float(cell) for cell in line[first:]] for line in lines]).reshape(
            len(lines), len(header) - first
        ),
        labels=[line[1] for line in lines] if first == 2 else None,
        classes=header[first:],
    )


def _own(path: Path) -> _Table:
    found = Scores.load(path)
    return _Table(
        ids=list(found.ids),
        scores=found.logits.astype(np.float64),
        labels=[found.class_names[label] for label in found.labels],
        classes=list(found.class_names),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _in_class_order(path: Path, table: _Table, class_names: Sequence[str]) -> _Table:
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
        said = [f"{len(unknown)} classes are not in the run: {name_some(unknown)}"] if unknown else []
        said += [f"{len(missing)} classes of the run are missing: {name_some(missing)}"] if missing else []
        raise StinPipeError(f"{path}: {'; '.join(said)}; name the classes as the run does")
    columns = [table.classes.index(name) for name in class_names]
    # Numbers as labels count the file's own classes.
    labels = table.labels
    if labels is not None:
        labels = [
            table.classes[item] if isinstance(item, int) and 0 <= item < len(columns) else item
            for item in labels
        ]
    return _Table(ids=table.ids, scores=table.scores[:, columns], labels=labels, classes=list(class_names))


def _check_videos(path: Path, ids: Sequence[str], labels: Mapping[str, int]) -> None:
    _refuse(path, {name for name, count in Counter(ids).items() if count > 1}, "are scored more than once")
    example = next(iter(labels), "")
    _refuse(
        path,
        set(ids) - set(labels),
        f"are not in the list that is evaluated (whose ids are like {example!r})",
    )
    _refuse(path, set(labels) - set(ids), "of the list that is evaluated have no scores")


def _check_labels(path: Path, table: _Table, labels: Mapping[str, int], class_names: Sequence[str]) -> None:
    if table.labels is None:
        return
    differing = {
        video_id
        for video_id, said in zip(table.ids, table.labels, strict=True)
        if said != labels[video_id] and _text(said) != class_names[labels[video_id]]
    }
    _refuse(path, differing, "have another label than in the run")


def _refuse(path: Path, ids: set[str], what: str) -> None:
    if ids:
        raise StinPipeError(
            f"{path}: {len(ids)} videos {what}: {name_some(ids)}; correct the file and give it again"
        )
