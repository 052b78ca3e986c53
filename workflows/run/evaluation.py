"""Evaluate the streams of a run: options to settings, then each split, locked and recorded."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stin_pipe.stin.device import choose_device, resolve_amp
from stin_pipe.stin.evaluation import (
    EvalNotice,
    OnEvent,
    PageProgress,
    evaluate_split,
    load_models,
    model_path,
)
from stin_pipe.stin.network.config import StreamConfig
from stin_pipe.stin.network.model_file import TrainedModel, read_model_info
from stin_pipe.stin.results.how_made import missing_videos
from stin_pipe.stin.results.score_files import require_score_file
from stin_pipe.stin.results.split_mean import mean_of_splits
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.scoring.fusion import check_weights
from stin_pipe.stin.scoring.settings import STREAMS, EvalSettings
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.stin.shards.names import make_inside
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.config import TrainConfig
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.members import (
    ALL_SPLITS,
    Members,
    check_member_names,
    evaluation_name,
    members_by_split,
    require_own_folder,
    why_alone,
)
from stin_pipe.workflows.run.run_dir import open_run, recorded

OnDrawn = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvalOptions(EvalSettings):
    """The options of fuse-eval; see ``EvalSettings`` for the rest.

    Attributes:
        split: name of the split, or ``all`` for every split that is trained.
        name: of the evaluation; None is the default one for the default trainings, else made of their names.
    """

    split: str = "1"
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pages:
    """How an evaluation's pages are drawn: functions that return HTML."""

    split: Callable[[RunDir, Manifest, SplitResult, Mapping[str, TrainedModel], OnDrawn], str]
    """Of one split, by the models that scored it; calls its last argument as it draws."""
    mean: Callable[[str, Mapping[str, Any]], str]
    """Of all splits, by the run's name and the content of all.json."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the evaluation of a run comes to.

    Attributes:
        splits: one result a split.
        mean: the content of all.json where all splits were evaluated, else None.
    """

    splits: tuple[SplitResult, ...]
    mean: Mapping[str, Any] | None

    def to_json(self) -> Mapping[str, Any]:
        """Return the metrics of the split, or of all splits."""
        return self.splits[0].metrics if self.mean is None else self.mean


def evaluate_run(
    run_path: Path,
    options: EvalOptions | None = None,
    on_event: OnEvent = lambda _event: None,
    *,
    pages: Pages,
) -> Evaluation:
    """Score and fuse the streams of a run; write score files, predictions, metrics and reports.

    Args:
        run_path: the run directory, with trained streams.
        options: see ``EvalOptions``.
        on_event: called with the progress of the scoring and every notice.
        pages: what draws the reports.

    Raises:
        ValueError: for an option that does not exist or does not fit the others.
        StinPipeError: if a stream is not trained, a split has no test video, a score file does not fit, or
            another evaluation works on the split.
    """
    options = options or EvalOptions()
    check_options(options)
    resolve_amp(options.amp, choose_device(options.device))

    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    name = evaluation_name(options, options.name)
    # All splits, before the first is scored: the last one's mistake would show hours later.
    by_split = members_by_split(run, manifest, options.split, options)
    for split, members in by_split.items():
        _require_segments(run, split, options, members)
        require_own_folder(run, split, name, members)

    if missing := missing_videos(manifest):
        on_event(EvalNotice(message=missing))
    for split, members in by_split.items():
        if alone := why_alone(manifest, split, options, members):
            on_event(EvalNotice(message=alone))

    with recorded(run, "fuse-eval", asdict(options)):
        results = [
            evaluate_locked(run, manifest, split, options, on_event, name=name, members=members, pages=pages)
            for split, members in by_split.items()
        ]
        mean = None
        if options.split == ALL_SPLITS:
            page = run.fusion("1", name).with_name("report.html")
            mean = mean_of_splits(results, dataset=manifest.dataset, report=str(page))
            publish_json(page.with_name("all.json"), mean)
            publish_bytes(page, pages.mean(run.path.name, mean).encode())
    return Evaluation(splits=tuple(results), mean=mean)


