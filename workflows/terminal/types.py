"""The types of option values: how they are written, and what people are told who write them otherwise."""

import math
import tomllib
from pathlib import Path
from typing import Any

import click

RESERVED_NAMES = frozenset(
    (
        *("split", "splits", "num_videos", "num_listed", "streams", "fusion_weights"),
        *("fusion_weights_by_split", "fusion", "protocol", "intervals", "interval_method"),
        *("num_recordings", "comparisons", "calibration", "classes", "confusions", "agreement"),
        *("tuning", "data", "literature", "how_made", "report", "score_files", "spread"),
        *("spread_is", "command", "error", "exit_code", "class", "count", "mistaken_for", "id"),
        *("truth", "fused"),
    )
)
"""Names that mean something else in the results, so no stream can have them."""

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


class WholeNumber(click.IntRange):
    """A whole number, in a range if one is given."""

    name = "whole number"  # click's message: 'x' is not a valid whole number

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what stands for the number in the help text."""
        return "N"


class FiniteRange(click.FloatRange):
    """A finite number, in a range if one is given."""

    name = "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what stands for the number in the help text."""
        return "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number, and refuse one that is not finite."""
        # nan compares false with both ends of a range, so click lets it pass.
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


class Pair(click.ParamType):
    """A name and its value, `qos=long`.

    Args:
        example: for the message to a person who writes something else.
    """

    name = "NAME=VALUE"

    def __init__(self, example: str) -> None:
        self.example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.replace("-", "").isalpha():
            self.fail(f"expected NAME=VALUE such as {self.example}, got {value!r}", param, ctx)
        return name, text


class Setting(click.ParamType):
    """One setting, `name=value`, with the value written as in TOML."""

    name = "NAME=VALUE"

    def __init__(self, *, example: str) -> None:
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Read the name and the value; text needs no quotes."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"expected name=value such as {self._example}, got {value!r}", param, ctx)
        try:
            found = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found = text
        return name, tuple(found) if isinstance(found, list) else found


class WorkerRange(click.ParamType):
    """A number of processes, `8`, or the fewest and the most, `4-8`."""

    name = "N|MIN-MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read one number or two."""
        if isinstance(value, tuple):
            return value
        least, _, most = str(value).partition("-")
        if not least.isdigit() or not (most or least).isdigit() or not 1 <= int(least) <= int(most or least):
            self.fail(f"expected a number such as 8 or a range such as 4-8, got {value!r}", param, ctx)
        return int(least), int(most or least)


class AuxShare(click.ParamType):
    """The share of the auxiliary scores: `auto`, `exclude`, or a number."""

    name = "auto|exclude|W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the share; None leaves it to each model."""
        if value is None or value == "auto":
            return None
        if value == "exclude":
            return 0.0
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            self.fail(f"expected auto, exclude or a number >= 0, got {value!r}", param, ctx)
        return share


class StreamFile(click.ParamType):
    """A stream's score file, `NAME=FILE`."""

    name = "NAME=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, file = str(value).partition("=")
        if not equals or not file or not name.replace("-", "").replace("_", "").isalnum():
            self.fail(
                f"expected NAME=FILE such as temporal=flow.csv (letters, digits, - and _), got {value!r}",
                param,
                ctx,
            )
        if name in RESERVED_NAMES:
            self.fail(f"a stream cannot be called {name!r}: the results use that name", param, ctx)
        return name, Path(file)
