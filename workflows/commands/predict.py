"""`stin-pipe predict`: classify videos with trained streams."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Numbers, WholeNumber

if TYPE_CHECKING:  # they load torch, which --help must not
    from stin_pipe.workflows.prediction.model import Model, PredictProgress
    from stin_pipe.workflows.prediction.prediction import Prediction
    from stin_pipe.workflows.prediction.stream_models import StreamChoice

EXAMPLES = """\b
Examples:
  stin-pipe predict --run runs/mine clip.mp4
  stin-pipe predict --run runs/mine --json folder_of_clips/
  stin-pipe predict --run runs/mine --streams spatial clip.mp4        # no flow is computed
  stin-pipe predict --run runs/mine --spatial seed0 --spatial seed1 clip.mp4
  stin-pipe predict --model spatial.safetensors --model temporal.safetensors clip.mp4
  stin-pipe predict --run runs/mine clip.mp4 --overlay shown.mp4
"""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `predict`, by the names of the flags; see their help."""

    model_paths: tuple[Path, ...]
    split: str
    streams: "StreamChoice | None"
    spatial: tuple[str, ...]
    temporal: tuple[str, ...]
    segments: int
    crops: str
    fusion_weights: tuple[float, ...] | None
    device: str
    timeout: float
    overlay_out: Path | None
    videos: tuple[Path, ...]


