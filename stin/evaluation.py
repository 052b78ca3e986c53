"""The evaluation stage: the finished streams of a split -> scores, their fusion and its metrics.

It writes into ``fuse-eval/splitN`` of a run: a score file of each stream and of the fusion,
predictions.jsonl and metrics.json. What happens on the way is told to ``on_event``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stin_pipe.stin.device import choose_device
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
from stin_pipe.stin.scoring.fusion import fuse
from stin_pipe.stin.scoring.score_split import score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.scoring.settings import STREAMS, EvalSettings, StreamScores
from stin_pipe.stin.shards.bounded import FileKind, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, ManifestVideo, Stream, list_digest
from stin_pipe.stin.training.config import config_from_json
from stin_pipe.stin.training.holdout import divide_training_list

CONFIG = FileKind(name="configuration of the training")


@dataclass(frozen=True, kw_only=True)
class ScoringProgress:
    """How many videos of a list one stream has scored."""

    stream: str
    videos: Literal["test", "held out"]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class EvalNotice:
    """Something a person should read."""

    message: str
    level: Literal["note", "warning"] = "warning"


EvalEvent = ScoringProgress | EvalNotice
OnEvent = Callable[[EvalEvent], None]


def evaluate_split(
    run: RunDir,
    manifest: Manifest,
    split: str,
    settings: EvalSettings,
    models: Mapping[str, TrainedModel],
    *,
    on_event: OnEvent = lambda _event: None,
) -> SplitResult:
    """Score, fuse and judge one split, and write its scores, predictions and metrics.

    Args:
        run: where shards, trainings and results lie.
        manifest: of the run.
        split: name of the split.
        settings: how it is scored and fused.
        models: stream -> model of each stream that no score file replaces; see ``load_streams``.
        on_event: called with progress and notices.

    Raises:
        StinPipeError: if the split has no test video, a score file does not fit the test list, or there is
            nothing to tune the fusion on.
    """
    out_dir = run.fusion(split)
    num_trained, num_held_out = _training_counts(run, split)
    scoring = _Scoring(run, manifest, split, settings, models, on_event)

    # The weights are settled before anything is known of the test list.
    tuning = None
    if settings.tune_fusion:
        tuning = tune_fusion(*scoring.held_out(), when=settings.when, recordings=recordings_of(manifest))
    weights = settings.weights if tuning is None else tuning.weights

    streams = scoring.test_list()
    fused = fuse(*(item.scores for item in streams), weights=weights, when=settings.when)
    fused.save(out_dir / "fused.npz")

    result = judge_split(
        split,
        [item.scores for item in streams],
        fused,
        manifest,
        protocol=protocol_json(streams, settings, tuning),
        report=str(out_dir / "report.html"),
        tuning=tuning,
        literature=_literature(manifest, split, streams, settings, num_held_out),
        how_made=how_made(manifest, streams, settings, weights, tuning),
        trainings=_trainings(run, split, settings),
        trained=num_trained,
        held_out=num_held_out,
        score_files=score_file_digests(out_dir, [*settings.scored_streams, fused.stream]),
    )

    # metrics.json last: where it is, the rest is whole, and compare checks the score files against it.
    _notice_replaced(out_dir, result, on_event)
    publish_bytes(out_dir / "predictions.jsonl", prediction_lines(result))
    publish_json(out_dir / "metrics.json", result.metrics)
    return result


def load_streams(run: RunDir, split: str, settings: EvalSettings) -> dict[str, TrainedModel]:
    """Load the model of each stream that no score file replaces; an evaluation reads each file only here.

    Raises:
        StinPipeError: if a model is missing or damaged.
    """
    device = choose_device(settings.device)
    return {
        stream: load_model(model_path(run, stream, split), device=device)
        for stream in settings.scored_streams
    }


def model_path(run: RunDir, stream: str, split: str) -> Path:
    """Return where a run keeps a trained stream."""
    return run.training(stream, split) / MODEL_FILE


class _Scoring:
    """Scores lists of videos of one split with the run's streams."""

    def __init__(
        self,
        run: RunDir,
        manifest: Manifest,
        split: str,
        settings: EvalSettings,
        models: Mapping[str, TrainedModel],
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
        for name in self.settings.stream_names:
            if name in self.models:
                scores = self._score(name, videos, "test")
                streams.append(StreamScores(scores=scores, info=self.models[name].info))
                continue
            scores = read_foreign_scores(
                self.settings.files[name],
                stream=name,
                labels=labels,
                class_names=self.manifest.classes,
                scores_as=self.settings.scores_as,
                notify=self._warn,
            )
            taken = f"{name}: scores of {self.settings.files[name]}: {scores.protocol['values']}"
            self.on_event(EvalNotice(message=taken, level="note"))
            streams.append(StreamScores(scores=scores, info=None))
        return tuple(streams)

    def held_out(self) -> tuple[Scores, Scores]:
        """Score the videos of the training list that neither stream was trained on."""
        videos = held_out_videos(self.run, self.manifest, self.split, self.on_event)
        spatial, temporal = (self._score(name, videos, "held out") for name in STREAMS)
        return spatial, temporal

    def _score(
        self, stream: str, videos: Sequence[ManifestVideo], which: Literal["test", "held out"]
    ) -> Scores:
        """Score videos with one stream; a scoring that was killed goes on where it stopped."""

        def progress(done: int, total: int) -> None:
            self.on_event(ScoringProgress(stream=stream, videos=which, done=done, total=total))

        is_test = which == "test"
        progress(0, len(videos))
        scores = score_split(
            self.models[stream],
            manifest=self.manifest,
            extract_dir=self.run.extract,
            split=self.split,
            subset="test" if is_test else "train",
            videos=videos,
            protocol=self.settings.protocol,
            out_path=self.run.fusion(self.split) / (f"{stream}.npz" if is_test else f"held-out-{stream}.npz"),
            loader_workers=self.settings.loader_workers,
            on_progress=progress,
            notify=self._warn,
        )
        # The file keeps the model's own share, so that another share needs no new scoring.
        return scores if self.settings.aux is None else scores.with_aux(self.settings.aux)

    def _warn(self, message: str) -> None:
        self.on_event(EvalNotice(message=message))


def held_out_videos(
    run: RunDir, manifest: Manifest, split: str, on_event: OnEvent = lambda _event: None
) -> tuple[ManifestVideo, ...]:
    """Return the videos that both trainings held out; the test list is not read.

    Raises:
        StinPipeError: if a training held nothing out, if they have no held-out video in common, or if the run
            has other videos than when a stream was trained.
    """
    held_out: dict[str, tuple[ManifestVideo, ...]] = {}
    for stream in STREAMS:
        path = run.training(stream, split) / "config.json"
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

        if config.select == "best":
            message = (
                f"the {stream} stream was selected as the best on its held-out part, so it looks better "
                "there than it is; the weights may favour it"
            )
            on_event(EvalNotice(message=message, level="note"))
        held_out[stream] = lists.held_out

    spatial, temporal = ({video.id for video in held_out[stream]} for stream in STREAMS)
    if spatial != temporal:
        message = (
            f"the streams held out different videos ({len(spatial)} and {len(temporal)}, --val-share); the "
            f"weights are chosen on the {len(spatial & temporal)} that neither was trained on"
        )
        on_event(EvalNotice(message=message, level="note"))

    videos = tuple(video for video in held_out["spatial"] if video.id in temporal)
    if not videos:
        raise StinPipeError(
            f"--tune-fusion: no video of split {split} was held out by both streams ({len(spatial)} by the "
            f"spatial, {len(temporal)} by the temporal one); train both with --val-share 0.1, say, or leave "
            "--tune-fusion out"
        )
    return videos


def _trainings(run: RunDir, split: str, settings: EvalSettings) -> dict[str, list[Training]]:
    """Return how the models were trained that scored the streams."""
    return {
        stream: [read_training(run.training(stream, split), stream=stream, run_path=run.path)]
        for stream in settings.scored_streams
    }


def _training_counts(run: RunDir, split: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many videos each stream was trained on, and how many it held out, where its result says so.

    Raises:
        StinPipeError: the result of a training is damaged.
    """
    num_trained, num_held_out = {}, {}
    for stream in STREAMS:
        folder = run.training(stream, split)
        if not (folder / RESULT_FILE).exists():
            continue
        result = read_result(folder)
        if not result:
            raise StinPipeError(
                f"{folder / RESULT_FILE}: is damaged; delete it and run `stin-pipe train-{stream} --run "
                f"{run.path} --split {split}` again, which rewrites it from the last checkpoint"
            )
        num_trained[stream] = result["num_train"]
        num_held_out[stream] = result["num_held_out"]
    return num_trained, num_held_out


def _notice_replaced(out_dir: Path, result: SplitResult, on_event: OnEvent) -> None:
    """Give notice when results that were made in another way are about to be replaced."""

    def way(metrics: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {"weights": metrics["fusion_weights"], "fusion": metrics["fusion"]}
        return {name: value for name, value in metrics["protocol"].items() if name != "weights_from"} | chosen

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
