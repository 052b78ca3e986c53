"""The evaluation stage: the finished streams of a split -> scores, their fusion and its metrics.

It writes into ``fuse-eval/splitN`` of a run, or ``fuse-eval/NAME/splitN``: a score file of each stream and
of the fusion, predictions.jsonl and metrics.json. The scores of each training lie in its own folder. What
happens on the way is told to ``on_event``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stin_pipe.stin.device import choose_device
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.network.model_file import MODEL_FILE, RESULT_FILE, TrainedModel, load_model
from stin_pipe.stin.results.foreign_scores import read_foreign_scores
from stin_pipe.stin.results.how_made import how_made, protocol_json
from stin_pipe.stin.results.literature import differences, published
from stin_pipe.stin.results.split_result import (
    Literature,
    SplitResult,
    judge_split,
    prediction_lines,
    recordings_of,
)
from stin_pipe.stin.results.stored import read_metrics, read_result, score_file_digests
from stin_pipe.stin.results.trained import Training, read_training
from stin_pipe.stin.results.tuning import tune_fusion
from stin_pipe.stin.scoring.fusion import FUSED, FusedScores, accuracy, fuse, mean_of_members
from stin_pipe.stin.scoring.score_split import score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.scoring.settings import STREAMS, EvalSettings, Member, StreamScores
from stin_pipe.stin.shards.bounded import FileKind, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.shards.run_dir import DEFAULT, HELD_OUT_FILE, SCORES_FILE, RunDir
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, ManifestVideo, Stream, list_digest
from stin_pipe.stin.training.config import config_from_json
from stin_pipe.stin.training.holdout import divide_training_list

CONFIG = FileKind(name="configuration of the training")


@dataclass(frozen=True, kw_only=True)
class ScoringProgress:
    """How many videos of a list a training of one stream has scored."""

    stream: str
    training: str = DEFAULT
    videos: Literal["test", "held out"]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class EvalNotice:
    """Something a person should read."""

    message: str
    level: Literal["note", "warning"] = "warning"


@dataclass(frozen=True, kw_only=True)
class PageProgress:
    """How many of the telling videos the page has drawn."""

    done: int
    total: int


EvalEvent = ScoringProgress | PageProgress | EvalNotice
OnEvent = Callable[[EvalEvent], None]


Models = Mapping[str, Mapping[str, TrainedModel]]
"""Stream -> name of a training -> its model. The scores of a stream are the mean over its models."""


def evaluate_split(
    run: RunDir,
    manifest: Manifest,
    split: str,
    settings: EvalSettings,
    models: Models,
    *,
    name: str = DEFAULT,
    on_event: OnEvent = lambda _event: None,
) -> SplitResult:
    """Score, fuse and judge one split, and write its scores, predictions and metrics.

    Args:
        run: where shards, trainings and results lie.
        manifest: of the run.
        split: name of the split.
        settings: how it is scored and fused.
        models: of the streams that take part and that no score file replaces; see ``load_models``.
        name: of the evaluation.
        on_event: called with progress and notices.

    Raises:
        StinPipeError: no test video, nothing to tune on, or a score file that does not fit the test list.
    """
    out_dir = run.fusion(split, name)
    num_trained, num_held_out = _training_counts(run, split, models)
    scoring = _Scoring(run, manifest, split, settings, models, on_event)

    # The weights are settled before anything is known of the test list.
    tuning = None
    if settings.tune_fusion:
        tuning = tune_fusion(*scoring.held_out(), when=settings.when, recordings=recordings_of(manifest))
    weights = settings.weights if tuning is None else tuning.weights

    streams = scoring.test_list()
    scored = [scoring.as_fused(item) for item in streams]
    fused = fuse(*scored, weights=weights, when=settings.when) if len(scored) > 1 else None
    _save_scores(out_dir, streams, fused)

    result = judge_split(
        split,
        scored,
        fused,
        manifest,
        protocol=protocol_json(streams, settings, tuning),
        report=str(out_dir / "report.html"),
        tuning=tuning,
        literature=_literature(manifest, split, streams, settings, num_held_out),
        how_made=how_made(manifest, streams, settings, weights, tuning),
        trainings=_how_trained(run, split, models),
        trained=num_trained,
        held_out=num_held_out,
        score_files=score_file_digests(out_dir, [*models, *([FUSED] if fused else [])]),
    )

    # metrics.json last: where it is, the rest is whole, and compare checks the score files against it.
    _notice_replaced(out_dir, result, on_event)
    publish_bytes(out_dir / "predictions.jsonl", prediction_lines(result))
    publish_json(out_dir / "metrics.json", result.metrics)
    return result


def load_models(run: RunDir, split: str, members: Mapping[StreamName, Sequence[str]], device: str) -> Models:
    """Load the models of the trainings that take part; an evaluation reads each file only here.

    Args:
        run: of the trainings.
        split: their split.
        members: stream -> names of its trainings.
        device: as in ``EvalSettings``.

    Raises:
        StinPipeError: if a model is missing or damaged, or of another stream.
    """
    chosen = choose_device(device)
    models: dict[str, dict[str, TrainedModel]] = {}
    for stream, names in members.items():
        models[stream] = {}
        for name in names:
            path = model_path(run, stream, split, name)
            model = load_model(path, device=chosen)
            if model.info.stream_name != stream:
                raise StinPipeError(
                    f"{path}: is a model of the {model.info.stream_name} stream; give its name as "
                    f"--{model.info.stream_name} {name}"
                )
            models[stream][name] = model
    return models


def model_path(run: RunDir, stream: str, split: str, name: str = DEFAULT) -> Path:
    """Return where a run keeps a trained stream."""
    return run.training(stream, split, name) / MODEL_FILE


class _Scoring:
    """Scores lists of videos of one split with the run's streams."""

    def __init__(
        self,
        run: RunDir,
        manifest: Manifest,
        split: str,
        settings: EvalSettings,
        models: Models,
        on_event: OnEvent,
    ) -> None:
        self.run = run
        self.manifest = manifest
        self.split = split
        self.settings = settings
        self.models = models
        self.on_event = on_event

    def test_list(self) -> tuple[StreamScores, ...]:
        """Score the test list with each stream, or read what another program scored."""
        # Only videos that every stream can see: the streams are compared and fused video by video.
        stored: list[Stream] = [STORED_OF[name] for name in self.models]
        videos = self.manifest.subset(self.split, "test", *stored)
        labels = {video.id: video.label for video in videos}
        streams = []
        for stream in self.settings.stream_names:
            if stream in self.models:
                streams.append(self._score(stream, videos, "test"))
            elif stream in self.settings.files:
                scores = read_foreign_scores(
                    self.settings.files[stream],
                    stream=stream,
                    labels=labels,
                    class_names=self.manifest.classes,
                    scores_as=self.settings.scores_as,
                    notify=self._warn,
                )
                taken = f"{stream}: scores of {self.settings.files[stream]}: {scores.protocol['values']}"
                self.on_event(EvalNotice(message=taken, level="note"))
                streams.append(StreamScores(scores=scores))
        return tuple(streams)

    def held_out(self) -> tuple[Scores, Scores]:
        """Score the videos of the training list that no model was trained on."""
        videos = held_out_videos(self.run, self.manifest, self.split, self.models, self.on_event)
        spatial, temporal = (self._score(stream, videos, "held out") for stream in STREAMS)
        return self.as_fused(spatial), self.as_fused(temporal)

    def as_fused(self, item: StreamScores) -> Scores:
        """Return the scores of a stream with the share of auxiliary ones that the settings ask for.

        The file keeps the model's own share, so that another share needs no new scoring.
        """
        return item.scores if self.settings.aux is None else item.scores.with_aux(self.settings.aux)

    def _score(
        self, stream: str, videos: Sequence[ManifestVideo], which: Literal["test", "held out"]
    ) -> StreamScores:
        """Score videos with the models of one stream."""
        own = [self._score_one(stream, name, videos, which) for name in self.models[stream]]
        members = [
            Member(name=name, info=model.info, digest=model.digest, aux=self._aux_share(model, scores))
            for (name, model), scores in zip(self.models[stream].items(), own, strict=True)
        ]
        if len(own) > 1 and self.settings.aux is not None:
            own = [scores.with_aux(self.settings.aux) for scores in own]
        return StreamScores(scores=mean_of_members(own, when=self.settings.when), members=tuple(members))

    def _aux_share(self, model: TrainedModel, scores: Scores) -> float:
        if scores.aux_logits is None:
            return 0.0
        return model.info.stream.aux_at_test if self.settings.aux is None else self.settings.aux

    def _score_one(
        self, stream: str, name: str, videos: Sequence[ManifestVideo], which: Literal["test", "held out"]
    ) -> Scores:
        """Score videos with one model; a scoring that was killed goes on where it stopped.

        The file lies with the training, so that every evaluation in which it takes part shares it.
        """

        def progress(done: int, total: int) -> None:
            event = ScoringProgress(stream=stream, training=name, videos=which, done=done, total=total)
            self.on_event(event)

        is_test = which == "test"
        folder = self.run.training(stream, self.split, name)
        path = folder / (SCORES_FILE if is_test else HELD_OUT_FILE)
        if name == DEFAULT:
            earlier = f"{stream}.npz" if is_test else f"held-out-{stream}.npz"
            _take_over(self.run.fusion(self.split) / earlier, path)

        progress(0, len(videos))
        scores = score_split(
            self.models[stream][name],
            manifest=self.manifest,
            extract_dir=self.run.extract,
            split=self.split,
            subset="test" if is_test else "train",
            videos=videos,
            protocol=self.settings.protocol,
            out_path=path,
            loader_workers=self.settings.loader_workers,
            on_progress=progress,
            notify=self._warn,
        )
        if is_test:
            top1 = accuracy(scores.scores, scores.labels).top1
            about = {"model_sha256": scores.model_digest, "top1": top1, "num_videos": len(scores.ids)}
            publish_json(path.with_suffix(".json"), {**about, "protocol": asdict(self.settings.protocol)})
        return scores

    def _warn(self, message: str) -> None:
        self.on_event(EvalNotice(message=message))


