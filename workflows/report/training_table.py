"""The table of how each model was trained: settings in rows, models in columns, words for the reader."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stin_pipe.stin.results.numbers import percent
from stin_pipe.stin.results.trained import DEFAULT_NAME
from stin_pipe.workflows.terminal.output import duration

NOT_RECORDED = "not recorded"


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """Rows of (setting, one text a model), and the command lines of each model.

    Attributes:
        models: (stream, name) of each; the name is empty for the unnamed training.
        rows: the settings.
        commands: of each model.
    """

    models: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    commands: tuple[tuple[str, ...], ...]


def training_table(trainings: Mapping[str, Sequence[Mapping[str, Any]]]) -> TrainingTable:
    """Return the table of the trainings in metrics.json."""
    models = [item for members in trainings.values() for item in members]
    columns = [_column(item) for item in models]
    names = list(columns[0]) if columns else []
    return TrainingTable(
        models=tuple(
            (item["stream"], "" if item["name"] == DEFAULT_NAME else item["name"]) for item in models
        ),
        rows=tuple((name, tuple(column[name] or NOT_RECORDED for column in columns)) for name in names),
        commands=tuple(
            tuple(shlex.join(["stin-pipe", *command["argv"]]) for command in item["commands"])
            for item in models
        ),
    )


def _column(item: Mapping[str, Any]) -> dict[str, str]:
    """Return setting -> text of one model; an empty text where it is not recorded."""
    last = item["commands"][-1] if item["commands"] else None
    return {
        "recipe": _text(item["recipe"]),
        "backbone": _text(item["backbone"]),
        "injection": {"none": "none (plain)"}.get(item["form"], _text(item["form"])),
        "start weights": _start(item),
        "epochs": _with(item["epochs"], item["steps"], "{} ({} steps)"),
        "batch size": _text(item["batch_size"]),
        "clips of a sample": _text(item["segments"]),
        "crop": _with(item["crop_px"], "px", "{} {}"),
        "mirrored": {True: "yes", False: "no"}.get(item["flip"], ""),
        "optimiser": _with(item["optimizer"], item["weight_decay"], "{}, weight decay {}"),
        "learning rate": _with(item["lr"], item["schedule"], "{}, {}"),
        "seed": _text(item["seed"]),
        "weights taken": _text(item["select"]),
        "trained on": _with(item["num_train"], item["num_held_out"], "{} videos, {} held out"),
        "held-out top-1": "" if item["last_val_top1"] is None else f"{percent(item['last_val_top1'])} %",
        "parameters": "" if item["num_parameters"] is None else f"{item['num_parameters'] / 1e6:.2f} million",
        "device": _text(item["device"]),
        "time": "" if item["seconds"] is None else duration(item["seconds"]),
        "date": "" if last is None else str(last["started"])[:10],
        "versions": ", ".join(f"{name} {version}" for name, version in item["versions"].items()),
        "model, sha256": _text(item["sha256"])[:16],
    }


def _start(item: Mapping[str, Any]) -> str:
    if item["init"] is None:
        return ""
    if not item["init"]:
        return "random"
    return f"{item['init']} (sha256 {item['init_sha256'][:16] if item['init_sha256'] else NOT_RECORDED})"


def _with(first: Any, second: Any, form: str) -> str:
    if first is None or second is None:
        return _text(first)
    return form.format(_text(first), _text(second))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
