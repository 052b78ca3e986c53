"""`stin-pipe predict`: classify videos with trained streams.

A video goes the very way that it would go in a run - through a shard of its own in a temporary folder, and
through the scoring of fuse-eval - so that it gets the scores that fuse-eval would give it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.prediction.one_video import UnusableVideo
from stin_pipe.workflows.prediction.trained_models import common_params, load_models
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Numbers

if TYPE_CHECKING:
    from stin_pipe.workflows.prediction.fusion_choice import FusionChoice
    from stin_pipe.workflows.prediction.predict_video import Prediction

EXAMPLES = """\b
Examples:
  stin-pipe predict --run runs/mine clip.mp4
  stin-pipe predict --run runs/mine --json folder_of_clips/
  stin-pipe predict --model spatial.safetensors --model temporal.safetensors clip.mp4
  stin-pipe predict --run runs/mine clip.mp4 --overlay shown.mp4
"""


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
    "--fusion-weights",
    type=Numbers(),
    metavar="RGB,FLOW",
    help="Spatial, temporal  [default: as fuse-eval did in the run, else 1,1.5]",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--timeout", type=FiniteRange(min=0, min_open=True), default=3600.0, help="Seconds a video.")
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
    Where less than 0.2 % of the picture moves, or frames are too few for a flow stack, it says so: the
    temporal stream's answer is then a guess. A video of one frame gets the spatial stream's answer alone, and
    no overlay.

    An overlay (960x540, no sound) shows the video, its flow in colours, where the temporal stream attends to
    (or where the spatial one sees a change), and five times a second (240 times a video at most) what the
    streams say of the last 4 seconds: as many clips as in the training, centre crop, fused as the whole video
    is. Its foot says what they say of the whole video. An older overlay of that name is replaced, a video
    never. Letters of most scripts are drawn; emoji are not, and right-to-left scripts are not joined.
    """
    from stin_pipe.stin.scoring.settings import EvalSettings
    from stin_pipe.workflows.prediction.fusion_choice import choose_fusion
    from stin_pipe.workflows.prediction.predict_video import predict_video

    with usage_errors():
        fusion = choose_fusion(run_path, options["split"], options["fusion_weights"])
        models = load_models(run_path, options)
        protocol = EvalSettings(
            segments=options["segments"], crops=int(options["crops"]), device=options["device"]
        ).protocol
    params = common_params(models)
    if run_path and len(models) == 1:
        (there,) = models
        lacking = "temporal" if there == "spatial" else "spatial"
        output.warn(f"the {lacking} stream of split {options['split']} is not trained: {there} answers alone")
    results: list[dict[str, Any]] = []
    failed = 0
    overlays = {}
    if overlay_out is not None:
        overlays = _overlay_paths(overlay_out, videos)
        for path in filter(Path.exists, overlays.values()):
            output.warn(f"{path}: this older overlay will be replaced")
    paths = list(_expand(videos))
    with output.progress("predict", len(paths), unit="videos") as meter:
        for path in paths:
            try:
                if path.is_dir():
                    raise UnusableVideo("empty", f"no video files in the folder {path}")
                with usage_errors():
                    prediction = predict_video(
                        path,
                        models,
                        params,
                        protocol,
                        fusion,
                        timeout_s=options["timeout"],
                        overlay=overlays.get(path),
                        tell=lambda stage, path=path: meter.update(len(results), f"{path.name}: {stage}"),
                    )
            except UnusableVideo as error:
                failed += 1
                text = str(error)
                output.show(text if str(path) in text else f"{path}: {text}")
                results.append({"video": str(path), "error": str(error)})
                continue
            _show(output, prediction, fusion)
            if path in overlays and prediction.overlay is None:
                output.warn(f"{path}: no overlay is written of a single frame, in which nothing moves")
            results.append({key: value for key, value in vars(prediction).items() if value is not None})
    code = 0 if not failed else (1 if failed == len(results) else 3)
    output.result({"predictions": results, "failed": failed, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


def _overlay_paths(out: Path, videos: Sequence[Path]) -> dict[Path, Path]:
    """Return where each video's overlay goes."""
    from stin_pipe.workflows.prediction.overlay import overlay_paths

    found = [path for path in dict.fromkeys(_expand(videos)) if not path.is_dir()]
    several = len(found) > 1 or videos[0].is_dir()
    with usage_errors():
        return dict(zip(found, overlay_paths(out, found, several=several), strict=True))


def _expand(videos: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, in place of a folder the videos in it; an empty folder as it is."""
    from stin_pipe.pipeline.listing.files import scan

    for path in videos:
        files = scan(path) if path.is_dir() else []
        yield from [path / file for file in files] or [path]


def _show(output: Output, prediction: "Prediction", fusion: "FusionChoice") -> None:
    found = [
        (name, top)
        for name in ("spatial", "temporal", "fused")
        if (top := getattr(prediction, name)) is not None
    ]
    rows = [
        [str(rank + 1), *(f"{top[rank]['class']} {top[rank]['probability']:.3f}" for _, top in found)]
        for rank in range(min(len(top) for _, top in found))
    ]
    output.table(prediction.video, ["", *(name for name, _ in found)], rows)
    if prediction.fused is not None:
        output.show(fusion.text())
    if prediction.notes is not None:
        notes = prediction.notes
        announced = notes["announced"] if notes["announced"] is not None else "an unknown number of"
        output.show(f"damaged in part: {notes['decoded']} of {announced} frames decoded")
    if prediction.overlay is not None:
        output.show(f"overlay written to {prediction.overlay}")
    if prediction.motion["doubt"]:
        output.show(prediction.motion["doubt"])