def _take_over(earlier: Path, path: Path) -> None:
    """Use what 0.1.0 scored of the default training: it kept scores and journal with the evaluation."""
    if path.exists() or path.with_suffix(".journal").exists():
        return
    if earlier.exists():
        publish_bytes(path, earlier.read_bytes())
    elif earlier.with_suffix(".journal").exists():
        earlier.with_suffix(".journal").rename(path.with_suffix(".journal"))


def held_out_videos(
    run: RunDir,
    manifest: Manifest,
    split: str,
    members: Mapping[str, Iterable[str]],
    on_event: OnEvent = lambda _event: None,
) -> tuple[ManifestVideo, ...]:
    """Return the videos that all trainings held out; the test list is not read.

    Args:
        run: of the trainings.
        manifest: of the run.
        split: of the trainings.
        members: stream -> names of its trainings.
        on_event: called with notices.

    Raises:
        StinPipeError: if a training held nothing out, if they have no held-out video in common, or if the run
            has other videos than when a stream was trained.
    """
    held_out = {
        (stream, name): _held_out_of(run, manifest, split, stream, name, on_event)
        for stream in STREAMS
        for name in members[stream]
    }
    sets = [{video.id for video in videos} for videos in held_out.values()]
    common = set.intersection(*sets)
    counts = " and ".join(str(len(ids)) for ids in sets)
    if any(ids != common for ids in sets):
        message = (
            f"the streams held out different videos ({counts}, --val-share); the weights are chosen on the "
            f"{len(common)} that neither was trained on"
        )
        on_event(EvalNotice(message=message, level="note"))

    videos = tuple(video for video in next(iter(held_out.values())) if video.id in common)
    if not videos:
        each = ", ".join(f"{len(ids)} by {stream} {name}" for (stream, name), ids in held_out.items())
        raise StinPipeError(
            f"--tune-fusion: no video of split {split} was held out by all trainings ({each}); train both "
            "streams with --val-share 0.1, say, or leave --tune-fusion out"
        )
    return videos


