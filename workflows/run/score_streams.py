"""The scores that fuse-eval fuses: of the run's streams, of other programs' files, and of held-out videos."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stin_pipe.stin.device import Amp, choose_device, resolve_amp
from stin_pipe.stin.network.model_file import ModelInfo, load_model, read_model_info
from stin_pipe.stin.results.foreign_scores import read_foreign_scores
from stin_pipe.stin.results.stored import read_result
from stin_pipe.stin.scoring.fusion import TSN_WEIGHTS, FusionPoint
from stin_pipe.stin.scoring.score_split import TestProtocol, score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest, ManifestVideo
from stin_pipe.stin.training.config import config_from_json
from stin_pipe.stin.training.holdout import divide_training_list, list_digest
from stin_pipe.workflows.terminal.output import Output

STREAMS = ("spatial", "temporal")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How a split is scored and fused.

    Attributes:
        segments, crops: clips of a video and views of a clip.
        weights: of the streams in the order of the fusion; None takes TSN's, or tunes them.
        tune: choose the weights on the held-out part of the training list.
        when: where the weighted mean is taken.
        aux: share of the auxiliary scores in each stream's; None as the models say.
        files: stream -> score file of another program.
        amp, device, loader_workers: where and how the networks run.
    """

    segments: int = 25
    crops: int = 10
    weights: tuple[float, ...] | None = None
    tune: bool = False
    when: FusionPoint = "before_softmax"
    aux: float | None = None
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    amp: Amp = "auto"
    device: str = "auto"
    loader_workers: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Streams in the order of the fusion: spatial, temporal, then those that only files know."""
        return (*STREAMS, *(name for name in self.files if name not in STREAMS))

    @property
    def given_weights(self) -> tuple[float, ...]:
        """The weights, TSN's where none are given."""
        return TSN_WEIGHTS if self.weights is None else self.weights

    def protocol(self) -> TestProtocol:
        """Return the protocol; the device decides the precision."""
        amp = resolve_amp(self.amp, choose_device(self.device))
        precision: Literal["fp32", "bf16", "fp16"] = "fp32" if amp == "off" else amp
        return TestProtocol(num_segments=self.segments, num_crops=self.crops, precision=precision)


@dataclass(frozen=True, kw_only=True)
class StreamScores:
    """The scores of one stream, and the model that made them, if one of this run did."""

    scores: Scores
    info: ModelInfo | None


def score_test_list(
    output: Output, run: RunDir, manifest: Manifest, split: str, settings: EvalSettings
) -> tuple[StreamScores, ...]:
    """Score the test list of a split with each stream, or read what another program scored.

    Raises:
        StinPipeError: a file does not fit the list; see ``score_split`` for the rest.
    """
    labels = {video.id: video.label for video in manifest.subset(split, "test")}
    found = []
    for name in settings.names:
        if name in settings.files:
            scores = read_foreign_scores(
                settings.files[name],
                stream=name,
                labels=labels,
                class_names=manifest.classes,
                notify=output.warn,
            )
            found.append(StreamScores(scores=scores, info=None))
            continue
        scores = _score(output, run, manifest, split, name, settings, videos=None)
        info = read_model_info(model_path(run, name, split))
        found.append(StreamScores(scores=_with_aux(scores, settings), info=info))
    return tuple(found)


def score_held_out(
    output: Output, run: RunDir, manifest: Manifest, split: str, settings: EvalSettings
) -> tuple[Scores, Scores]:
    """Score the videos of the training list that neither stream was trained on."""
    videos = held_out_videos(output, run, manifest, split)
    spatial, temporal = (
        _with_aux(_score(output, run, manifest, split, name, settings, videos=videos), settings)
        for name in STREAMS
    )
    return spatial, temporal


