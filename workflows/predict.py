"""`stin-pipe predict`: classify videos with trained streams.

A video goes the very way that it would go in a run - through a shard of its own in a temporary folder, and
through the scoring of fuse-eval - so that it gets the scores that fuse-eval would give it.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from workflows.options import FILE, Numbers, common_options, run_option, usage_errors
from workflows.output import Output

if TYPE_CHECKING:
    from pipeline.plan import ExtractParams
    from stin.evaluate import TestProtocol
    from stin.model_file import TrainedModel
    from stin.scores import Scores

EXAMPLES = """\b
Examples:
  stin-pipe predict --run runs/mine clip.mp4
  stin-pipe predict --run runs/mine --json folder_of_clips/
  stin-pipe predict --model spatial.safetensors --model temporal.safetensors clip.mp4
"""
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The five most likely classes of one video by each stream and fused, with probabilities."""

    video: str
    spatial: list[dict[str, Any]] | None
    temporal: list[dict[str, Any]] | None
    fused: list[dict[str, Any]] | None


@click.command(epilog=EXAMPLES)
@run_option(required=False)
@click.option(
    "--model",
    "model_paths",
    type=FILE,
    multiple=True,
    help="Model file of a stream, instead of --run; give one or both.",
)
@click.option("--split", default="1", help="Split whose models are used, with --run.")
@click.option("--segments", type=click.IntRange(min=1), default=25, help="Clips of a video.")
@click.option("--crops", type=click.Choice(["1", "5", "10"]), default="10", help="Views of a clip.")
@click.option(
    "--fusion-weights", type=Numbers(), default="1,1.5", metavar="RGB,FLOW", help="Spatial, temporal."
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3600.0, help="Seconds a video."
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
def predict(output: Output, run_path: Path | None, videos: Sequence[Path], **options: Any) -> None:
    """Classify VIDEO files, or all videos in a folder: top 5 of each stream and fused.

    A video that cannot be used is reported and the rest go on; the exit code is then 3 (1 if none could).
    """
    with usage_errors():
        models = _load_models(run_path, options)
    params = _common_params(models)
    from stin.evaluate import TestProtocol

    protocol = TestProtocol(num_segments=options["segments"], num_crops=int(options["crops"]))
    results: list[dict[str, Any]] = []
    failed = 0
    for path in _expand(videos):
        try:
            with usage_errors():
                prediction = predict_video(path, models, params, protocol, options)
        except _Unusable as error:
            failed += 1
            output.show(f"{path}: {error}")
            results.append({"video": str(path), "error": str(error)})
            continue
        _show(output, prediction)
        results.append({key: value for key, value in vars(prediction).items() if value is not None})
    code = 0 if not failed else (1 if failed == len(results) else 3)
    output.result({"predictions": results, "failed": failed, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


class _Unusable(Exception):
    """A video that gives no frames or no flow."""


def predict_video(
    path: Path,
    models: dict[str, "TrainedModel"],
    params: "ExtractParams",
    protocol: "TestProtocol",
    options: dict[str, Any],
) -> Prediction:
    """Extract one video into a temporary shard and score it with each model."""
    from stin.evaluate import score_split
    from stin.fusion import fuse, softmax

    weights = (float(options["fusion_weights"][0]), float(options["fusion_weights"][-1]))
    with tempfile.TemporaryDirectory(prefix="stin-pipe-predict-") as name:
        manifest = _one_video_run(Path(name), path, models, params, options["timeout"])
        scores: dict[str, Scores] = {
            stream: score_split(
                model,
                manifest=manifest,
                extract_dir=Path(name),
                split="1",
                protocol=protocol,
                loader_workers=0,
            )
            for stream, model in models.items()
        }
    classes = next(iter(models.values())).info.classes
    shown: dict[str, Any] = {
        stream: _top(classes, softmax(found.logits.astype(np.float64))[0]) for stream, found in scores.items()
    }
    if len(scores) == 2:
        fused = fuse(scores["spatial"], scores["temporal"], weights=weights)
        shown["fused"] = _top(classes, softmax(fused.scores.astype(np.float64))[0])
    return Prediction(video=str(path), **{key: shown.get(key) for key in ("spatial", "temporal", "fused")})


def _one_video_run(
    folder: Path, path: Path, models: dict[str, "TrainedModel"], params: "ExtractParams", timeout_s: float
):
    """Extract the video under `folder` and return a manifest of it alone."""
    from pipeline.extract import extract_video
    from pipeline.listed import ListedVideo
    from stin.shards.schema import FlowCoding, Manifest, ManifestVideo
    from stin.shards.writer import ShardWriter

    classes = next(iter(models.values())).info.classes
    coding = FlowCoding.from_bound(params.bound_px)
    listed = ListedVideo(id=path.name, path=path.name, label=0, class_name=classes[0], splits={"1": "test"})
    (folder / "shards").mkdir()
    with ShardWriter(
        folder / "shards" / "00000.h5", attributes={"flow_zero": coding.zero, "flow_scale": coding.scale}
    ) as writer:
        outcome = extract_video(
            listed, root=path.absolute().parent, params=params, writer=writer, timeout_s=timeout_s
        )
    if outcome.meta is None:
        raise _Unusable(f"{outcome.reason}: {outcome.message}")
    meta = outcome.meta
    video = ManifestVideo(
        id=listed.id,
        label=0,
        num_frames=meta.num_frames,
        height=meta.height,
        width=meta.width,
        fps=meta.fps,
        shard="00000",
        group=outcome.group,
        splits={"1": "test"},
        digest=meta.digest,
    )
    return Manifest(
        dataset="folder",
        classes=classes,
        split_names=("1",),
        split_source="",
        videos={video.id: video},
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=params.bound_px,
        flow_backend=params.flow_backend,
        fingerprint=params.fingerprint(),
    )


def _load_models(run_path: Path | None, options: dict[str, Any]) -> dict[str, "TrainedModel"]:
    from stin.device import choose_device
    from stin.model_file import load_model
    from stin.shards.errors import StinPipeError
    from workflows.run_dir import open_run

    if bool(run_path) == bool(options["model_paths"]):
        raise click.UsageError("give either --run or --model")
    device = choose_device(options["device"])
    paths: list[Path] = list(options["model_paths"])
    if run_path:
        run = open_run(run_path)
        folders = [run.training(stream, options["split"]) for stream in ("spatial", "temporal")]
        paths = [
            folder / "model.safetensors" for folder in folders if (folder / "model.safetensors").exists()
        ]
        if not paths:
            raise StinPipeError(
                f"{run.path}: no stream of split {options['split']} is trained yet; run "
                f"`stin-pipe train-spatial --run {run.path}` or train-temporal first"
            )
    models: dict[str, TrainedModel] = {}
    for path in paths:
        model = load_model(path, device=device)
        if model.info.stream_name in models:
            raise click.UsageError(
                f"--model {path}: a second {model.info.stream_name} model; give one of each"
            )
        models[model.info.stream_name] = model
    return models


def _common_params(models: dict[str, "TrainedModel"]) -> "ExtractParams":
    """Return how frames and flow are to be made, which the models must agree on."""
    from pipeline.flow import TVL1Params, resolve_backend
    from pipeline.plan import IMPORTED, MIXED, ExtractParams
    from stin.shards.errors import StinPipeError

    infos = [model.info for model in models.values()]
    if len({info.classes for info in infos}) > 1:
        raise StinPipeError("the two models know different classes; train both on one run")
    made = [dict(info.extraction) for info in infos]
    if any(other != made[0] for other in made):
        raise StinPipeError(
            "the two models were trained on differently extracted videos; train both on one run"
        )
    value = made[0]
    if not value:
        raise StinPipeError("the model file does not say how its frames were extracted; train with stin-pipe")
    backend = value["flow_backend"]
    if backend in ("cuda", MIXED):  # trained where there was a GPU; the back ends have one meaning
        backend = resolve_backend("auto")
    if backend == IMPORTED:  # the flow images of TSN's tools are TV-L1 too
        backend, value = resolve_backend("auto"), {**value, "flow": asdict(TVL1Params())}
    size = None if value["size"] is None else tuple(value["size"])
    return ExtractParams(**{**value, "size": size, "flow_backend": backend, "partial": "keep"})


def _expand(videos: Sequence[Path]) -> Iterator[Path]:
    from pipeline.video_files import scan
    from stin.shards.errors import StinPipeError

    for path in videos:
        if path.is_dir():
            files = scan(path)
            if not files:
                raise StinPipeError(f"{path}: no video files in this folder")
            yield from (path / file for file in files)
        else:
            yield path


def _top(classes: tuple[str, ...], probabilities: np.ndarray) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [
        {"class": classes[index], "probability": round(float(probabilities[index]), 6)} for index in order
    ]


def _show(output: Output, prediction: Prediction) -> None:
    found = [
        (name, getattr(prediction, name))
        for name in ("spatial", "temporal", "fused")
        if getattr(prediction, name)
    ]
    rows = [
        [str(rank + 1), *(f"{top[rank]['class']} {top[rank]['probability']:.3f}" for _, top in found)]
        for rank in range(min(len(top) for _, top in found))
    ]
    output.table(prediction.video, ["", *(name for name, _ in found)], rows)
