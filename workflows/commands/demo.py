"""`stin-pipe demo`: the whole pipeline on videos that it makes itself."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output, duration
from stin_pipe.workflows.terminal.training_report import shown_training
from stin_pipe.workflows.terminal.types import WholeNumber

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.stin.training.config import TrainConfig

EXAMPLES = """\b
Examples:
  stin-pipe demo
  stin-pipe demo --run runs/demo --json
"""
SPLIT = "1"
NUM_SEGMENTS, NUM_CROPS = 25, 5


@click.command(epilog=EXAMPLES)
@run_option(required=False)
@click.option("--seed", type=WholeNumber(), default=0, help="Seed of the videos and of the training.")
@click.option(
    "--runner", type=click.Choice(["auto", "ray", "local"]), default="auto", help="Who runs the extraction."
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@common_options
def demo(output: Output, run_path: Path | None, seed: int, runner: str, device: str) -> None:
    """Make videos, extract, train three streams, fuse, and show why there are two streams.

    A class of the videos is a colour and a direction of motion (3 x 3). No single frame tells the direction,
    and the colours have equal grey values, so flow tells nothing of them. It takes about ten minutes on two
    CPU cores; interrupted, the same command resumes.
    """
    from stin_pipe.pipeline.demo_videos import SynthParams, make_videos
    from stin_pipe.stin.scoring.settings import EvalSettings
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.report.render import evaluation_pages
    from stin_pipe.workflows.report.text import shown_events
    from stin_pipe.workflows.run.evaluation import evaluate_locked
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    started = time.monotonic()
    run = create_run(run_path or Path("runs/demo"))
    with recorded(run, "demo", {"seed": seed, "runner": runner, "device": device}):
        source = run.path / "demo-videos"
        output.say("1 of 4: making videos (a class is a colour and a direction)")
        make_videos(source, SynthParams(seed=seed))
        output.say("2 of 4: extracting frames and optical flow")
        _extract(run, source, runner)
        manifest = Manifest.load(run.manifest)
        output.say("3 of 4: training the spatial stream twice (plain, STIN) and the temporal stream")
        options = {"device": device, "loader_workers": None}
        plain = _plain_top1(output, run, manifest, seed, options)
        for stream in ("spatial", "temporal"):
            _train(output, run, demo_config(stream, seed=seed), stream, options)
        output.say("4 of 4: scoring the test videos and fusing")
        settings = EvalSettings(segments=NUM_SEGMENTS, crops=NUM_CROPS, device=device)
        with shown_events(output) as show:
            result = evaluate_locked(run, manifest, SPLIT, settings, show, pages=evaluation_pages())
    numbers = {
        "spatial_plain": plain,
        "spatial": result.metrics["spatial"]["top1"],
        "temporal": result.metrics["temporal"]["top1"],
        "fused": result.metrics["fused"]["top1"],
        "report": result.metrics["report"],
    }
    _show(output, numbers, result.metrics["num_videos"])
    output.say(f"took {duration(time.monotonic() - started)}")
    output.result(numbers)


def demo_config(stream: str, *, seed: int, plain: bool = False) -> "TrainConfig":
    """Return the `small` recipe for the demo: the label is a direction, so nothing is mirrored."""
    from stin_pipe.stin.training.config import override
    from stin_pipe.stin.training.recipes import resolve_recipe

    recipe = resolve_recipe("small", "spatial" if stream == "spatial" else "temporal")
    # A disc in front of still noise is learnt sooner than real videos are.
    return override(recipe, seed=seed, epochs=60, flip=False, injection=False if plain else None)


def _extract(run: "RunDir", source: Path, runner: str) -> None:
    """Run the extract command on the made videos, as a user would."""
    from stin_pipe.workflows.commands.extract import extract

    arguments = [
        "--run",
        str(run.path),
        "--videos",
        str(source / "videos"),
        "--splits",
        str(source / "lists"),
    ]
    extract.main(
        [*arguments, "--size", "96x72", "--runner", runner],
        standalone_mode=False,
        prog_name="stin-pipe extract",
    )


def _train(
    output: Output,
    run: "RunDir",
    config: "TrainConfig",
    folder: str,
    options: dict[str, Any],
) -> Path:
    from stin_pipe.workflows.run.training import TrainOptions, train_locked

    out_dir = run.training(folder, SPLIT)
    with shown_training(output, f"train {folder}") as show:
        train_locked(
            run,
            config,
            out_dir=out_dir,
            options=TrainOptions(split=SPLIT, **options),
            on_event=show,
            handle_signals=True,
        )
    return out_dir / "model.safetensors"


def _plain_top1(
    output: Output, run: "RunDir", manifest: "Manifest", seed: int, options: dict[str, Any]
) -> float:
    """Train the spatial stream without differences, and return its top-1 on the test list."""
    from stin_pipe.stin.device import choose_device
    from stin_pipe.stin.network.model_file import load_model
    from stin_pipe.stin.scoring.fusion import accuracy
    from stin_pipe.stin.scoring.score_split import TestProtocol, score_split

    path = _train(output, run, demo_config("spatial", seed=seed, plain=True), "spatial-plain", options)
    scores = score_split(
        load_model(path, device=choose_device(options["device"])),
        manifest=manifest,
        extract_dir=run.extract,
        split=SPLIT,
        protocol=TestProtocol(num_segments=NUM_SEGMENTS, num_crops=NUM_CROPS),
        out_path=path.parent / "scores.npz",
    )
    return accuracy(scores.scores, scores.labels).top1


def _show(output: Output, numbers: dict[str, Any], num_videos: int) -> None:
    meaning = {
        "spatial_plain": (
            "spatial, plain",
            "single frames: sees the colour (chance of the direction: 1 in 3)",
        ),
        "temporal": ("temporal", "optical flow: sees the direction, not the colour"),
        "spatial": ("spatial, STIN", "with differences of appearance injected: sees some motion too"),
        "fused": ("both fused", "colour and direction"),
    }
    output.show()
    output.show(f"top-1 on {num_videos} test videos, 9 classes = 3 colours x 3 directions, chance 0.11")
    for key, (name, text) in meaning.items():
        bar = "#" * round(20 * numbers[key])
        output.show(f"  {name:15} {numbers[key]:.2f}  {bar:20}  {text}")
    output.show()
    output.show(f"report: {numbers['report']}")
    output.show("next, with your own videos in DIR/<class>/<video>:")
    output.show("  stin-pipe extract        --run runs/mine --videos DIR")
    output.show("  stin-pipe train-spatial  --run runs/mine --recipe small")
    output.show("  stin-pipe train-temporal --run runs/mine --recipe small")
    output.show("  stin-pipe fuse-eval      --run runs/mine")
