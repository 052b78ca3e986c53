"""Options that several commands share, and where their values come from.

A value comes from the first of: flag, environment (`STIN_PIPE_<COMMAND>_<OPTION>`, `STIN_PIPE_RUN`),
`--config FILE.toml` (see `config_file`), recipe, default.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from workflows.config_file import read_config, table_name
from workflows.output import Output
from workflows.speech import wishes

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Size(click.ParamType):
    """A frame size, `340x256` (width x height, pixels)."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the size."""
        if isinstance(value, tuple):
            return value
        width, times, height = str(value).lower().partition("x")
        if not times or not width.isdigit() or not height.isdigit():
            self.fail(f"expected WIDTHxHEIGHT such as 340x256, got {value!r}", param, ctx)
        return int(width), int(height)


class FiniteRange(click.FloatRange):
    """A number in a range; nan and inf, which compare as no number does, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number, and refuse one that is not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class Names(click.ParamType):
    """Names separated by commas."""

    name = "A,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, (tuple, list)):
            return tuple(str(item) for item in value)
        names = tuple(part.strip() for part in str(value).split(",") if part.strip())
        if not names:
            self.fail("expected at least one name", param, ctx)
        return names


class Numbers(click.ParamType):
    """Numbers separated by commas."""

    name = "X,Y"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Split at commas and read the numbers."""
        if isinstance(value, (tuple, list)):
            return tuple(float(item) for item in value)
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers separated by commas, got {value!r}", param, ctx)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Show what the library says of its arguments as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def run_option(required: bool = True) -> Callable[..., Any]:
    """Add `--run`."""
    return click.option(
        "--run",
        "run_path",
        type=DIRECTORY,
        required=required,
        help="Run directory; made by extract, read by all later stages.",
    )


def failure_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides when a video has failed, and how many may: extract and import have it."""
    options = [
        click.option(
            "--timeout",
            type=FiniteRange(min=0, min_open=True),
            default=3600.0,
            help="Seconds after which a video is given up.",
        ),
        click.option("--retry-failed", is_flag=True, help="Try failed videos again."),
        click.option(
            "--max-failure-rate",
            type=FiniteRange(0, 1),
            default=0.05,
            help="Share of failed videos above which the exit code is 3.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _open_output(ctx: click.Context, param: click.Parameter, value: bool) -> Output:
    command = _full_name(ctx)
    wishes.note(command, as_json=value)
    return Output(as_json=value, command=command)


def _full_name(ctx: click.Context) -> str:
    return table_name(ctx).replace(".", " ")


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config`, `--json` and `--debug`; the command gets an `Output` as `output`."""
    function = click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, param, value: wishes.note(_full_name(ctx), debug=value),
        help="Show the traceback of an error.",
    )(function)
    function = click.option(
        "--json",
        "output",
        is_flag=True,
        is_eager=True,  # after --config, before what may be wrong
        callback=_open_output,
        help="Print one JSON object as the last line of standard output.",
    )(function)
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=read_config,
        help="TOML file with a table a command.",
    )(function)
