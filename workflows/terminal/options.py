"""Options that several commands share, and where their values come from.

A value comes from the first of: flag, environment (`STIN_PIPE_<COMMAND>_<OPTION>`, `STIN_PIPE_RUN`),
`--config FILE.toml` (see `config_file`), recipe, default.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.workflows.terminal.config_file import WrongOptions, read_config, table_name
from stin_pipe.workflows.terminal.output import Output, invocation
from stin_pipe.workflows.terminal.types import DIRECTORY, FILE, FiniteRange


@contextmanager
def usage_errors() -> Iterator[None]:
    """Show a library's ValueError as wrong usage, traced to the options that it names."""
    try:
        yield
    except ArgumentError as error:
        raise WrongOptions(str(error), error.arguments) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def run_option(required: bool = True) -> Callable[..., Any]:
    """Add `--run`."""
    return click.option(
        "--run",
        "run_path",
        type=DIRECTORY,
        required=required,
        help="Run directory: extract creates it, every later stage reads it.",
    )


def failure_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides when a video has failed and how many may fail, for extract and import."""
    options = [
        click.option(
            "--timeout",
            type=FiniteRange(min=0, min_open=True),
            default=3600.0,
            help="Seconds after which a video counts as failed.",
        ),
        click.option("--retry-failed", is_flag=True, help="Try the videos again that failed before."),
        click.option(
            "--max-failure-rate",
            type=FiniteRange(0, 1),
            default=0.05,
            help="Largest share of videos that may fail; above it, the exit code is 3.",
        ),
    ]
    # The last decorator applied comes first in the help text.
    for option in reversed(options):
        function = option(function)
    return function


def _open_output(ctx: click.Context, param: click.Parameter, value: bool) -> Output:
    command = _full_name(ctx)
    invocation.note(command, as_json=value)
    return Output(as_json=value, command=command)


def _full_name(ctx: click.Context) -> str:
    return table_name(ctx).replace(".", " ")


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config`, `--json` and `--debug`; the command gets an `Output` as `output`."""
    # The decorator applied last is the first option, and eager options are read in that order: the file comes
    # first, since it may set the other two.
    function = click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, param, value: invocation.note(_full_name(ctx), debug=value),
        help="Show the traceback of an error.",
    )(function)
    function = click.option(
        "--json",
        "output",
        is_flag=True,
        is_eager=True,  # read before the options that may be wrong, so that their errors come as JSON too
        callback=_open_output,
        help="Print the result as one JSON object, the last line of standard output.",
    )(function)
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=read_config,
        help="TOML file with one table of options for each command.",
    )(function)
