"""A run folder with everything that a report draws, made at once: shards, untrained models, random scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel, load_model, save_model
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.results.split_result import SplitResult, judge_split
from stin_pipe.stin.results.trained import read_training
from stin_pipe.stin.results.tuning import tune_fusion
from stin_pipe.stin.scoring.fusion import fuse
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.codec import encode_image, quantise_flow
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import FailedVideo, FlowCoding, Manifest, ManifestVideo
from stin_pipe.stin.shards.writer import ShardWriter
from stin_pipe.workflows.report.render import render_report

BOUND_PX = 4.0
NUM_FRAMES, HEIGHT, WIDTH = 8, 24, 32
HOSTILE = (
    "<script>alert(1)</script>",
    "'><img src=x onerror=alert(1)>",
    "quote \" and ' and &amp; and `",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u202eturned\u202d round",
    "emoji \U0001f938\u200d\u2640\ufe0f jump",
    "../../etc/passwd",
    "a" * 200,
    "</style><style>*{display:none}</style>",
)


@dataclass(frozen=True)
class MadeReport:
    """A run, what was found on its split, and the page."""

    run: RunDir
    manifest: Manifest
    result: SplitResult
    models: dict[str, TrainedModel]
    html: str
    path: Path


def make_report(
    folder: Path,
    classes: Sequence[str],
    *,
    per_class: int = 3,
    seed: int = 0,
    accuracy: float = 0.6,
    tuned: bool = False,
    models: bool = True,
    num_frames: int = NUM_FRAMES,
) -> MadeReport:
    """Write ``folder/run`` and ``folder/report.html``."""
    run = RunDir(path=folder / "run")
    names = tuple(classes)
    manifest = _write_run(run, names, per_class, num_frames)
    rng = np.random.default_rng(seed)
    loaded = _write_models(run, names) if models else {}
    for stream in ("spatial", "temporal"):
        lines = [
            {"kind": "train", "step": step, "main_loss": 3 / (1 + step / 50) + 0.1 * rng.random()}
            for step in range(1, 301)
        ]
        lines += [{"kind": "val", "step": step, "top1": step / 400, "loss": 1.0} for step in (100, 200, 300)]
        run.training(stream, "1").mkdir(parents=True, exist_ok=True)
        (run.training(stream, "1") / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spatial, temporal = (
        _scores(manifest, stream, loaded[stream].digest if loaded else "", accuracy, rng)
        for stream in ("spatial", "temporal")
    )
    result = judge_split(
        "1",
        [spatial, temporal],
        fuse(spatial, temporal),
        manifest,
        protocol={"segments": 25, "crops": 10},
        report=str(folder / "report.html"),
        tuning=tune_fusion(spatial, temporal, when="before_softmax") if tuned else None,
        how_made=("Each video: 25 clips in 10 crops.", "Fusion 1 : 1.5, before softmax."),
        trainings={
            stream: [read_training(run.training(stream, "1"), stream=stream, run_path=run.path)]
            for stream in ("spatial", "temporal")
        },
        trained={"spatial": 40, "temporal": 40},
        held_out={"spatial": 5, "temporal": 5},
    )
    html = render_report(run, manifest, result, loaded)
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return MadeReport(run=run, manifest=manifest, result=result, models=loaded, html=html, path=path)


def _write_run(run: RunDir, classes: tuple[str, ...], per_class: int, num_frames: int) -> Manifest:
    """Write one shard in which a square crosses a noisy picture; all videos are the same but for their id."""
    (run.extract / "shards").mkdir(parents=True)
    coding = FlowCoding.from_bound(BOUND_PX)
    rng = np.random.default_rng(5)
    background = rng.integers(60, 120, (HEIGHT, WIDTH, 3))
    frames, fields = [], []
    for time in range(num_frames):
        frame, flow = background.copy(), np.zeros((1, HEIGHT, WIDTH, 2), np.float32)
        frame[8:16, 2 * time : 2 * time + 8] = (220, 120, 40)
        flow[0, 8:16, 2 * time : 2 * time + 8, 0] = 2.0
        frames.append(encode_image(frame.astype(np.uint8), codec="png"))
        fields += [encode_image(field, codec="png") for field in quantise_flow(flow, bound_px=BOUND_PX)]
    videos = {}
    with ShardWriter(
        run.extract / "shards" / "00000.h5",
        attributes={"flow_zero": coding.zero, "flow_scale": coding.scale},
    ) as writer:
        for label, name in enumerate(classes):
            for number in range(per_class):
                video_id = f"{name}/v{number:02d}.avi"
                video = writer.begin_video(video_id)
                for frame in frames:
                    video.append_frame(frame)
                for field in fields[:-1]:
                    video.append_field(field)
                group, meta = video.finish(
                    label=label, class_name=name, height=HEIGHT, width=WIDTH, fps=12.0, source_sha256="",
                    notes={},
                )  # fmt: skip
                videos[video_id] = ManifestVideo(
                    id=video_id, label=label, num_frames=num_frames, height=HEIGHT, width=WIDTH, fps=12.0,
                    shard="00000", group=group, splits={"1": "test"}, digest=meta.digest,
                )  # fmt: skip
    failed = FailedVideo(
        id=f"{classes[0]}/bad<b>.avi", label=0, splits={"1": "test"}, reason="too_short", message="<i>1</i>"
    )
    manifest = Manifest(
        dataset="folder", classes=classes, split_names=("1",), split_from="lists",
        split_source="<i>lists</i>", videos=dict(sorted(videos.items())), failed=(failed,), num_skipped=2,
        num_absent=1, num_pending=0,
        bound_px=BOUND_PX, flow_backend="cpu", fingerprint="made",
    )  # fmt: skip
    manifest.save(run.manifest)
    return manifest


def _write_models(run: RunDir, classes: tuple[str, ...]) -> dict[str, TrainedModel]:
    torch.manual_seed(0)
    loaded = {}
    for stream in (
        SpatialConfig(backbone="resnet18", tap="layer2", difference_channels=16),
        TemporalConfig(backbone="resnet18", tap="layer3"),
    ):
        info = ModelInfo(
            stream=stream, classes=classes, num_segments=3, crop_px=32, flip=False, bound_px=BOUND_PX
        )
        path = run.training(info.stream_name, "1") / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, weights=build_stream(stream, num_classes=len(classes)).state_dict(), info=info)
        loaded[info.stream_name] = load_model(path)
    return loaded


def _scores(
    manifest: Manifest, stream: str, digest: str, accuracy: float, rng: np.random.Generator
) -> Scores:
    videos = manifest.subset("1", "test")
    labels = np.array([video.label for video in videos], np.int64)
    num = len(manifest.classes)
    logits = rng.normal(0, 1, (len(videos), num))
    near = (labels + rng.integers(1, 4, len(videos))) % num  # errors fall on a few neighbours
    said = np.where(rng.random(len(videos)) < accuracy, labels, near)
    logits[np.arange(len(videos)), said] += 5
    values = logits.astype(np.float32)
    return Scores(
        ids=tuple(video.id for video in videos), labels=labels, class_names=manifest.classes, scores=values,
        main_logits=values, aux_logits=None, stream=stream, model_digest=digest,
    )  # fmt: skip
