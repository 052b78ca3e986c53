"""Score files of other programs, in one of three plain formats.

- ``.npz``: ``ids`` (N texts), ``scores`` (N, C); optionally ``labels`` (N, class names or numbers) and
  ``classes`` (C names, the order of the columns).
- ``.json``: an object with the same keys.
- ``.csv``: a header ``id,label,<class>,<class>,...`` (``label`` may be absent), then a line a video.

Without ``classes`` the columns are in the order of the run's classes. Score files of fuse-eval are read
as well. Nothing is unpickled.
"""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stin_pipe.stin.scoring.fusion import name_some
from stin_pipe.stin.scoring.scores import SCORES, Kind, Scores, read_arrays
from stin_pipe.stin.shards.bounded import json_object, open_regular, read_bytes, read_text
from stin_pipe.stin.shards.errors import StinPipeError

PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".joblib")


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """The content of a score file, before any of it is checked against a run.

    Attributes:
        ids: video ids, N of them.
        scores: float64 (N, C).
        labels: N names or numbers, as in the file; None if it has none.
        classes: C names in the order of the columns; None if it has none.
        kind: what the scores are; None where the file does not say.
    """

    ids: list[str]
    scores: np.ndarray
    labels: list[Any] | None
    classes: list[str] | None
    kind: Kind | None = None


def require_score_file(path: Path) -> None:
    """Refuse a path that is not a file.

    Raises:
        StinPipeError: it is missing, or a folder.
    """
    if path.is_dir():
        raise StinPipeError(f"{path}: is a folder, not a score file; give a .npz, .json or .csv file")
    if not path.is_file():
        raise StinPipeError(f"{path}: no such score file; give another path")


def read_score_table(path: Path) -> ScoreTable:
    """Read a score file of any of the three formats.

    Raises:
        StinPipeError: if it is missing, a folder, pickled or damaged.
    """
    require_score_file(path)
    if path.suffix.lower() in PICKLES:
        raise _pickled(path)
    readers = {".npz": _read_npz, ".json": _read_json, ".csv": _read_csv}

    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StinPipeError(f"{path}: scores are read from .npz, .json or .csv files, not {path.suffix!r}")

    try:
        table = reader(path)
        # Shapes first: whatever follows joins rows by id and would take a wrong row without an error.
        if table.scores.ndim != 2 or len(table.scores) != len(table.ids):
            raise ValueError(f"{len(table.ids)} ids, but scores of shape {table.scores.shape}")
        if table.labels is not None and len(table.labels) != len(table.ids):
            raise ValueError(f"{len(table.ids)} ids, but {len(table.labels)} labels")
    except StinPipeError:
        raise  # it says already what is wrong
    except Exception as error:  # zip, numpy, csv and json each report damage in their own ways
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise StinPipeError(
            f"{path}: not a readable score file: {reason or type(error).__name__}; it needs ids, scores, and "
            "optionally labels and classes (see `stin-pipe fuse-eval --help`)"
        ) from error
    return table


def _pickled(path: Path) -> StinPipeError:
    """Return the error that says why a pickle is refused, and how its owner converts it into a plain file."""
    name = f"{path.stem}-plain.npz" if path.suffix.lower() == ".npz" else f"{path.stem}.npz"
    return StinPipeError(
        f"{path}: pickled files run code when they are opened, so they are not read. If you trust this one, "
        "convert it, here from a dict of id -> scores of the classes:",
        details=(
            "  import numpy, pickle",
            f"  table = pickle.load(open({path.name!r}, 'rb'))",
            "  ids, scores = list(table), numpy.stack(list(table.values()))",
            f"  numpy.savez({name!r}, ids=ids, scores=scores)",
        ),
    )


def _read_npz(path: Path) -> ScoreTable:
    if not zipfile.is_zipfile(path):
        with open_regular(path, SCORES) as file:
            if file.read(1) == b"\x80":  # the first byte of every pickle since protocol 2
                raise _pickled(path)
        raise ValueError("it is not an .npz file, a zip of arrays as numpy.savez writes it")

    arrays = read_arrays(path)
    if "about" in arrays:
        return _own(path)
    _require_keys(arrays)
    return ScoreTable(
        ids=[label_text(item) for item in arrays["ids"].tolist()],
        scores=np.asarray(arrays["scores"], np.float64),
        labels=arrays["labels"].tolist() if "labels" in arrays else None,
        classes=[label_text(item) for item in arrays["classes"].tolist()] if "classes" in arrays else None,
    )


def _read_json(path: Path) -> ScoreTable:
    value = json_object(read_bytes(path, SCORES))
    if "format" in value:
        return _own(path)

    _require_keys(value)
    for name in ("ids", "scores", "labels", "classes"):
        if not isinstance(value.get(name, []), list):
            raise ValueError(f"{name} must be a list, got {value[name]!r}")

    try:
        scores = np.asarray(value["scores"], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("scores must be rows of numbers, one row a video, all of one length") from error
    classes = value.get("classes")
    return ScoreTable(
        ids=[_plain_name("ids", item) for item in value["ids"]],
        scores=scores,
        labels=value.get("labels") and [_plain_label(item) for item in value["labels"]],
        classes=None if classes is None else [_plain_name("classes", item) for item in classes],
    )


def _plain_name(key: str, value: Any) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ValueError(f"{key} must hold names, got {value!r}")
    return str(value)


def _plain_label(value: Any) -> Any:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(f"labels must hold class names or numbers, got {value!r}")
    return value


def _require_keys(content: Mapping[str, Any]) -> None:
    for name in ("ids", "scores"):
        if name not in content:
            raise ValueError(f"it has no {name} (only {name_some(set(content)) or 'nothing'})")


def _read_csv(path: Path) -> ScoreTable:
    with io.StringIO(read_text(path, SCORES), newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if not header:
            raise ValueError("it has no first line id,label,<class>,<class>,...")
        if header[0] != "id":
            raise ValueError(f"the first column must be 'id', got {header[0]!r}")
        first = 2 if header[1:2] == ["label"] else 1  # column of the first class

        lines: list[list[str]] = []
        rows: list[list[float]] = []
        for line in reader:
            if line:  # spreadsheets end with empty lines
                lines.append(line)
                rows.append(_numbers(line, header, first, reader.line_num))

    return ScoreTable(
        ids=[line[0] for line in lines],
        scores=np.array(rows, np.float64).reshape(len(lines), len(header) - first),
        labels=[line[1] for line in lines] if first == 2 else None,
        classes=header[first:],
    )


def _numbers(line: Sequence[str], header: Sequence[str], first: int, number: int) -> list[float]:
    """Return the scores on line `number`; those of the first class are in column `first`."""
    if len(line) != len(header):
        raise ValueError(f"line {number} has {len(line)} cells, the header {len(header)}")
    values: list[float] = []
    for name, cell in zip(header[first:], line[first:], strict=True):
        try:
            values.append(float(cell))
        except ValueError:
            raise ValueError(
                f"line {number}, video {line[0]!r}, class {name!r}: a score must be a number, got {cell!r}"
            ) from None
    return values


def _own(path: Path) -> ScoreTable:
    """Read a score file that fuse-eval wrote."""
    own = Scores.load(path)
    return ScoreTable(
        ids=list(own.ids),
        scores=own.scores.astype(np.float64),
        labels=[own.class_names[label] for label in own.labels],
        classes=list(own.class_names),
        kind=own.kind,
    )


def label_text(value: Any) -> str:
    """Return a name as text, whether the file held text or bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