def held_out_videos(output: Output, run: RunDir, manifest: Manifest, split: str) -> tuple[ManifestVideo, ...]:
    """Return the videos that both trainings held out; the test list is not read.

    Raises:
        StinPipeError: if a training held nothing out, if they have no held-out video in common, or if the run
            has other videos than when a stream was trained.
    """
    held: dict[str, tuple[ManifestVideo, ...]] = {}
    for stream in STREAMS:
        path = run.training(stream, split) / "config.json"
        try:
            stored = json.loads(path.read_text())
            config = config_from_json(stored["config"])
            trained_on = stored["training_list"]
        except (OSError, ValueError, KeyError) as error:
            raise StinPipeError(
                f"{path}: cannot be read ({error}), but --tune-fusion must know which videos the {stream} "
                "stream held out; train it again, or leave --tune-fusion out"
            ) from error
        lists = divide_training_list(manifest, split=split, share=config.val_share)
        if list_digest(lists.train) != trained_on:
            raise StinPipeError(
                f"{path}: the run's training list has changed since the {stream} stream was trained, so its "
                "held-out part is no longer known; train it again, or leave --tune-fusion out"
            )
        if config.select == "best":
            output.say(
                f"the {stream} stream is the best of its training on the held-out part, so it looks better "
                "there than it is; the weight may lean towards it"
            )
        held[stream] = lists.held_out
    spatial, temporal = ({video.id for video in held[stream]} for stream in STREAMS)
    if spatial != temporal:
        output.say(
            f"the streams held out different videos ({len(spatial)} and {len(temporal)}, --val-share); the "
            f"weight is chosen on the {len(spatial & temporal)} that neither was trained on"
        )
    videos = tuple(video for video in held["spatial"] if video.id in temporal)
    if not videos:
        raise StinPipeError(
            f"--tune-fusion: no video of split {split} was held out by both streams ({len(spatial)} by the "
            f"spatial, {len(temporal)} by the temporal one); train both with --val-share 0.1, say, or leave "
            "--tune-fusion out"
        )
    return videos


def training_counts(run: RunDir, split: str) -> dict[str, dict[str, int]]:
    """Return ``train`` and ``held_out``: stream -> number of videos, for the trainings that say so.

    Raises:
        StinPipeError: the result of a training is damaged.
    """
    found: dict[str, dict[str, int]] = {"train": {}, "held_out": {}}
    for stream in STREAMS:
        folder = run.training(stream, split)
        if not (folder / "result.json").exists():
            continue
        value = read_result(folder)
        if not value:
            raise StinPipeError(
                f"{folder / 'result.json'}: is damaged; delete it and give `stin-pipe train-{stream} --run "
                f"{run.path} --split {split}` again, which writes it anew from the last checkpoint"
            )
        found["train"][stream] = value["num_train"]
        found["held_out"][stream] = value["num_held_out"]
    return found


def score_file_digests(folder: Path, streams: Sequence[str]) -> dict[str, str]:
    """Return stream -> sha256 of its score file in the folder of an evaluation."""
    return {name: hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest() for name in streams}


def model_path(run: RunDir, stream: str, split: str) -> Path:
    """Return where a trained stream of a run is."""
    return run.training(stream, split) / "model.safetensors"


def _score(
    output: Output,
    run: RunDir,
    manifest: Manifest,
    split: str,
    stream: str,
    settings: EvalSettings,
    *,
    videos: tuple[ManifestVideo, ...] | None,
) -> Scores:
    """Score the test list, or these videos of the training list; goes on where a killed scoring stopped."""
    model = load_model(model_path(run, stream, split), device=choose_device(settings.device))
    total = len(manifest.subset(split, "test")) if videos is None else len(videos)
    label = f"score {stream}" + ("" if videos is None else " (held out)")
    name = f"{stream}.npz" if videos is None else f"held-out-{stream}.npz"
    with output.progress(label, total, unit="videos") as meter:
        return score_split(
            model,
            manifest=manifest,
            extract_dir=run.extract,
            split=split,
            subset="test" if videos is None else "train",
            videos=videos,
            protocol=settings.protocol(),
            out_path=run.fusion(split) / name,
            loader_workers=settings.loader_workers,
            on_progress=lambda done, _total: meter.update(done),
            notify=output.warn,
        )


def _with_aux(scores: Scores, settings: EvalSettings) -> Scores:
    return scores if settings.aux is None else scores.with_aux(settings.aux)
