"""`stin-pipe train-spatial` and `stin-pipe train-temporal`: train a stream of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import click

from stin_pipe.workflows.terminal.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    Terminated,
)
from stin_pipe.workflows.terminal.options import usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.training_options import training_options
from stin_pipe.workflows.terminal.training_report import show_training_result, shown_training

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
def train_spatial(output: Output, run_path: Path, **values: Any) -> None:
    """Train the spatial injection network on RGB frames: appearance and its differences.

    Checkpoints are written on the way: after an interruption, the same command resumes and ends with the same
    weights. The finished model is RUN/train-spatial/splitN/model.safetensors.
    """
    _train("spatial", output, run_path, values)


@click.command("train-temporal", epilog=TEMPORAL_EXAMPLES)
@training_options
def train_temporal(output: Output, run_path: Path, **values: Any) -> None:
    """Train the temporal injection network on optical flow, with self-attention over its features.

    Checkpoints are written on the way: after an interruption, the same command resumes and ends with the same
    weights. The finished model is RUN/train-temporal/splitN/model.safetensors.
    """
    _train("temporal", output, run_path, values)


def _train(
    stream: Literal["spatial", "temporal"], output: Output, run_path: Path, values: dict[str, Any]
) -> None:
    from stin_pipe.stin.training.ranks import is_first_process
    from stin_pipe.workflows.run.training import TrainOptions, train_run

    options = TrainOptions(**values)
    label = f"train {stream}" + (" (plain)" if options.plain else "")
    is_first = is_first_process()  # of those that torchrun started
    with (
        nullcontext() if is_first else _silent_json(),
        usage_errors(),
        shown_training(output, label) as show,
    ):
        result = train_run(run_path, stream, options, show, handle_signals=True)
    if is_first:
        show_training_result(output, stream, options.split, result)


@contextmanager
def _silent_json() -> Iterator[None]:
    """Tell of errors on standard error alone, and not of those that the first process tells for all.

    torchrun joins the outputs of its processes, and a program reads one JSON object of them.
    """
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.shards.names import plain
    from stin_pipe.stin.training.ranks import raised_in_every_rank

    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        raise click.exceptions.Exit(code) from stop
    except (StinPipeError, click.ClickException) as error:
        cause = error.__cause__ if isinstance(error, click.UsageError) else error
        if not raised_in_every_rank(cause):
            shown = (
                (error.format_message(),)
                if isinstance(error, click.ClickException)
                else (error.message, *error.details)
            )
            for line in shown:
                click.echo(plain(f"process {os.environ.get('RANK')}: {line}"), err=True)
        code = EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED
        raise click.exceptions.Exit(code) from error
