"""`stin-pipe train-spatial` and `stin-pipe train-temporal`: shards to trained streams."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import usage_errors
from stin_pipe.workflows.terminal.output import Output, duration, size
from stin_pipe.workflows.terminal.training_options import require_one_source, training_options

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.stin.train import TrainResult
    from stin_pipe.stin.training.config import TrainConfig

RECIPE_OF_DATASET = {"ucf101": "tsn-ucf101", "hmdb51": "tsn-hmdb51"}

SPATIAL_EXAMPLES = """\b
Examples:
  stin-pipe train-spatial --run runs/mine --recipe small
  stin-pipe train-spatial --run runs/ucf --split 2 --init resnet50-imagenet.pth
  stin-pipe train-spatial --run runs/mine --recipe small --plain --no-flip
  stin-pipe train-spatial --run runs/ucf --train-workers 8             # one process a GPU, through Ray Train
"""
TEMPORAL_EXAMPLES = SPATIAL_EXAMPLES.replace("train-spatial", "train-temporal")


@click.command("train-spatial", epilog=SPATIAL_EXAMPLES)
@training_options
def train_spatial(output: Output, run_path: Path, **options: Any) -> None:
    """Train the spatial injection network on RGB frames: appearance, and differences of appearance.

    Checkpoints are written as it goes; the same command again resumes and ends with the same weights. The
    finished model is RUN/train-spatial/splitN/model.safetensors.
    """
    _train("spatial", output, run_path, options)


@click.command("train-temporal", epilog=TEMPORAL_EXAMPLES)
@training_options
def train_temporal(output: Output, run_path: Path, **options: Any) -> None:
    """Train the temporal injection network on optical flow, with self-attention over its features.

    Checkpoints are written as it goes; the same command again resumes and ends with the same weights. The
    finished model is RUN/train-temporal/splitN/model.safetensors.
    """
    _train("temporal", output, run_path, options)


def _train(stream: str, output: Output, run_path: Path, options: dict[str, Any]) -> None:
    from stin_pipe.stin.training.ranks import is_first_process

    if is_first_process():  # or the only one
        _train_here(stream, output, run_path, options)
        return
    with _silent_json():
        _train_here(stream, output, run_path, options)


@contextmanager
def _silent_json() -> Iterator[None]:
    """Tell of errors on standard error alone, and not of those that the first process tells for all.

    torchrun joins the outputs of its processes, and a program reads one JSON object of them.
    """
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.training.ranks import IN_ALL_PROCESSES
    from stin_pipe.workflows.terminal.exits import (
        EXIT_FAILED,
        EXIT_INTERRUPTED,
        EXIT_TERMINATED,
        EXIT_USAGE,
        Terminated,
    )

    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        raise click.exceptions.Exit(code) from stop
    except (StinPipeError, click.ClickException) as error:
        cause = error.__cause__ if isinstance(error, click.UsageError) else error
        if IN_ALL_PROCESSES not in getattr(cause, "__notes__", ()):
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            click.echo(f"process {os.environ.get('RANK')}: {message}", err=True)
        code = EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED
        raise click.exceptions.Exit(code) from error


def _train_here(stream: str, output: Output, run_path: Path, options: dict[str, Any]) -> None:
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.stin.training.ranks import is_first_process
    from stin_pipe.workflows.run.run_dir import open_run, recorded

    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    require_split(manifest, options["split"])
    if options["address"] and not options["train_workers"]:
        raise click.UsageError("--address: needs --train-workers N, how many processes train there")
    config = training_config(stream, manifest.dataset, options)
    out_dir = run.training(stream, options["split"])
    settings = {"train": asdict(config), **options}
    first = is_first_process()  # of those that torchrun started
    with recorded(run, f"train-{stream}", settings) if first else nullcontext():
        result = train_with_progress(
            output, run, config, split=options["split"], out_dir=out_dir, runtime_options=options
        )
    if not first:
        return
    if result.list_change:
        output.warn(
            f"the run's training list has changed since this training ({result.list_change}); it is finished "
            f"and stays as it is; delete {out_dir} to train anew on the list of now"
        )
    if result.best_val_top1 is not None:
        best, last = result.best_val_top1, result.last_val_top1
        output.show(f"top-1 on held-out training videos: best {best:.3f}, last {last:.3f}")
    split, count = options["split"], result.num_train
    output.show(f"{stream} stream of split {split} trained on {count} videos: {result.checkpoint}")
    output.result(result.to_json())


def training_config(stream: str, dataset: str, options: dict[str, Any]) -> "TrainConfig":
    """Return the configuration that a training with these options has.

    Raises:
        click.UsageError: a recipe, backbone, setting or value that there is not.
    """
    from stin_pipe.stin.network.backbones import check_backbone_name
    from stin_pipe.stin.training.config import override
    from stin_pipe.stin.training.recipes import resolve_recipe

    name = options["recipe"] or RECIPE_OF_DATASET.get(dataset, "small")
    changes = {
        key: options[key]
        for key in (
            "backbone",
            "epochs",
            "batch_size",
            "lr",
            "num_segments",
            "aux_weight",
            "val_share",
            "accumulate",
            "seed",
        )
    }
    with usage_errors():
        require_one_source(options)
        check_backbone_name(options["backbone"] or "resnet18")
        recipe = resolve_recipe(name, "spatial" if stream == "spatial" else "temporal")
        return override(
            override(recipe, **options["settings"]),
            **changes,
            init=str(options["init"].absolute()) if options["init"] else None,
            flip=False if options["no_flip"] else None,
            injection=False if options["plain"] else None,
        )


def require_split(manifest: "Manifest", split: str) -> None:
    """Refuse a split that the run does not have."""
    if split not in manifest.split_names:
        known = ", ".join(manifest.split_names)
        raise click.UsageError(f"--split: {split!r} is not in this run; its splits are: {known}")


def extraction_of(run: "RunDir") -> dict[str, Any]:
    """Return how the run's frames and flow were made; model files keep it."""
    from stin_pipe.pipeline.planning.ledger import plan_paths
    from stin_pipe.pipeline.planning.plan import Plan

    return asdict(Plan.load(plan_paths(run.extract)[0]).params)


