"""The options of trainings, those of an ablation among them."""

from collections.abc import Callable
from typing import Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Setting, WholeNumber, WorkerRange

settings_option = click.option(
    "--set",
    "settings",
    type=Setting(example="ema_decay=0.99"),
    multiple=True,
    callback=lambda ctx, param, value: dict(value),
    help="A setting of the recipe that has no flag, such as ema_decay=0.99; repeatable.",
)

RECIPE_NAMES = ("tsn-ucf101", "tsn-hmdb51", "small")
"""The names of `stin_pipe.stin.training.recipes`; a shell must complete them without importing torch."""


def _one_split(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value == "all":
        raise click.BadParameter("one split at a time; `stin-pipe run` trains all", ctx=ctx, param=param)
    return value


def _recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in RECIPE_NAMES if name.startswith(incomplete)]


def _all_of(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return the decorator that adds these options, in this order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


recipe_options = _all_of(
    click.option(
        "--recipe",
        shell_complete=_recipes,
        help="tsn-ucf101, tsn-hmdb51 or small  [default: by data set, small for own videos]",
    ),
    click.option("--backbone", help="resnet18, 34, 50, 101, or timm:NAME  [default: the recipe's]"),
    click.option("--init", type=FILE, help="Weights file to start from, .pth or .safetensors."),
    click.option("--epochs", type=WholeNumber(min=1), help="[default: the recipe's length]"),
    click.option("--batch-size", type=WholeNumber(min=1), help="Videos per step  [default: the recipe's]"),
    click.option("--no-flip", is_flag=True, help="Never mirror; for data whose label is left or right."),
)

runtime_options = _all_of(
    click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--amp",
        type=click.Choice(["auto", "off", "bf16", "fp16"]),
        default="auto",
        help="Mixed precision; auto is bf16 on a GPU that has it.",
    ),
    click.option(
        "--loader-workers", type=WholeNumber(min=0), help="Processes that read shards  [default: by cores]"
    ),
)

training_options = _all_of(
    run_option(),
    click.option("--split", default="1", callback=_one_split, help="Split to train on."),
    click.option(
        "--name", default="default", help="Name of the training, beside others of the same stream and split."
    ),
    recipe_options,
    click.option(
        "--lr",
        type=FiniteRange(min=0, min_open=True),
        help="Largest learning rate  [default: the recipe's]",
    ),
    click.option(
        "--segments", "num_segments", type=WholeNumber(min=1), help="K, clips of one video in a sample."
    ),
    click.option("--aux-weight", type=FiniteRange(min=0), help="Weight of the auxiliary loss; 0 is off."),
    click.option("--plain", is_flag=True, help="No injection: the stream of a plain two-stream network."),
    click.option(
        "--val-share", type=FiniteRange(0, 0.9), help="Share of the training list held out for validation."
    ),
    click.option(
        "--accumulate",
        type=WholeNumber(min=1),
        help="Parts in which a batch is computed, to save memory  [default: the recipe's, 1]",
    ),
    settings_option,
    click.option("--seed", type=int, help="Of weights, order and augmentation  [default: 0]"),
    click.option(
        "--patience",
        type=WholeNumber(min=1),
        help="Stop once the held-out loss has not improved for N validations; the model is the best one.",
    ),
    click.option(
        "--more-epochs",
        type=WholeNumber(min=1),
        help="Continue the finished training of this --name by N epochs, with its own settings.",
    ),
    click.option(
        "--continue-from",
        metavar="NAME",
        help="With --more-epochs: the training to continue, which stays as it is; --name is the new one.",
    ),
    runtime_options,
    click.option("--compile", "compile_", is_flag=True, help="Use torch.compile."),
    click.option(
        "--train-workers",
        type=WorkerRange(),
        help="Processes that share each batch, started by Ray Train  [default: this one alone]",
    ),
    click.option("--address", help="Ray cluster for the train workers  [default: this machine]"),
    common_options,
)
"""The options of both trainings, with the names of the fields of ``TrainOptions``."""