def evaluate_locked(
    run: RunDir,
    manifest: Manifest,
    split: str,
    settings: EvalSettings,
    on_event: OnEvent,
    *,
    members: Members | None = None,
    name: str = DEFAULT,
    pages: Pages,
) -> SplitResult:
    """Evaluate one split while no other process does, and write its report; see ``evaluate_run``.

    ``members`` are the trainings of each stream; None takes the default one of each.
    """
    if members is None:
        members = dict.fromkeys(settings.scored_streams, (DEFAULT,))
    out_dir = run.fusion(split, name)
    make_inside(out_dir, run.path)
    locks = [out_dir / "lock.json"]
    # The scores of a training lie with it, and two evaluations may want them at the same time.
    locks += sorted(
        run.training(stream, split, item) / "scoring-lock.json"
        for stream, names in members.items()
        for item in names
    )
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(run_lock(lock, activity="evaluation", to_break=f"delete {lock}"))
        # All are loaded first: a damaged model is found before hours of scoring with another.
        models = load_models(run, split, members, settings.device)
        result = evaluate_split(run, manifest, split, settings, models, name=name, on_event=on_event)
        drawn = {stream: next(iter(own.values())) for stream, own in models.items()}
        page = pages.split(
            run, manifest, result, drawn, lambda done, total: on_event(PageProgress(done=done, total=total))
        )
        publish_bytes(out_dir / "report.html", page.encode())
    return result


def check_options(options: EvalOptions, *, files_are_here: bool = True) -> None:
    """Refuse options that do not fit together, before any work.

    Args:
        options: of fuse-eval.
        files_are_here: whether score files must exist on this machine.

    Raises:
        ValueError: names the option.
        StinPipeError: a score file is missing.
    """
    if options.tune_fusion and (options.fusion_weights is not None or options.files):
        other = "--fusion-weights" if options.fusion_weights is not None else "--scores"
        raise ArgumentError(
            f"--tune-fusion and {other} exclude each other: weights are chosen on held-out videos that both "
            "streams of the run score",
            "tune_fusion",
        )
    check_member_names(options)
    if options.files and options.split == ALL_SPLITS:
        raise ArgumentError("--scores: a score file belongs to one split; give --split N", "files", "split")

    # Files before weights: a misspelled file is the likelier mistake, and easier to see.
    if files_are_here:
        for file in options.files.values():
            require_score_file(file)

    further = options.stream_names[len(STREAMS) :]
    if options.fusion_weights is None and further:
        needs = "needs a weight of its own" if len(further) == 1 else "need weights of their own"
        raise ArgumentError(
            f"--fusion-weights: {' and '.join(further)} {needs}: give 1,1.5{',W' * len(further)}", "files"
        )

    try:
        check_weights(options.weights, names=options.stream_names)
    except ValueError as error:
        raise ArgumentError(f"--fusion-weights: {error}", "fusion_weights") from error


def check_segments(settings: EvalSettings, *, spatial: StreamConfig) -> None:
    """Refuse one clip a video where the spatial stream compares frames of several.

    Raises:
        ValueError: says how many it needs.
    """
    if settings.segments < 2 and "spatial" in settings.scored_streams and not spatial.is_plain:
        raise ArgumentError(
            f"--segments: the spatial stream compares clips of a video, so it needs 2 or more, got "
            f"{settings.segments}; only a stream trained with --plain needs no second clip",
            "segments",
        )


def check_held_out(settings: EvalSettings, trainings: Mapping[str, TrainConfig]) -> None:
    """Refuse --tune-fusion where a training will hold no video out.

    Raises:
        ValueError: names the stream.
    """
    for stream, config in trainings.items():
        if settings.tune_fusion and config.val_share == 0:
            raise ArgumentError(
                f"--tune-fusion: the {stream} stream holds no video out (val_share = 0); set val_share = 0.1 "
                "for both trainings, or leave --tune-fusion out",
                "tune_fusion",
            )


def _require_segments(run: RunDir, split: str, settings: EvalSettings, members: Members) -> None:
    """Refuse one clip a video for spatial models that compare several.

    Raises:
        ValueError: says how many they need.
    """
    # Only so few clips are worth an extra look into the files; `load_models` is to be the only reader.
    if settings.segments < 2:
        for name in members.get("spatial", ()):
            check_segments(settings, spatial=read_model_info(model_path(run, "spatial", split, name)).stream)
