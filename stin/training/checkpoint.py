"""Checkpoints of a training: written whole, verified when read, and the last two kept.

``step-00001200.pt`` is the state; ``step-00001200.json`` beside it is its mark, written last, with the sha256
of the state. A state without a mark counts as unwritten; one that differs from its mark is skipped with a
notice.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_bytes, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import is_temporary, publish_bytes, publish_json

CHECKPOINT_FORMAT = 1
NUM_KEPT = 2
_MARK = FileKind(name="mark of the checkpoint")
_STATE = FileKind(name="checkpoint", max_bytes=64 << 30)
_DAMAGE = (UnreadableFileError, OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An undamaged state, and notices of the damaged ones that are newer."""

    state: dict[str, Any]
    step: int
    path: Path
    notices: tuple[str, ...]
    """One line for each newer checkpoint that is damaged."""


def save_checkpoint(folder: Path, *, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state after ``step`` steps, then its mark, then delete all but the last two.

    The state may hold only tensors, numbers, text, lists and dicts: it is read back with
    ``weights_only=True``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    mark = path.with_suffix(".json")
    # An earlier attempt at this step may have left a mark, which must not vouch for other bytes than its own.
    mark.unlink(missing_ok=True)

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    publish_bytes(path, content)
    publish_json(
        mark,
        {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "num_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    )

    for old in _marks(folder)[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".pt").unlink(missing_ok=True)
    marked = {mark.with_suffix(".pt") for mark in _marks(folder)}
    # A killed process leaves states without marks, and temporary files.
    for leftover in folder.iterdir():
        if is_temporary(leftover) or (leftover.suffix == ".pt" and leftover not in marked):
            leftover.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that agrees with its mark, or None if the folder holds no checkpoint.

    Raises:
        StinPipeError: if the folder holds checkpoints and all of them are damaged.
    """
    notices: list[str] = []
    marks = _marks(folder)
    for mark in reversed(marks):
        path = mark.with_suffix(".pt")
        try:
            state = _load_checked(path, mark)
        except _DAMAGE as error:
            notices.append(f"{path}: damaged ({error}); falling back to the checkpoint before it")
            continue
        return Checkpoint(state=state, step=int(path.stem[5:]), path=path, notices=tuple(notices))
    if marks:
        raise StinPipeError(
            f"{folder}: every checkpoint is damaged: {notices[0]}; delete this folder to train from the start"
        )
    return None


def _marks(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-????????.json"))


def _load_checked(path: Path, mark: Path) -> dict[str, Any]:
    expected = read_json(mark, _MARK)
    if expected["format"] != CHECKPOINT_FORMAT:
        raise ValueError(f"format {expected['format']}, this program reads {CHECKPOINT_FORMAT}")
    content = read_bytes(path, _STATE)
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise ValueError(f"sha256 of its {len(content)} bytes differs from its mark")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
