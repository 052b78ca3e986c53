"""`stin-pipe demo`: the whole pipeline on videos that it makes itself."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output, duration

if TYPE_CHECKING:  # they load numpy and torch, which --help must not
    from stin_pipe.stin.network.config import StreamName
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.training.config import TrainConfig

EXAMPLES = """\b
Examples:
  stin-pipe demo
  stin-pipe demo --run runs/demo --json
"""
SPLIT = "1"
SIZE = (96, 72)
"""Width and height of the videos in pixels, and of what is stored of them."""

RADIUS = (0.24, 0.30)
"""Of the discs, in heights of the picture: smaller ones take several times the epochs, with some seeds."""

NUM_SEGMENTS, NUM_CROPS = 8, 5
"""Five crops, since a disc at the border is outside of the centre crop."""

ROWS = {
    "spatial_plain": ("spatial, plain", "single frames: sees the colour (chance of the direction: 1 in 3)"),
    "temporal": ("temporal", "optical flow: sees the direction, not the colour"),
    "spatial": ("spatial, STIN", "with injected appearance differences: sees some motion too"),
    "fused": ("both fused", "colour and direction"),
}
"""Key of the result -> name and meaning, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of the demo.

    Attributes:
        seed: of the videos and of the trainings.
        runner: who runs the extraction.
        device: where the networks run.
    """

    seed: int = 0
    runner: Literal["auto", "ray", "local"] = "auto"
    device: str = "auto"


@click.command(epilog=EXAMPLES)
@run_option(required=False)
@click.option("--seed", type=int, default=0, help="Seed of the videos and of the trainings.")
@click.option(
    "--runner", type=click.Choice(["auto", "ray", "local"]), default="auto", help="Who runs the extraction."
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@common_options
def demo(output: Output, run_path: Path | None, **values: Any) -> None:
    """Make videos, extract, train three streams, fuse, and show why there are two streams.

    A class of these videos is a colour and a direction of motion (3 x 3). No single frame shows the
    direction, and all colours have the same grey value, so optical flow does not show the colour. It takes
    some minutes on two CPU cores. If it is interrupted, the same command resumes.
    """
    from stin_pipe.pipeline.demo_videos import SynthParams, make_videos
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    options = DemoOptions(**values)
    started = time.monotonic()
    run = create_run(run_path or Path("runs/demo"))
    with recorded(run, "demo", asdict(options)):
        source = run.path / "demo-videos"
        output.say("1 of 4: making videos (a class is a colour and a direction)")
        make_videos(source, SynthParams(width=SIZE[0], height=SIZE[1], radius=RADIUS, seed=options.seed))

        output.say("2 of 4: extracting frames and optical flow")
        _extract(output, run, source, options)

        output.say("3 of 4: training the spatial stream twice (plain, STIN) and the temporal stream")
        plain = _train(output, run, "spatial", options, plain=True)
        _train(output, run, "spatial", options)
        _train(output, run, "temporal", options)

        output.say("4 of 4: scoring the test videos and fusing")
        numbers = {"spatial_plain": _top1(run, plain, options), **_evaluate(output, run, options)}
    num_videos = numbers.pop("num_videos")
    _show(output, numbers, num_videos)
    output.say(f"took {duration(time.monotonic() - started)}")
    output.result(numbers)


def demo_config(stream: "StreamName", *, seed: int, plain: bool = False) -> "TrainConfig":
    """Return the `small` recipe with what the demo changes in it."""
    from stin_pipe.stin.training.config import override
    from stin_pipe.stin.training.recipes import resolve_recipe

    # A large disc on still noise needs less resolution and fewer epochs than real videos do. A direction in
    # flow is learnt in a few; a colour takes more, and the order of frames, which only differences show, the
    # most. A plain stream compares no frames, so three of a video teach it as much as eight.
    changes = {"epochs": 15} if stream == "temporal" else {"epochs": 36}
    if plain:
        changes = {"epochs": 24, "num_segments": 3}
    return override(
        resolve_recipe("small", stream),
        seed=seed,
        crop_px=64,
        flip=False,  # the label holds a direction
        injection=False if plain else None,
        **changes,
    )


def _extract(output: Output, run: "RunDir", source: Path, options: DemoOptions) -> None:
    """Extract the made videos."""
    from stin_pipe.workflows.run.extraction import ExtractOptions, extract_run
    from stin_pipe.workflows.terminal.extract_report import shown_extract

    settings = ExtractOptions(splits=source / "lists", size=SIZE, runner=options.runner)
    with shown_extract(output) as show:
        result = extract_run(run.path, source / "videos", settings, show)
    output.say(f"{result.done} videos extracted: {result.frames} frames, {result.flow_pairs} flow fields")


def _train(
    output: Output, run: "RunDir", stream: "StreamName", options: DemoOptions, *, plain: bool = False
) -> Path:
    """Train a stream, or resume its training, and return the model file."""
    from stin_pipe.workflows.run.training import TrainOptions, train_locked
    from stin_pipe.workflows.terminal.training_report import shown_training

    name = f"{stream}-plain" if plain else stream
    out_dir = run.training(name, SPLIT)
    with shown_training(output, f"train {name}") as show:
        train_locked(
            run,
            demo_config(stream, seed=options.seed, plain=plain),
            out_dir=out_dir,
            options=TrainOptions(split=SPLIT, device=options.device),
            on_event=show,
            handle_signals=True,
        )
    return out_dir / "model.safetensors"


def _top1(run: "RunDir", model_file: Path, options: DemoOptions) -> float:
    """Return the top-1 of a single model on the test list."""
    from stin_pipe.stin.device import choose_device
    from stin_pipe.stin.network.model_file import load_model
    from stin_pipe.stin.scoring.fusion import accuracy
    from stin_pipe.stin.scoring.score_split import TestProtocol, score_split
    from stin_pipe.stin.shards.schema import Manifest

    scores = score_split(
        load_model(model_file, device=choose_device(options.device)),
        manifest=Manifest.load(run.manifest),
        extract_dir=run.extract,
        split=SPLIT,
        protocol=TestProtocol(num_segments=NUM_SEGMENTS, num_crops=NUM_CROPS),
        out_path=model_file.with_name("scores.npz"),
    )
    return accuracy(scores.scores, scores.labels).top1


def _evaluate(output: Output, run: "RunDir", options: DemoOptions) -> Mapping[str, Any]:
    """Evaluate both STIN streams and their fusion; return top-1 of each, the videos and the report."""
    from stin_pipe.stin.scoring.settings import EvalSettings
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.report.render import evaluation_pages
    from stin_pipe.workflows.report.text import shown_events
    from stin_pipe.workflows.run.evaluation import evaluate_locked

    settings = EvalSettings(segments=NUM_SEGMENTS, crops=NUM_CROPS, device=options.device)
    with shown_events(output) as show:
        manifest = Manifest.load(run.manifest)
        result = evaluate_locked(run, manifest, SPLIT, settings, show, pages=evaluation_pages())
    top1 = {stream: result.metrics[stream]["top1"] for stream in ("spatial", "temporal", "fused")}
    return {**top1, "num_videos": result.metrics["num_videos"], "report": result.metrics["report"]}


def _show(output: Output, numbers: Mapping[str, Any], num_videos: int) -> None:
    output.show()
    output.show(f"top-1 on {num_videos} test videos, 9 classes = 3 colours x 3 directions, chance 0.11")
    for key, (name, meaning) in ROWS.items():
        bar = "#" * round(20 * numbers[key])
        output.show(f"  {name:15} {numbers[key]:.2f}  {bar:20}  {meaning}")

    output.show()
    output.show(f"report: {numbers['report']}")
    output.show("next, with your own videos in DIR/<class>/<video>:")
    output.show("  stin-pipe extract        --run runs/mine --videos DIR")
    output.show("  stin-pipe train-spatial  --run runs/mine --recipe small")
    output.show("  stin-pipe train-temporal --run runs/mine --recipe small")
    output.show("  stin-pipe fuse-eval      --run runs/mine")
