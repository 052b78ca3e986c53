"""The chain of a run: its stages, and how far each one is, read from the run's files at any time.

The order is extract, then both trainings of every split, then fuse-eval of every split.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stin_pipe.pipeline.planning.ledger import plan_paths, read_ledger
from stin_pipe.pipeline.planning.plan import Plan, joined_params
from stin_pipe.pipeline.planning.sources import looks_changed
from stin_pipe.stin.results.stored import (
    answer_of,
    is_number,
    model_val_top1,
    read_lines,
    read_metrics,
    read_record,
    read_result,
    read_test_top1,
)
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import (
    ABLATION,
    DEFAULT,
    SCORES_FILE,
    RunDir,
    is_being_continued,
    stored_config,
)
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, Streams, list_digest, streams_in
from stin_pipe.stin.training.holdout import describe_list_change, divide_training_list
from stin_pipe.workflows.run.lock import Holder, is_alive, read_holder
from stin_pipe.workflows.run.run_dir import open_run, read_run_json

Progress = Literal["not started", "running", "unfinished", "done", "damaged"]
STREAMS = ("spatial", "temporal")
TRAININGS = tuple(f"train-{stream}" for stream in STREAMS)


@dataclass(frozen=True, kw_only=True)
class StageState:
    """How far one stage is.

    Attributes:
        split: None for extract, which serves all splits.
        progress: what the program goes by.
        sentence: the same for people, where one word is not enough; nothing reads it back.
        detail: what the line of the chain adds to the progress.
    """

    command: str
    split: str | None
    progress: Progress
    sentence: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """What people call the stage, `train-spatial split 1`."""
        return self.command if self.split is None else f"{self.command} split {self.split}"

    @property
    def line(self) -> str:
        """Its line of status without figures, `train-spatial/split1: unfinished`."""
        return f"{self.folder}: {self.sentence or self.progress}"

    @property
    def folder(self) -> str:
        """Its folder in the run, `train-spatial/split1`."""
        return self.command if self.split is None else f"{self.command}/split{self.split}"

    def to_json(self) -> dict[str, Any]:
        """Return the stage as a link of the chain."""
        named = {"stage": self.command, "split": self.split}
        return {**named, "progress": self.progress, "detail": self.detail}

    def to_status(self) -> dict[str, Any]:
        """Return what `status --json` says of the stage."""
        return {"stage": self.folder, "state": self.sentence or self.progress}


@dataclass(frozen=True, kw_only=True)
class ExtractState(StageState):
    """How far the extraction is.

    Attributes:
        streams: what is stored of a video.
        num_in_hand: videos of the shards that workers are making now.
        failures: how many videos failed, by reason.
        num_damaged: videos kept although only a part of them could be decoded.
        num_unlisted: videos in the run that the lists or the folder no longer name.
        changed_sources: paths of videos whose file has another size or time than when it was extracted.
        broken: marks that cannot be used, with the reason.
        failures_file: one line a failed video; None before an extract has ended with failures.
    """

    command: str = "extract"
    split: str | None = None
    streams: Streams = "both"
    num_videos: int = 0
    num_done: int = 0
    num_failed: int = 0
    num_left: int = 0
    num_in_hand: int = 0
    num_frames: int = 0
    num_shards: int = 0
    num_shards_done: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    num_damaged: int = 0
    num_unlisted: int = 0
    changed_sources: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    failures_file: Path | None = None

    def to_status(self) -> dict[str, Any]:
        """Return what `status --json` says of the extraction."""
        value = {
            "state": self.sentence or self.progress,
            "videos": self.num_videos,
            "done": self.num_done,
            "failed": self.num_failed,
            "not_yet": self.num_left,
        }
        if self.progress == "not started":
            return value
        return value | {
            "streams": self.streams,
            "in_hand": self.num_in_hand,
            "frames": self.num_frames,
            "shards": self.num_shards,
            "shards_done": self.num_shards_done,
            "failures": dict(self.failures),
            "damaged": self.num_damaged,
            "unlisted": self.num_unlisted,
            "changed_sources": list(self.changed_sources),
            "broken": list(self.broken),
        }


@dataclass(frozen=True, kw_only=True)
class TrainingState(StageState):
    """How far one training is, and how it trains.

    Attributes:
        training: its name.
        place: its folder in the run.
        steps: optimiser steps done.
        loss: of the last of them; None once the training is finished.
        val_top1: of the finished model on held-out videos; None where none were held out.
        test_top1: of the model on the test list, with its own share of auxiliary scores; None until
            fuse-eval has scored it.
        list_change: how the training list has changed since a finished training; empty if it has not.
        recipe, backbone, init, seed: of its configuration; None where that cannot be read.
        epochs: done, or planned where it is not finished and its length is given in epochs.
    """

    training: str = DEFAULT
    place: str = ""
    steps: int = 0
    loss: float | None = None
    val_top1: float | None = None
    test_top1: float | None = None
    list_change: str = ""
    recipe: str | None = None
    backbone: str | None = None
    init: str | None = None
    epochs: int | None = None
    seed: int | None = None

    @property
    def folder(self) -> str:
        """Its folder in the run, `train-spatial/split1`."""
        return self.place or super().folder

    @property
    def stream(self) -> str:
        """Stream that is trained."""
        return self.command.removeprefix("train-")

    def to_status(self) -> dict[str, Any]:
        """Return what `status --json` says of the training."""
        about = {
            "stream": self.stream,
            "name": self.training,
            "split": self.split,
            **{name: getattr(self, name) for name in ("recipe", "backbone", "init", "epochs", "seed")},
            "test_top1": self.test_top1,
        }
        if self.progress == "damaged":
            return super().to_status() | about
        figures = {"loss": self.loss}
        if self.progress == "done":
            figures = {"val_top1": self.val_top1, "older_list": self.list_change}
        return super().to_status() | {"steps": self.steps, **figures} | about


@dataclass(frozen=True, kw_only=True)
class EvaluationState(StageState):
    """How far the evaluation of one split is; accuracies and report exist once it is done.

    Attributes:
        evaluation: its name.
        place: its folder in the run.
        fused_top1: None where one stream was evaluated alone.
        top1: of each stream and of the fusion.
    """

    command: str = "fuse-eval"
    evaluation: str = DEFAULT
    place: str = ""
    top1: Mapping[str, float] = field(default_factory=dict)
    fused_top1: float | None = None
    report: Path | None = None

    @property
    def folder(self) -> str:
        """Its folder in the run, `fuse-eval/split1`."""
        return self.place or super().folder

    def to_status(self) -> dict[str, Any]:
        """Return what `status --json` says of the evaluation."""
        about = super().to_status() | {"name": self.evaluation, "split": self.split}
        if self.progress != "done":
            return about
        return about | {"fused_top1": self.fused_top1, "top1": dict(self.top1), "report": str(self.report)}


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Attributes:
        trainings, evaluations: those that have a folder, by split and name; of the trainings also those of
            ablations.
        chain: every stage of the most recent chain, in order.
    """

    run: RunDir
    extract: ExtractState
    trainings: tuple[TrainingState, ...]
    evaluations: tuple[EvaluationState, ...]
    chain: tuple[StageState, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result of `status --json`."""
        return {
            "extract": self.extract.to_status(),
            "training": [state.to_status() for state in self.trainings],
            "fuse_eval": [state.to_status() for state in self.evaluations],
            "chain": [state.to_json() for state in self.chain],
        }


def read_status(path: Path) -> RunStatus:
    """Read how far the run at `path` is; works while other processes write to it.

    Raises:
        StinPipeError: the path holds no run, or a part of it that cannot be read.
    """
    run = open_run(path)
    recorded = recorded_splits(run)
    manifest = manifest_or_none(run)
    splits = splits_with_files(run)
    return RunStatus(
        run=run,
        extract=extract_state(run),
        trainings=tuple(training_states(run, splits, manifest)),
        evaluations=tuple(evaluation_states(run, splits)),
        chain=tuple(chain_stages(run, recorded)),
    )


def training_states(
    run: RunDir, splits: Sequence[str], manifest: Manifest | None = None
) -> Iterator[TrainingState]:
    """Yield every training of these splits that has a folder, the default one of each stream first."""
    for command in TRAININGS:
        for split in splits:
            for name in run.training_names(command.removeprefix("train-"), split):
                yield training_state(run, command, split, manifest, name=name)


def evaluation_states(run: RunDir, splits: Sequence[str]) -> Iterator[EvaluationState]:
    """Yield every evaluation of these splits that has a folder, the default one first."""
    for split in splits:
        for name in run.evaluation_names(split):
            yield evaluation_state(run, split, name)


def chain_stages(
    run: RunDir, splits: Sequence[str], streams: Sequence[str] | None = None
) -> list[StageState]:
    """Return every stage of the chain over these splits, in order.

    Args:
        run: the run.
        splits: names of the splits.
        streams: that the chain trains; None is those that the run stores.
    """
    stored = streams_in(stored_streams(run) or "both")
    if streams is None:
        streams = [stream for stream in STORED_OF if STORED_OF[stream] in stored]
    extract = extract_state(run)
    if extract.progress == "done" and any(STORED_OF[stream] not in stored for stream in streams):
        extract = replace(extract, progress="unfinished", detail=f"{extract.detail}, one stream to be added")

    manifest = manifest_or_none(run)
    trainings = [(split, f"train-{stream}") for split in splits for stream in streams]
    return [
        extract,
        *(training_state(run, command, split, manifest) for split, command in trainings),
        *(evaluation_state(run, split) for split in splits),
    ]


def stored_streams(run: RunDir) -> Streams | None:
    """Return what the plans of a run store of its videos; None where nothing is planned."""
    plans = [Plan.load(path) for path in plan_paths(run.extract)]
    return joined_params(plans).streams if plans else None


def recorded_splits(run: RunDir) -> list[str]:
    """Return the splits of the run's last chain; without one, those worked on; else the first of the data."""
    for entry in reversed(read_run_json(run.path)["commands"]):
        config = entry.get("config")
        splits = config.get("splits") if isinstance(config, dict) else None
        if entry.get("command") == "run" and isinstance(splits, list):
            return [str(split) for split in splits]
    if splits := splits_with_files(run):
        return splits
    return list(Manifest.load(run.manifest).split_names[:1]) if run.manifest.exists() else []


def splits_with_files(run: RunDir) -> list[str]:
    """Return the splits that have a folder of a training or an evaluation."""
    patterns = [f"{stage}/{name}split*" for stage in (*TRAININGS, "fuse-eval") for name in ("", "*/")]
    names = {path.name.removeprefix("split") for pattern in patterns for path in run.path.glob(pattern)}
    ablated = (stored_config(path).get("split") for path in run.path.glob(f"{ABLATION}/**/seed*"))
    return sorted(names | {split for split in ablated if isinstance(split, str)})


def extract_state(run: RunDir) -> ExtractState:
    """Return how far the extraction is, from its plans and marks."""
    # This module alone loads OpenCV and HDF5, which takes a second, and people call status in loops.
    from stin_pipe.pipeline.shard.make_shard import running_shards

    if not plan_paths(run.extract):
        return ExtractState(progress="not started")
    ledger = read_ledger(run.extract)
    holder = _working_holder(run.extract)

    # A finished extraction counts as done even while a command still holds its lock: it only checks.
    progress, sentence = "unfinished", "stopped; the same extract command resumes"
    if not ledger.pending:
        progress, sentence = "done", ""
    elif holder:
        progress, sentence = "running", f"running (process {holder.process_id} on {holder.host})"
    detail = f"{len(ledger.done)} of {len(ledger.listed)} videos" if ledger.listed else ""
    detail += f", {len(ledger.failed)} failed" if ledger.failed else ""

    failures_file = run.extract / "failures.jsonl"
    finished = [entry.outcome for entry in ledger.done if entry.outcome]
    return ExtractState(
        progress=progress,
        sentence=sentence,
        detail=detail,
        streams=joined_params(ledger.plans).streams,
        num_videos=len(ledger.listed),
        num_unlisted=len(ledger.unlisted),
        changed_sources=tuple(looks_changed(ledger.listing)),
        num_done=len(ledger.done),
        num_failed=len(ledger.failed),
        num_left=len(ledger.not_yet),
        num_in_hand=sum(shard.num_videos for shard in running_shards(run.extract)) if holder else 0,
        num_frames=sum(outcome.meta.num_frames for outcome in finished if outcome.meta),
        num_shards=ledger.num_shards,
        num_shards_done=ledger.num_shards - len(ledger.pending),
        failures=Counter(entry.outcome.reason for entry in ledger.failed if entry.outcome),
        num_damaged=sum(bool(outcome.notes.get("damaged")) for outcome in finished),
        broken=tuple(ledger.broken.values()),
        failures_file=failures_file if ledger.failed and failures_file.exists() else None,
    )


def training_state(
    run: RunDir, command: str, split: str, manifest: Manifest | None = None, *, name: str = DEFAULT
) -> TrainingState:
    """Return how far one training is.

    Args:
        run: the run.
        command: `train-spatial` or `train-temporal`.
        split: the split it trains on.
        manifest: the run's videos now, for telling whether a finished training had others.
        name: of the training.
    """
    path = run.training(command.removeprefix("train-"), split, name)
    place = path.relative_to(run.path).as_posix()
    state = TrainingState(command=command, split=split, progress="not started", training=name, place=place)
    if not path.exists():
        return state
    state = replace(state, **_how_it_trains(path))
    if (path / "result.json").exists():
        state = _finished_training(path, state, manifest)
        if state.progress == "damaged" or not is_being_continued(path):
            return state

    # A resumed training cuts its metrics back to its checkpoint, so the last line is current.
    steps, loss = 0, None
    for record in read_lines(path / "metrics.jsonl"):
        steps = int(record["step"]) if is_number(record.get("step")) else steps
        if record.get("kind") == "train" and is_number(record.get("loss")):
            loss = record["loss"]
    return replace(
        state,
        progress="running" if _working_holder(path) else "unfinished",
        sentence="unfinished",
        detail=f"{steps} steps",
        steps=steps,
        loss=loss,
    )


def _how_it_trains(path: Path) -> dict[str, Any]:
    """Return what a training's configuration tells, as far as it can be read."""
    config: Any = stored_config(path).get("config")
    try:
        length = None
        if config["optim"]["unit"] == "epochs":
            added = config.get("continued", [])
            length = config["optim"]["length"] + sum(item["epochs"] for item in added)
        return {
            "recipe": str(config["recipe"]),
            "backbone": str(config["stream"]["backbone"]),
            "init": str(config["init"]),
            "epochs": None if length is None else int(length),
            "seed": int(config["seed"]),
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _finished_training(path: Path, state: TrainingState, manifest: Manifest | None) -> TrainingState:
    result = read_result(path)
    if not result:
        sentence = f"damaged: {path / 'result.json'} cannot be read; delete {path} and train again"
        return replace(state, progress="damaged", sentence=sentence, detail=sentence)
    change = _list_change(path, result, manifest) if manifest else ""
    epochs = result.get("epochs")
    return replace(
        state,
        progress="done",
        detail=f"{result['steps']} steps" + (f", trained on an older list ({change})" if change else ""),
        steps=result["steps"],
        epochs=epochs if is_number(epochs) else state.epochs,
        val_top1=model_val_top1(result),
        test_top1=read_test_top1(path, result),
        list_change=change,
    )


def _list_change(path: Path, result: Mapping[str, Any], manifest: Manifest) -> str:
    try:
        stored = read_record(path / "config.json")
        share, trained_on = stored["config"]["val_share"], stored["training_list"]
        stream = STORED_OF[stored["config"]["stream"]["name"]]
        videos = divide_training_list(manifest, split=stored["split"], share=share, stream=stream).train
    except (OSError, ValueError, KeyError, TypeError, OverflowError, StinPipeError):
        return ""  # unknown: a damaged or older config.json must not keep status from answering
    return (
        ""
        if list_digest(videos, stream) == trained_on
        else describe_list_change(result.get("num_train"), len(videos))
    )


def evaluation_state(run: RunDir, split: str, name: str = DEFAULT) -> EvaluationState:
    """Return how far the evaluation of one split is."""
    path = run.fusion(split, name)
    place = path.relative_to(run.path).as_posix()
    state = EvaluationState(split=split, progress="not started", evaluation=name, place=place)
    if not path.exists():
        return state

    # metrics.json is the last file of an evaluation; score files and journals come before it.
    metrics = path / "metrics.json"
    if not metrics.exists():
        scored = ", ".join(sorted(item.stem for item in path.glob("*.npz"))) or "no stream"
        started = ", ".join(stream for stream in STREAMS if _is_being_scored(run, stream, split))
        what = f"{scored} scored" + (f", {started} started" if started else "")
        return replace(
            state,
            progress="running" if _working_holder(path) else "unfinished",
            sentence=f"unfinished ({what}); the same fuse-eval command resumes",
        )

    value = read_metrics(path)
    if not value:
        sentence = f"damaged: {metrics} cannot be read; run fuse-eval again"
        return replace(state, progress="damaged", sentence=sentence, detail=sentence)
    top1 = {name: value[name]["top1"] for name in (*value["streams"], FUSED) if name in value}
    answer = answer_of(value)
    return replace(
        state,
        progress="done",
        detail=f"{answer} top-1 {top1[answer]:.3f}",
        fused_top1=top1.get(FUSED),
        top1=top1,
        report=path / "report.html",
    )


def _is_being_scored(run: RunDir, stream: str, split: str) -> bool:
    """Tell whether a training of the stream is scored in part."""
    names = run.training_names(stream, split)
    journals = [run.training(stream, split, name) / SCORES_FILE for name in names]
    return any(path.with_suffix(".journal").exists() for path in journals)


def _working_holder(folder: Path) -> Holder | None:
    """Return the process that works in the folder; one on another host counts, since nobody here can know."""
    holder = read_holder(folder / "lock.json")
    return holder if holder is not None and is_alive(holder) is not False else None


def manifest_or_none(run: RunDir) -> Manifest | None:
    """Return the manifest of a run; None where there is none, or it is damaged."""
    try:
        return Manifest.load(run.manifest) if run.manifest.exists() else None
    except StinPipeError:
        return None  # extract reports what is wrong with it; the other stages can still be shown
