"""Trained streams as one object that classifies videos: `load_model("runs/mine").predict("clip.mp4")`.

A video takes the same path as in a run, through a shard of its own in a temporary folder and through the
scoring of fuse-eval, so that it gets the scores that fuse-eval would give it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from stin_pipe.pipeline.listing.listing import display_name
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.device import choose_device
from stin_pipe.stin.evaluation import load_models
from stin_pipe.stin.network.config import StreamName, TemporalConfig
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.results.analysis import Answers, answers_of
from stin_pipe.stin.scoring.fusion import FUSED, fuse, mean_of_members, weighted_mean
from stin_pipe.stin.scoring.motion import Motion, measure_motion
from stin_pipe.stin.scoring.score_split import score_clip, score_split
from stin_pipe.stin.scoring.scorer import TestProtocol
from stin_pipe.stin.scoring.scores import Scores, log_softmax
from stin_pipe.stin.scoring.settings import STREAMS, EvalSettings
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir
from stin_pipe.stin.shards.schema import STORED_OF, Streams, join_streams
from stin_pipe.workflows.prediction.fusion_choice import (
    BetterStream,
    FusionChoice,
    better_stream,
    choose_fusion,
    evaluation_of,
)
from stin_pipe.workflows.prediction.one_video import (
    SPLIT,
    OneVideoRun,
    UnusableVideo,
    VideoFile,
    VideoSource,
    frames_in_memory,
    make_one_video_run,
    single_frame,
)
from stin_pipe.workflows.prediction.overlay import write_overlay
from stin_pipe.workflows.prediction.prediction import Prediction
from stin_pipe.workflows.prediction.stream_models import (
    StreamChoice,
    chosen_streams,
    common_params,
    load_streams,
    members_of_run,
)
from stin_pipe.workflows.run.members import check_member_names
from stin_pipe.workflows.run.run_dir import open_run

AnyPath = str | os.PathLike[str]
OneVideo = AnyPath | np.ndarray | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class PredictProgress:
    """What is being done for a video.

    Attributes:
        step: ``extraction`` of frames and flow, ``scoring`` by a stream, or drawing the ``overlay``.
        stream: which stream scores, else None.
        share: how much of the overlay is drawn, 0..1.
    """

    step: Literal["extraction", "scoring", "overlay"]
    stream: str | None = None
    share: float = 0.0


OnProgress = Callable[[PredictProgress], None]


def load_model(
    path: AnyPath | Sequence[AnyPath],
    *,
    split: str = "1",
    streams: StreamChoice | None = None,
    spatial: Sequence[str] = (),
    temporal: Sequence[str] = (),
    segments: int = 25,
    crops: int = 10,
    fusion_weights: Sequence[float] | None = None,
    device: str = "auto",
) -> "Model":
    """Load trained streams.

    Args:
        path: a run directory, the .safetensors of one stream, or those of both.
        split: split whose models are taken, for a run.
        streams: who decides: ``spatial``, ``temporal``, or both as ``fused``; None is whatever is trained.
        spatial: names of the run's trainings of the spatial stream; the mean of several is taken. None named
            is the default one, if it is trained.
        temporal: likewise of the temporal stream.
        segments: clips of a video.
        crops: views of a clip: 1, 5 or 10.
        fusion_weights: of the spatial and the temporal stream; by default as fuse-eval fused them in the run,
            else 1 and 1.5.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: for an argument out of its range, or two models of one stream.
        StinPipeError: no stream is trained, or not the one chosen, a file is no model, or the two do not fit
            together.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(item) for item in path]
    if not paths:
        raise ValueError("give a run directory, or the model file of one stream or of both")
    is_run = len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix != ".safetensors")
    run = open_run(paths[0]) if is_run and not paths[0].is_file() else None

    settings = EvalSettings(segments=segments, crops=crops, device=device)
    settings = replace(settings, spatial=tuple(spatial), temporal=tuple(temporal))
    _check_choice(settings, streams, fusion_weights, has_run=run is not None)

    # Arguments are checked before any weights are read: a large model takes seconds to load.
    names: Mapping[StreamName, tuple[str, ...]] = {}
    evaluation: str | None = DEFAULT
    if run is not None:
        names = members_of_run(run, split, named=settings.named, choice=streams)
        evaluation = evaluation_of(run, split, names)
    fusion = choose_fusion(fusion_weights, run=run, split=split, evaluation=evaluation)
    protocol = settings.protocol

    members = _load(paths, device, streams) if run is None else _load_of_run(run, split, names, device)
    fuses_as_run = run is not None and len(members) == len(STREAMS) and fusion_weights is None
    return Model(
        members=members,
        params=common_params(members),
        protocol=protocol,
        fusion=fusion,
        better=better_stream(run, split, evaluation) if run and fuses_as_run else None,
    )


