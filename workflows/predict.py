"""`stin-pipe predict`: classify videos with trained streams.

A video goes the very way that it would go in a run - through a shard of its own in a temporary folder, and
through the scoring of fuse-eval - so that it gets the scores that fuse-eval would give it.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from workflows.one_video import UnusableVideo, one_video_run
from workflows.options import FILE, Numbers, common_options, run_option, usage_errors
from workflows.output import Output
from workflows.trained_models import common_params, load_models

if TYPE_CHECKING:
    from pipeline.plan import ExtractParams
    from stin.evaluate import TestProtocol
    from stin.model_file import TrainedModel
    from stin.scores import Scores
    from stin.shards.schema import Manifest

EXAMPLES = """\b
Examples:
  stin-pipe predict --run runs/mine clip.mp4
  stin-pipe predict --run runs/mine --json folder_of_clips/
  stin-pipe predict --model spatial.safetensors --model temporal.safetensors clip.mp4
  stin-pipe predict --run runs/mine clip.mp4 --overlay shown.mp4
"""
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The five most likely classes of one video by each stream and fused, with probabilities, and the path of
    its overlay, where one was asked for."""

    video: str
    spatial: list[dict[str, Any]] | None
    temporal: list[dict[str, Any]] | None
    fused: list[dict[str, Any]] | None
    overlay: str | None = None


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
@click.option(
    "--overlay",
    "overlay_out",
    type=click.Path(path_type=Path),
    metavar="OUT.mp4",
    help="Write the video with flow, attention and the running prediction; a folder for several videos.",
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
def predict(
    output: Output, run_path: Path | None, videos: Sequence[Path], overlay_out: Path | None, **options: Any
) -> None:
    """Classify VIDEO files, or all videos in a folder: top 5 of each stream and fused.

    A video that cannot be used is reported and the rest go on; the exit code is then 3 (1 if none could).

    An overlay (960x540, no sound) shows the video, its flow in colours, where the temporal stream attends to
    (or where the spatial one sees a change), and five times a second what the streams say of the last 4
    seconds: as many clips as in the training, centre crop, fused with --fusion-weights. Its foot says what
    they say of the whole video. An older overlay of that name is replaced, a video never. Letters of most
    scripts are drawn; emoji are not, and right-to-left scripts are not joined.
    """
    with usage_errors():
        models = load_models(run_path, options)
    params = common_params(models)
    from stin.evaluate import TestProtocol

    protocol = TestProtocol(num_segments=options["segments"], num_crops=int(options["crops"]))
    results: list[dict[str, Any]] = []
    failed = 0
    overlays = {}
    if overlay_out is not None:
        overlays = _overlay_paths(overlay_out, videos)
    for path in _expand(videos):
        try:
            with usage_errors():
                prediction = predict_video(path, models, params, protocol, options, overlays.get(path))
        except UnusableVideo as error:
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


def predict_video(
    path: Path,
    models: dict[str, "TrainedModel"],
    params: "ExtractParams",
    protocol: "TestProtocol",
    options: dict[str, Any],
    overlay: Path | None = None,
) -> Prediction:
    """Extract one video into a temporary shard, score it with each model, and draw its overlay."""
    from stin.evaluate import score_split
    from stin.fusion import fuse, softmax

    weights = (float(options["fusion_weights"][0]), float(options["fusion_weights"][-1]))
    with tempfile.TemporaryDirectory(prefix="stin-pipe-predict-") as name:
        classes = next(iter(models.values())).info.classes
        manifest = one_video_run(Path(name), path, classes, params, options["timeout"])
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
        shown: dict[str, Any] = {
            stream: _top(classes, softmax(found.logits.astype(np.float64))[0])
            for stream, found in scores.items()
        }
        if len(scores) == 2:
            fused = fuse(scores["spatial"], scores["temporal"], weights=weights)
            shown["fused"] = _top(classes, softmax(fused.scores.astype(np.float64))[0])
        if overlay is not None:
            _draw_overlay(overlay, path, Path(name), manifest, models, params, weights, shown)
    return Prediction(
        video=str(path),
        **{key: shown.get(key) for key in ("spatial", "temporal", "fused")},
        overlay=None if overlay is None else str(overlay),
    )


def _overlay_paths(out: Path, videos: Sequence[Path]) -> dict[Path, Path]:
    """Return where each video's overlay goes."""
    from workflows.overlay import overlay_paths

    found = list(dict.fromkeys(_expand(videos)))
    several = len(found) > 1 or videos[0].is_dir()
    with usage_errors():
        return dict(zip(found, overlay_paths(out, found, several=several), strict=True))


def _draw_overlay(
    out: Path,
    source: Path,
    folder: Path,
    manifest: "Manifest",
    models: dict[str, "TrainedModel"],
    params: "ExtractParams",
    weights: tuple[float, float],
    shown: dict[str, Any],
) -> None:
    """Draw the overlay of the one video of a manifest."""
    from stin.shards.reader import ShardReader
    from workflows.overlay import write_overlay
    from workflows.overlay_scene import Verdict

    stream = "fused" if "fused" in shown else next(iter(shown))
    top = shown[stream][0]
    write_overlay(
        out,
        source,
        models=models,
        reader=ShardReader(folder, manifest),
        video=next(iter(manifest.videos.values())),
        params=params,
        weights=weights,
        verdict=Verdict(stream=stream, name=top["class"], probability=top["probability"]),
    )


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
