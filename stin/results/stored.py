"""Results that stages have written, read back; a damaged file counts as missing."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stin_pipe.stin.scoring.scores import SCORES
from stin_pipe.stin.shards.bounded import (
    FileKind,
    UnreadableFileError,
    read_bytes,
    read_json,
    read_json_lines,
)
from stin_pipe.stin.shards.from_json import from_json
from stin_pipe.stin.shards.names import require_name
from stin_pipe.stin.shards.run_dir import DEFAULT, SCORES_FILE

LOG = FileKind(name="log", max_bytes=1 << 30)
RECORD = FileKind(name="record")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines.

    A line that cannot be read is left out: a training may be writing it right now.
    """
    try:
        return [record for record in read_json_lines(path, LOG) if record]
    except (FileNotFoundError, UnreadableFileError):
        return []


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics.json of an evaluation's folder; an empty object if it is missing or damaged.

    One stream alone has no ``fused``, and its ``fusion`` and ``fusion_weights`` are null; see ``answer_of``.
    """
    value = read_record(folder / "metrics.json")
    protocol, streams = value.get("protocol"), value.get("streams")
    aux = protocol.get("aux") if isinstance(protocol, dict) else None
    is_whole = (
        isinstance(aux, dict)
        and all(is_number(share) for share in aux.values())
        and _are_names(streams)
        and (_is_fused(value) if "fused" in value else _is_one_stream(value))
    )
    return value if is_whole else {}


def answer_of(metrics: Mapping[str, Any]) -> str:
    """Return whose answers the result of an evaluation is: ``fused``, or the stream that stands alone."""
    return "fused" if "fused" in metrics else metrics["streams"][0]


def _is_fused(value: Mapping[str, Any]) -> bool:
    weights = value.get("fusion_weights")
    return (
        _has_top1(value.get("fused"))
        and isinstance(weights, list)
        and all(is_number(weight) for weight in weights)
        and len(value["streams"]) == len(weights)
        and value.get("fusion") in ("before_softmax", "after_softmax")
    )


def _is_one_stream(value: Mapping[str, Any]) -> bool:
    streams = value["streams"]
    return len(streams) == 1 and _has_top1(value.get(streams[0]))


def _has_top1(value: Any) -> bool:
    return isinstance(value, dict) and is_number(value.get("top1"))


def members_in(metrics: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return stream -> names of the trainings that an evaluation with these metrics scored.

    Evaluations before names were given to trainings had the default ones; streams from score files have none.
    """
    protocol = metrics.get("protocol", {})
    members = protocol.get("members")
    if not isinstance(members, dict):
        return dict.fromkeys(protocol.get("aux", {}), (DEFAULT,))
    return {
        stream: tuple(str(item.get("name")) for item in items if isinstance(item, dict))
        for stream, items in members.items()
        if isinstance(items, list)
    }


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result.json of a training's folder; an empty object if it is missing or damaged."""
    value = read_record(folder / "result.json")
    top1 = value.get("last_val_top1", "missing")
    counts = [value.get(key) for key in ("steps", "num_train", "num_held_out")]
    is_whole = all(isinstance(count, int) for count in counts) and (top1 is None or is_number(top1))
    return value if is_whole else {}


def model_val_top1(result: Mapping[str, Any]) -> float | None:
    """Return the held-out top-1 of the model that a training with this result handed on."""
    is_best = result.get("model_step") not in (None, result["steps"])
    top1 = result.get("best_val_top1") if is_best else result.get("last_val_top1")
    return top1 if is_number(top1) else None


def read_test_top1(folder: Path, result: Mapping[str, Any]) -> float | None:
    """Return the top-1 of a training's model on the test list; None unless just this model was scored."""
    scored = read_record((folder / SCORES_FILE).with_suffix(".json"))
    digest, top1 = scored.get("model_sha256"), scored.get("top1")
    return top1 if digest and digest == result.get("model_sha256") and is_number(top1) else None


def _are_names(value: Any) -> bool:
    """Tell whether a value is a list of names, which are those of score files, too."""
    try:
        names = from_json(tuple[str, ...], value)
        return bool([require_name(name, "a stream") for name in names])
    except ValueError:
        return False


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that can be compared and shown."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_record(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if it is missing or damaged."""
    try:
        return read_json(path, RECORD)
    except (FileNotFoundError, UnreadableFileError):
        return {}


def score_file_digests(folder: Path, streams: Sequence[str]) -> dict[str, str]:
    """Return stream -> sha256 of its score file in the folder of an evaluation."""
    return {name: hashlib.sha256(read_bytes(folder / f"{name}.npz", SCORES)).hexdigest() for name in streams}