def train_with_progress(
    output: Output,
    run: "RunDir",
    config: "TrainConfig",
    *,
    split: str,
    out_dir: Path,
    runtime_options: dict[str, Any],
) -> "TrainResult":
    """Train one stream of a run and show how it goes."""
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.stin.train import (
        Interrupted,
        Runtime,
        TrainNotice,
        TrainProgress,
        TrainStart,
        train_stream,
    )
    from stin_pipe.stin.train_on_ray import WorkerCount, train_on_ray
    from stin_pipe.stin.training.ranks import is_first_process
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.terminal.exits import Terminated

    manifest = Manifest.load(run.manifest)
    first = is_first_process()
    if manifest.num_pending and first:
        output.warn(f"{manifest.num_pending} videos are not extracted yet; training uses the ones that are")
    runtime = Runtime(
        device=runtime_options.get("device", "auto"),
        amp=runtime_options.get("amp", "auto"),
        loader_workers=runtime_options.get("loader_workers"),
        compile=runtime_options.get("compile_", False),
    )
    label = f"train {config.stream_name}" + (" (plain)" if config.stream.is_plain else "")
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = out_dir / "lock.json"
    with (
        run_lock(lock, activity="training", to_break=f"delete {lock}") if first else nullcontext(),
        output.progress(label, 1, unit="steps") as meter,
    ):

        def show(event: TrainStart | TrainProgress | TrainNotice) -> None:
            if isinstance(event, TrainNotice):
                output.warn(event.message)
                return
            if isinstance(event, TrainStart):
                output.say(_start_line(event))
                return
            meter.total = event.total_steps
            meter.update(event.step, _progress_line(event))

        job: dict[str, Any] = {
            "manifest": manifest,
            "extract_dir": run.extract,
            "out_dir": out_dir,
            "split": split,
            "runtime": runtime,
            "extraction": extraction_of(run),
            "on_progress": show,
        }
        try:
            with usage_errors():
                if not (workers := runtime_options.get("train_workers")):
                    return train_stream(config, **job)
                return train_on_ray(
                    config,
                    num_workers=WorkerCount(least=workers[0], most=workers[1]),
                    address=runtime_options.get("address"),
                    **job,
                )
        except Interrupted as stop:
            raise (Terminated if stop.signum == signal.SIGTERM else KeyboardInterrupt) from stop


def _start_line(event: Any) -> str:
    resumed = f", resumed after step {event.first_step}" if event.first_step else ""
    workers = f" with {event.num_ranks} train workers" if event.num_ranks > 1 else ""
    return (
        f"{event.stream} stream: {event.num_parameters / 1e6:.2f} M parameters, "
        f"{event.flops_per_sample / 1e9:.2f} GFLOP a sample forward; {event.num_train} videos to train on, "
        f"{event.num_held_out} held out; {event.total_steps} steps on {event.device}{workers}{resumed}"
    )


def _progress_line(event: Any) -> str:
    parts = [
        f"epoch {event.epoch}/{event.epochs}",
        f"loss {event.loss:.3f}",
        f"{event.samples_per_s:.1f} videos/s",
    ]
    if event.val_top1 is not None:
        parts.append(f"held-out top-1 {event.val_top1:.3f}")
    parts.append(size(event.memory_bytes))
    if event.seconds_left:
        parts.append(f"{duration(event.seconds_left)} left")
    return ", ".join(parts)