@click.command(epilog=EXAMPLES)
@run_option(required=False)
@click.option(
    "--model",
    "model_paths",
    type=FILE,
    multiple=True,
    help="Model file of one stream, in place of --run; give it twice for both streams.",
)
@click.option("--split", default="1", help="Split whose models are used (with --run).")
@click.option(
    "--streams",
    type=click.Choice(["spatial", "temporal", "fused"]),
    help="Who decides: one stream alone, or both.  [default: fused where both are trained]",
)
@click.option(
    "--spatial",
    multiple=True,
    metavar="NAME",
    help="Training of the run's spatial stream; repeat it for an ensemble  [default: default]",
)
@click.option(
    "--temporal", multiple=True, metavar="NAME", help="Training of the temporal stream; repeatable likewise."
)
@click.option("--segments", type=WholeNumber(min=1), default=25, help="Clips per video.")
@click.option("--crops", type=click.Choice(["1", "5", "10"]), default="10", help="Views per clip.")
@click.option(
    "--fusion-weights",
    type=Numbers(),
    metavar="RGB,FLOW",
    help="Weights of the two streams.  [default: those of fuse-eval in the run, else 1,1.5]",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--timeout",
    type=FiniteRange(min=0, min_open=True),
    default=3600.0,
    help="Seconds after which a video is given up.",
)
@click.option(
    "--overlay",
    "overlay_out",
    type=click.Path(path_type=Path),
    metavar="OUT.mp4",
    help="Write the video beside its flow, attention and running prediction; for several videos, a folder.",
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
def predict(output: Output, run_path: Path | None, **values: Any) -> None:
    """Classify VIDEO files, or all videos in a folder: top 5 of each stream and of their fusion.

    A video that cannot be used is reported, and the others go on; the exit code is then 3 (1 if none could be
    used). Where less than 0.2 % of the picture moves, or there are too few frames for a flow stack, the
    output says so: the temporal stream is then guessing. A video of a single frame is classified by the
    spatial stream alone and gets no overlay. An ensemble (--spatial A --spatial B) decodes each video and
    computes its flow once; fused like the evaluation of the same trainings, if there is one.

    An overlay (960x540, no sound) shows the video, its flow in colours, where the temporal stream attends to
    (or where the spatial stream sees a change), and the prediction for the last 4 seconds, five times a
    second (at most 240 times a video): as many clips as in training, centre crop, fused like the whole video.
    The foot of the picture shows the prediction for the whole video; of an ensemble, the rest is that of the
    first training of each stream. An older overlay of that name is
    replaced; a video never is. Letters of most scripts are drawn; emoji are not, and right-to-left scripts
    are not joined.
    """
    from stin_pipe.pipeline.listing.listing import display_name
    from stin_pipe.workflows.prediction.one_video import UnusableVideo

    options = PredictOptions(**values)
    model = _load(output, run_path, options)
    paths = list(_expand(options.videos))
    overlays = _overlays(output, options, paths)

    results: list[dict[str, Any]] = []
    failed = 0
    with output.progress("predict", len(paths), unit="videos") as meter:

        def show_step(path: Path, progress: "PredictProgress") -> None:
            meter.update(len(results), f"{path.name}: {_step_text(progress)}")

        for path in paths:
            try:
                if path.is_dir():
                    raise UnusableVideo("empty", f"no video files in the folder {path}")
                prediction = model.predict(
                    path,
                    overlay=overlays.get(path),
                    timeout_s=options.timeout,
                    on_progress=partial(show_step, path),
                )
            except UnusableVideo as error:
                failed += 1
                text = str(error)
                output.show(text if str(path) in text else f"{path}: {text}")
                results.append({"video": display_name(str(path)), "error": display_name(text)})
                continue
            _show(output, prediction)
            if path in overlays and prediction.overlay is None:
                output.warn(f"{path}: no overlay is written of a single frame, in which nothing moves")
            results.append(prediction.to_json())

    code = 0 if not failed else (1 if failed == len(results) else 3)
    better = model.better and asdict(model.better)
    output.result({"predictions": results, "better_alone": better, "failed": failed, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


def _load(output: Output, run_path: Path | None, options: PredictOptions) -> "Model":
    """Load the streams of the run or of the model files; warn of a stream that the run has not trained."""
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.workflows.prediction.model import load_model
    from stin_pipe.workflows.run.members import why_untrained
    from stin_pipe.workflows.run.stages import manifest_or_none

    if bool(run_path) == bool(options.model_paths):
        raise click.UsageError("give either --run or --model")
    with usage_errors():
        model = load_model(
            run_path or options.model_paths,
            split=options.split,
            streams=options.streams,
            spatial=options.spatial,
            temporal=options.temporal,
            segments=options.segments,
            crops=int(options.crops),
            fusion_weights=options.fusion_weights,
            device=options.device,
        )
    if model.better is not None:
        output.warn(model.better.text())
    if run_path and len(model.streams) == 1 and options.streams is None:
        (stream,) = model.streams
        missing = "temporal" if stream == "spatial" else "spatial"
        why = why_untrained(manifest_or_none(RunDir(path=run_path)), options.split, missing)
        output.warn(f"{why}: predictions are those of the {stream} stream alone")
    return model


def _overlays(output: Output, options: PredictOptions, paths: Sequence[Path]) -> dict[Path, Path]:
    """Return where the overlay of each video goes; warn of those that will be replaced."""
    if options.overlay_out is None:
        return {}
    from stin_pipe.workflows.prediction.overlay import overlay_paths

    files = [path for path in dict.fromkeys(paths) if not path.is_dir()]
    several = len(files) > 1 or options.videos[0].is_dir()
    with usage_errors():
        overlays = overlay_paths(options.overlay_out, files, several=several)
    for path in filter(Path.exists, overlays):
        output.warn(f"{path}: this older overlay will be replaced")
    return dict(zip(files, overlays, strict=True))


def _expand(videos: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and in place of a folder the videos in it; an empty folder as it is."""
    from stin_pipe.pipeline.listing.files import scan

    for path in videos:
        files = scan(path) if path.is_dir() else []
        yield from [path / file for file in files] or [path]


def _step_text(progress: "PredictProgress") -> str:
    match progress.step:
        case "extraction":
            return "frames and flow"
        case "scoring":
            return f"{progress.stream} stream"
        case "overlay":
            return f"overlay, {progress.share:.0%}"


def _show(output: Output, prediction: "Prediction") -> None:
    value = prediction.to_json()
    tops = [value[stream] for stream in prediction.answers]
    rows = [
        [str(rank + 1), *(f"{top['class']} {top['probability']:.3f}" for top in of_rank)]
        for rank, of_rank in enumerate(zip(*tops, strict=True))
    ]
    output.table(prediction.source, ["", *prediction.answers], rows)
    if prediction.fusion is not None:
        output.show(prediction.fusion.text())
    if prediction.notes is not None:
        notes = prediction.notes
        announced = notes["announced"] if notes["announced"] is not None else "an unknown number of"
        output.show(f"damaged in part: {notes['decoded']} of {announced} frames decoded")
    if prediction.overlay is not None:
        output.show(f"overlay written to {prediction.overlay}")
    if prediction.too_little_motion:
        output.show(value["motion"]["doubt"])