def _held_out_of(
    run: RunDir, manifest: Manifest, split: str, stream: StreamName, name: str, on_event: OnEvent
) -> tuple[ManifestVideo, ...]:
    """Return the videos that one training held out."""
    path = run.training(stream, split, name) / "config.json"
    try:
        stored = read_json(path, CONFIG)
        config = config_from_json(stored["config"])
        trained_on = stored["training_list"]
    except (FileNotFoundError, StinPipeError, KeyError, TypeError) as error:
        raise StinPipeError(
            f"{path}: cannot be read ({error}), but --tune-fusion must know which videos the {stream} "
            "stream held out; train it again, or leave --tune-fusion out"
        ) from error

    # Divided as the training did; only an unchanged list has the same held-out part.
    stored_stream = STORED_OF[stream]
    lists = divide_training_list(manifest, split=split, share=config.val_share, stream=stored_stream)
    if list_digest(lists.train, stored_stream) != trained_on:
        raise StinPipeError(
            f"{path}: the run's training list has changed since the {stream} stream was trained, so its "
            "held-out part is no longer known; train it again, or leave --tune-fusion out"
        )

    if config.select == "best" or config.patience:
        message = (
            f"the {stream} stream was selected as the best on its held-out part, so it looks better "
            "there than it is; the weights may favour it"
        )
        on_event(EvalNotice(message=message, level="note"))
    return lists.held_out


