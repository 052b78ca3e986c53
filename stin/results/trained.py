"""How a model was trained, collected from what its training and its run wrote down.

Runs of earlier versions wrote less, and a model may be all that is left; what is not recorded is None.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stin_pipe.stin.network.model_file import RESULT_FILE
from stin_pipe.stin.results.how_made import SettingDifference
from stin_pipe.stin.results.stored import is_number, read_lines, read_record

# As the training writes them; this room does not know the training.
CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"
DEFAULT_NAME = "default"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One number of a training over its steps.

    Attributes:
        part: `train` or `val`, the held-out part.
        metric: `loss` or `top1`.
        steps, values: of equal length, in order.
        num_videos: that each value is counted on; None where that is not recorded.
    """

    part: str
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    num_videos: int | None

    @property
    def best(self) -> float:
        """The lowest loss, or the highest accuracy."""
        return min(self.values) if self.metric == "loss" else max(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return what is told of it; metrics.jsonl has the values."""
        return {
            "part": self.part,
            "metric": self.metric,
            "num_videos": self.num_videos,
            "first_step": self.steps[0],
            "first": self.values[0],
            "last_step": self.steps[-1],
            "last": self.values[-1],
            "best": self.best,
        }


@dataclass(frozen=True, kw_only=True)
class CommandRecord:
    """One call of the program, as run.json keeps it."""

    argv: tuple[str, ...]
    started: str
    finished: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one model was trained.

    Attributes:
        stream, name: which training of the run it is.
        config: the complete configuration, as config.json holds it; empty where it is missing or damaged.
        init_digest: sha256 of the weights file that it started from.
        result: what result.json says: steps, seconds, num_parameters and the like.
        commands: the calls that trained it, the last one last.
        curves: losses and accuracies on the way.
    """

    stream: str
    name: str
    config: Mapping[str, Any]
    init_digest: str | None
    result: Mapping[str, Any]
    commands: tuple[CommandRecord, ...]
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with null for what is not recorded."""
        last = self.commands[-1] if self.commands else None
        return {
            "stream": self.stream,
            "name": self.name,
            "recipe": self._setting("recipe"),
            "backbone": self._setting("stream", "backbone"),
            "form": self._setting("stream", "difference" if self.stream == "spatial" else "attention"),
            "init": self._setting("init"),
            "init_sha256": self.init_digest,
            "epochs": self._number("epochs"),
            "steps": self._number("steps"),
            "batch_size": self._setting("optim", "batch_size"),
            "segments": self._setting("num_segments"),
            "crop_px": self._setting("augment", "crop_px"),
            "flip": self._setting("augment", "flip"),
            "optimizer": self._setting("optim", "kind"),
            "lr": self._setting("optim", "lr"),
            "schedule": self._setting("optim", "schedule"),
            "weight_decay": self._setting("optim", "weight_decay"),
            "seed": self._setting("seed"),
            "select": self._setting("select"),
            "num_train": self._number("num_train"),
            "num_held_out": self._number("num_held_out"),
            "num_parameters": self._number("num_parameters"),
            "device": self.result.get("device") or None,
            "seconds": self._number("seconds"),
            "sha256": self.result.get("model_sha256"),
            "last_val_top1": self._number("last_val_top1"),
            "best_val_top1": self._number("best_val_top1"),
            "versions": {} if last is None else dict(last.versions),
            "commands": [asdict(item) | {"argv": list(item.argv)} for item in self.commands],
            "curves": [item.to_json() for item in self.curves],
        }

    def _setting(self, *keys: str) -> Any:
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, (str, bool)) or is_number(value) else None

    def _number(self, key: str) -> float | None:
        value = self.result.get(key)
        return value if is_number(value) else None


def read_training(folder: Path, *, stream: str, run_path: Path, name: str = DEFAULT_NAME) -> Training:
    """Collect how the model in a training's folder was made.

    Args:
        folder: of the training.
        stream: that it is of.
        run_path: run directory, whose run.json has the commands.
        name: of the training.
    """
    stored, result = read_record(folder / CONFIG_FILE), read_record(folder / RESULT_FILE)
    config = stored.get("config")
    config = config if isinstance(config, dict) else {}
    return Training(
        stream=stream,
        name=name,
        config=config,
        init_digest=_text(stored.get("init_sha256")),
        result=result,
        commands=_commands(run_path, f"train-{stream}", split=folder.name.removeprefix("split"), name=name),
        curves=_curves(folder, config, result),
    )


def _commands(run_path: Path, command: str, *, split: str, name: str) -> tuple[CommandRecord, ...]:
    entries = read_record(run_path / "run.json").get("commands")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        config = entry.get("config") if isinstance(entry, dict) else None
        if not isinstance(config, dict) or entry.get("command") != command or entry.get("outcome") != "done":
            continue
        if str(config.get("split", "1")) == split and (config.get("name") or DEFAULT_NAME) == name:
            versions = entry.get("versions")
            found.append(
                CommandRecord(
                    argv=tuple(map(str, _list(entry.get("argv")))),
                    started=str(entry.get("started")),
                    finished=_text(entry.get("finished")),
                    versions={str(key): str(value) for key, value in versions.items()}
                    if isinstance(versions, dict)
                    else {},
                )
            )
    return tuple(found)


def _curves(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[Curve, ...]:
    records = read_lines(folder / METRICS_FILE)
    optim = config.get("optim")
    counts = (optim.get("batch_size") if isinstance(optim, dict) else None, result.get("num_train"))
    batch = min((int(count) for count in counts if count is not None and is_number(count)), default=None)
    num_videos = {"train": batch, "val": result.get("num_held_out")}

    # The main head's loss, where it is logged, because that is the one counted on the held-out part.
    curves = []
    for metric, part, keys in (
        ("loss", "train", ("main_loss", "loss")),
        ("loss", "val", ("loss",)),
        ("top1", "train", ("top1",)),
        ("top1", "val", ("top1",)),
    ):
        points = [
            (int(record["step"]), value)
            for record in records
            if record.get("kind") == part
            and is_number(record.get("step"))
            and (value := _first_number(record, keys)) is not None
        ]

        if points:
            steps, values = zip(*points, strict=True)
            number = num_videos[part]
            curves.append(
                Curve(
                    part=part,
                    metric=metric,
                    steps=steps,
                    values=values,
                    num_videos=number if is_number(number) else None,
                )
            )
    return tuple(curves)


def _first_number(record: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    return next((float(record[key]) for key in keys if is_number(record.get(key))), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def training_differences(
    trainings: Mapping[str, Mapping[str, Sequence[Path]]],
) -> tuple[SettingDifference, ...]:
    """Return in what the trainings of results differ: only settings that do.

    Args:
        trainings: name of a result -> stream -> folders of its trainings, several for an ensemble.
    """
    rows = []
    streams = dict.fromkeys(stream for by_stream in trainings.values() for stream in by_stream)
    for stream in streams:
        found = {
            name: [_settings(folder) for folder in by_stream[stream]]
            for name, by_stream in trainings.items()
            if stream in by_stream
        }
        keys = dict.fromkeys(key for settings in found.values() for item in settings for key in item)
        for key in keys:
            values = {
                name: ", ".join(dict.fromkeys(item.get(key, "") for item in settings))
                for name, settings in found.items()
            }
            if len(set(values.values())) > 1:
                name = f"{stream}: {key.rpartition('.')[2]}"
                rows.append(SettingDifference(key=f"{stream}.{key}", name=name, values=values))
    return tuple(rows)


def _settings(folder: Path) -> dict[str, str]:
    """Return the settings of a training as texts, by their places in its configuration."""
    stored = read_record(folder / CONFIG_FILE)
    count = read_record(folder / RESULT_FILE).get("num_train")
    settings = {"num_train": count, "init_sha256": str(stored.get("init_sha256") or "")[:12]}
    return dict(_leaves({"config": stored.get("config"), **settings}))


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{place}.{key}" if place else str(key))
    elif value not in (None, "", []):
        yield place, f"{value:g}" if isinstance(value, float) else str(value)