def _load(
    files: Sequence[Path], device: str, streams: StreamChoice | None
) -> dict[str, tuple[TrainedModel, ...]]:
    alone = load_streams(files, device=choose_device(device), choice=streams)
    return {stream: (model,) for stream, model in alone.items()}


def _load_of_run(
    run: RunDir, split: str, names: Mapping[StreamName, tuple[str, ...]], device: str
) -> dict[str, tuple[TrainedModel, ...]]:
    loaded = load_models(run, split, names, device)
    return {stream: tuple(own.values()) for stream, own in loaded.items()}


def _check_choice(
    settings: EvalSettings,
    streams: StreamChoice | None,
    fusion_weights: Sequence[float] | None,
    *,
    has_run: bool,
) -> None:
    """Refuse weights where nothing is fused, and names of trainings without a run or of a stream not chosen.

    Raises:
        ValueError: names the option.
    """
    if streams not in (None, *get_args(StreamChoice)):
        raise ValueError(f"streams must be spatial, temporal or fused, got {streams!r}")
    if streams in STREAMS and fusion_weights is not None:
        raise ArgumentError(
            f"--streams {streams} fuses nothing; leave --fusion-weights out", "streams", "fusion_weights"
        )

    check_member_names(settings)
    for stream in settings.named:
        if not has_run or stream not in chosen_streams(streams):
            why = "needs a run" if not has_run else f"and --streams {streams} exclude each other"
            raise ArgumentError(f"--{stream}: {why}", stream)