def _save_scores(out_dir: Path, streams: Sequence[StreamScores], fused: FusedScores | None) -> None:
    """Write the scores of our models and of the fusion, and leave none of an earlier fusion."""
    for item in streams:
        if item.members:
            item.scores.save(out_dir / f"{item.name}.npz")
    if fused is not None:
        fused.save(out_dir / f"{FUSED}.npz")
    else:
        (out_dir / f"{FUSED}.npz").unlink(missing_ok=True)


def _how_trained(run: RunDir, split: str, members: Mapping[str, Iterable[str]]) -> dict[str, list[Training]]:
    """Return how each model was trained, by stream."""
    return {
        stream: [
            read_training(run.training(stream, split, name), stream=stream, run_path=run.path, name=name)
            for name in names
        ]
        for stream, names in members.items()
    }


def _training_counts(
    run: RunDir, split: str, members: Mapping[str, Iterable[str]]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many videos each stream was trained on, and how many it held out, where its result says so;
    of several trainings of a stream, those of the first.

    Raises:
        StinPipeError: the result of a training is damaged.
    """
    num_trained, num_held_out = {}, {}
    for stream, names in members.items():
        for name in names:
            folder = run.training(stream, split, name)
            if not (folder / RESULT_FILE).exists():
                continue
            result = read_result(folder)
            if not result:
                raise StinPipeError(
                    f"{folder / RESULT_FILE}: is damaged; delete it and run `stin-pipe train-{stream} --run "
                    f"{run.path} --split {split}` again, which rewrites it from the last checkpoint"
                )
            num_trained.setdefault(stream, result["num_train"])
            num_held_out.setdefault(stream, result["num_held_out"])
    return num_trained, num_held_out


def _notice_replaced(out_dir: Path, result: SplitResult, on_event: OnEvent) -> None:
    """Give notice when results that were made in another way are about to be replaced."""

    def way(metrics: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {"weights": metrics["fusion_weights"], "fusion": metrics["fusion"]}
        silent = ("weights_from", "members")  # what they decide shows in the weights and models
        return {name: value for name, value in metrics["protocol"].items() if name not in silent} | chosen

    earlier = read_metrics(out_dir)
    if not earlier:
        return
    before, now = way(earlier), way(result.metrics)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        message = (
            f"{out_dir}: earlier results with other {', '.join(changed)} are replaced; copy the "
            "folder first to keep both"
        )
        on_event(EvalNotice(message=message))


def _literature(
    manifest: Manifest,
    split: str,
    streams: Sequence[StreamScores],
    settings: EvalSettings,
    num_held_out: Mapping[str, int],
) -> Literature:
    """Return the published numbers of split 1 of this data set, and how our protocol differs from theirs."""
    rows = published(manifest.dataset, "split 1") if split == "1" else ()
    if not rows:
        return Literature(rows=(), differences=())
    return Literature(
        rows=rows,
        differences=differences(
            backbones={item.name: item.info.stream.backbone for item in streams if item.info},
            num_segments=settings.segments,
            num_crops=settings.crops,
            num_held_out=max(num_held_out.values(), default=0),
        ),
    )
