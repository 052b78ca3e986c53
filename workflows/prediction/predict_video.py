"""One raw video to what is said of it: by each stream, by their fusion, and how much moves in it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.network.streams import TemporalConfig
from stin_pipe.stin.results.analysis import Answers, answers_of, likeliest
from stin_pipe.stin.scoring.fusion import FUSED, fuse
from stin_pipe.stin.scoring.motion import Motion, measure_motion
from stin_pipe.stin.scoring.score_split import score_clip, score_split
from stin_pipe.stin.scoring.scorer import TestProtocol
from stin_pipe.stin.scoring.scores import Scores, log_softmax
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.prediction.fusion_choice import FusionChoice
from stin_pipe.workflows.prediction.one_video import UnusableVideo, one_video_run, single_frame


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is said of one video.

    Attributes:
        video: its path.
        num_frames: frames that were stored of it.
        spatial, temporal, fused: the five likeliest classes with score and probability, or None.
        fusion: how the streams were fused, or None.
        notes: what decoding said where the video is damaged in part, else None.
        motion: how much moves, and in ``doubt`` why that is too little to say, or an empty text.
        overlay: path of its overlay, where one was asked for.
    """

    video: str
    num_frames: int
    spatial: list[dict[str, Any]] | None
    temporal: list[dict[str, Any]] | None
    fused: list[dict[str, Any]] | None
    fusion: dict[str, Any] | None
    motion: dict[str, Any]
    overlay: str | None = None
    notes: dict[str, Any] | None = None


def predict_video(
    path: Path,
    models: Mapping[str, TrainedModel],
    params: ExtractParams,
    protocol: TestProtocol,
    fusion: FusionChoice,
    *,
    timeout_s: float,
    overlay: Path | None = None,
    tell: Callable[[str], None] = lambda _stage: None,
) -> Prediction:
    """Extract one video into a temporary shard, score it with each model, and draw its overlay.

    `tell` hears what is being done.

    Raises:
        UnusableVideo: it gives no frames, or a single one and there is no spatial model.
    """

    classes = next(iter(models.values())).info.classes
    with tempfile.TemporaryDirectory(prefix="stin-pipe-predict-") as name:
        tell("frames and flow")
        try:
            manifest, notes = one_video_run(Path(name), path, classes, params, timeout_s)
        except UnusableVideo as error:
            if error.reason != "too_short" or "spatial" not in models:
                raise
            return _predict_frame(path, models["spatial"], params, protocol, fusion, timeout_s)
        scores: dict[str, Scores] = {}
        for stream, model in models.items():
            tell(f"{stream} scores")
            scores[stream] = score_split(
                model,
                manifest=manifest,
                extract_dir=Path(name),
                split="1",
                protocol=protocol,
                loader_workers=0,
            )
        scores = {
            stream: found.with_aux(fusion.aux[stream]) if stream in fusion.aux else found
            for stream, found in scores.items()
        }
        (video,) = manifest.videos.values()
        if len(scores) == 2:
            scores[FUSED] = fuse(
                scores["spatial"], scores["temporal"], weights=fusion.weights, when=fusion.when
            )
        shown = {name: likeliest(answers_of(found, [video.id]), 0, classes) for name, found in scores.items()}
        stack_len = max(_stack_len(model) for model in models.values())
        motion = measure_motion(ShardReader(Path(name), manifest), ClipShape.of(video))
        if overlay is not None:
            _draw_overlay(overlay, path, Path(name), manifest, models, params, fusion, shown, tell)
    return Prediction(
        video=str(path),
        num_frames=video.num_frames,
        spatial=shown.get("spatial"),
        temporal=shown.get("temporal"),
        fused=shown.get("fused"),
        fusion=fusion.to_json() if "fused" in shown else None,
        motion=motion.to_json(stack_len=stack_len),
        overlay=None if overlay is None else str(overlay),
        notes=dict(notes) if notes.get("damaged") else None,
    )


def _predict_frame(
    path: Path,
    model: TrainedModel,
    params: ExtractParams,
    protocol: TestProtocol,
    fusion: FusionChoice,
    timeout_s: float,
) -> Prediction:
    """Classify a video of one frame, which has no flow, by the spatial stream alone."""

    scored = score_clip(
        model,
        rgb=single_frame(path, params, timeout_s),
        protocol=protocol,
        aux_share=fusion.aux.get("spatial"),
    )
    logits = scored.logits[None]
    answers = Answers(name="spatial", scores=logits, log_probabilities=log_softmax(logits))
    return Prediction(
        video=str(path),
        num_frames=1,
        spatial=likeliest(answers, 0, model.info.classes),
        temporal=None,
        fused=None,
        fusion=None,
        motion=Motion(num_fields=0, mean_px=0.0, moving_share=0.0).to_json(stack_len=1),
    )


def _stack_len(model: TrainedModel) -> int:
    """Return how many flow fields the stream looks at as one clip; a spatial one needs none."""
    return model.info.stream.stack_len if isinstance(model.info.stream, TemporalConfig) else 1


def _draw_overlay(
    out: Path,
    source: Path,
    folder: Path,
    manifest: Manifest,
    models: Mapping[str, TrainedModel],
    params: ExtractParams,
    fusion: FusionChoice,
    shown: dict[str, Any],
    tell: Callable[[str], None],
) -> None:
    """Draw the overlay of the one video of a manifest."""
    from stin_pipe.workflows.prediction.overlay import write_overlay
    from stin_pipe.workflows.prediction.overlay_scene import Verdict

    stream = "fused" if "fused" in shown else next(iter(shown))
    top = shown[stream][0]
    write_overlay(
        out,
        source,
        models=models,
        reader=ShardReader(folder, manifest),
        video=next(iter(manifest.videos.values())),
        params=params,
        weights=fusion.weights,
        when=fusion.when,
        aux=fusion.aux,
        verdict=Verdict(stream=stream, name=top["class"], probability=top["probability"]),
        on_progress=lambda share: tell(f"overlay, {share:.0%}"),
    )