@dataclass(frozen=True, kw_only=True, repr=False)
class Model:
    """One or both trained streams, and what they need to classify a video.

    Attributes:
        members: models of ``spatial`` and ``temporal``, as far as they are trained; several are an ensemble.
        params: how frames and flow of a video are made.
        protocol: segments and crops.
        fusion: how the streams are fused.
        better: the stream that would do better alone, by the evaluation of the run that the models are from.
    """

    members: Mapping[str, tuple[TrainedModel, ...]]
    params: ExtractParams
    protocol: TestProtocol
    fusion: FusionChoice
    better: BetterStream | None = None

    def __repr__(self) -> str:
        return f"<Model: {' + '.join(self.streams)}, {len(self.classes)} classes>"

    @property
    def streams(self) -> dict[str, TrainedModel]:
        """The first model of each stream, which an overlay shows."""
        return {stream: own[0] for stream, own in self.members.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return next(iter(self.streams.values())).info.classes

    def predict(
        self,
        video: OneVideo,
        *,
        fps: float | None = None,
        overlay: AnyPath | None = None,
        timeout_s: float = 3600.0,
        on_progress: OnProgress = lambda _progress: None,
    ) -> Prediction:
        """Classify one video.

        Args:
            video: path of a file, or frames (T, H, W, 3) uint8 RGB as a numpy array or torch tensor.
            fps: rate of the frames; a model whose videos were resampled (`extract --fps`) needs it. Without
                it an overlay runs at 25.
            overlay: .mp4 file to write, with flow, attention and the running prediction.
            timeout_s: seconds after which reading a file is given up.
            on_progress: called with what is being done.

        Raises:
            ValueError: frames of another type or shape, or a rate that is missing or of no use.
            UnusableVideo: the video gives no frames, or a single one and there is no spatial stream.
            StinPipeError: an overlay cannot be written.
        """
        source = self._source(video, fps=fps, timeout_s=timeout_s)
        # An overlay shows the flow, whoever decides.
        params = self.params.only(self._reads if overlay is None else "both")

        with tempfile.TemporaryDirectory(prefix="stin-pipe-predict-") as folder:
            on_progress(PredictProgress(step="extraction"))
            try:
                run = make_one_video_run(Path(folder), source, classes=self.classes, params=params)
            except UnusableVideo as error:
                # A single frame has no flow, but the spatial stream can still see it.
                if error.reason != "too_short" or "spatial" not in self.streams:
                    raise
                return self._predict_frame(source)

            prediction = self._predict_run(run, source.name, overlay, on_progress)
            if overlay is not None:
                write_overlay(
                    Path(overlay),
                    source.full_size(self.params),
                    run=run,
                    models=self.streams,
                    fusion=self.fusion,
                    prediction=prediction,
                    on_progress=lambda share: on_progress(PredictProgress(step="overlay", share=share)),
                )
        return prediction

    @property
    def _reads(self) -> Streams:
        """What the streams read of a video: nothing else is made of it."""
        return join_streams(STORED_OF[stream] for stream in self.streams)

    def _source(self, video: OneVideo, *, fps: float | None, timeout_s: float) -> VideoSource:
        if isinstance(video, str | os.PathLike):
            if fps is not None:
                raise ValueError("fps belongs to frames in memory; a file states its own rate")
            return VideoFile(path=Path(video), timeout_s=timeout_s)

        source = frames_in_memory(video, fps=fps)
        if self.params.fps is not None and fps is None:
            raise ValueError(
                f"the model was trained on videos resampled to {self.params.fps:g} frames a second; give the "
                "rate of these frames as fps"
            )
        return source

    def _predict_run(
        self, run: OneVideoRun, name: str, overlay: AnyPath | None, on_progress: OnProgress
    ) -> Prediction:
        """Score a video that is extracted, and fuse."""
        scores: dict[str, Scores] = {}
        for stream, models in self.members.items():
            on_progress(PredictProgress(step="scoring", stream=stream))
            parts = [
                score_split(
                    model,
                    manifest=run.manifest,
                    extract_dir=run.folder,
                    split=SPLIT,
                    protocol=self.protocol,
                    loader_workers=0,  # starting processes takes longer than reading one video
                )
                for model in models
            ]
            # An evaluation of the run may have chosen another share (--aux) than the trainings.
            shares = self.fusion.shares.get(stream)
            if shares is not None:
                parts = [part.with_aux(share) for part, share in zip(parts, shares, strict=True)]
            scores[stream] = mean_of_members(parts, when=self.fusion.when)

        both = len(scores) == len(STREAMS)
        if both:
            both_scores = (scores[stream] for stream in STREAMS)
            scores[FUSED] = fuse(*both_scores, weights=self.fusion.weights, when=self.fusion.when)

        return Prediction(
            source=display_name(name),
            num_frames=run.video.num_frames,
            classes=self.classes,
            answers={name: answers_of(part, [run.video.id]) for name, part in scores.items()},
            fusion=self.fusion if both else None,
            motion=measure_motion(run.reader(), ClipShape.of(run.video)) if run.video.has("flow") else None,
            stack_len=max(_stack_len(model) for model in self.streams.values()),
            notes=run.notes if run.notes.get("damaged") else None,
            overlay=None if overlay is None else os.fspath(overlay),
        )

    def _predict_frame(self, source: VideoSource) -> Prediction:
        """Classify a video of one frame, which has no flow, by the spatial stream alone."""
        models, when = self.members["spatial"], self.fusion.when
        frame = single_frame(source, self.params)
        shares = self.fusion.shares.get("spatial", (None,) * len(models))
        clips = [
            score_clip(model, rgb=frame, protocol=self.protocol, aux_share=share)
            for model, share in zip(models, shares, strict=True)
        ]
        logits = clips[0].logits[None]
        if len(clips) > 1:
            mean = weighted_mean([clip.logits[None] for clip in clips], [1.0] * len(clips), when=when)
            logits = mean if when == "before_softmax" else np.log(mean)
        return Prediction(
            source=display_name(source.name),
            num_frames=1,
            classes=self.classes,
            answers={
                "spatial": Answers(name="spatial", scores=logits, log_probabilities=log_softmax(logits))
            },
            fusion=None,
            motion=Motion(num_fields=0, mean_px=0.0, moving_share=0.0),
            stack_len=1,
        )


def _stack_len(model: TrainedModel) -> int:
    """Return how many flow fields the stream looks at as one clip; a spatial one needs none."""
    return model.info.stream.stack_len if isinstance(model.info.stream, TemporalConfig) else 1
