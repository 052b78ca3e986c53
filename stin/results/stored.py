"""Results that stages have written, read back; a damaged file counts as missing."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text; an empty one if there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines.

    A line that cannot be read is left out: a training may be writing it right now.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [record for line in lines if (record := json_object(line))]


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics.json of an evaluation's folder; an empty object if it is missing or damaged."""
    value = _read(folder / "metrics.json")
    fused, protocol, weights = (value.get(key) for key in ("fused", "protocol", "fusion_weights"))
    aux = protocol.get("aux") if isinstance(protocol, dict) else None
    is_whole = (
        isinstance(fused, dict)
        and is_number(fused.get("top1"))
        and isinstance(aux, dict)
        and all(is_number(share) for share in aux.values())
        and isinstance(weights, list)
        and all(is_number(weight) for weight in weights)
        and isinstance(value.get("streams"), list)
        and len(value["streams"]) == len(weights)
        and value.get("fusion") in ("before_softmax", "after_softmax")
    )
    return value if is_whole else {}


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result.json of a training's folder; an empty object if it is missing or damaged."""
    value = _read(folder / "result.json")
    top1 = value.get("last_val_top1", "missing")
    counts = [value.get(key) for key in ("steps", "num_train", "num_held_out")]
    is_whole = all(isinstance(count, int) for count in counts) and (top1 is None or is_number(top1))
    return value if is_whole else {}


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that can be compared and shown."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def score_file_digests(folder: Path, streams: Sequence[str]) -> dict[str, str]:
    """Return stream -> sha256 of its score file in the folder of an evaluation."""
    return {name: hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest() for name in streams}
