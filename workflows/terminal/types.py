"""The types of option values: how each is written, and the message for one that is not."""

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stin_pipe.stin.shards.bounded import parse_toml

RESERVED_NAMES = frozenset(
    (
        *("split", "splits", "num_videos", "num_listed", "streams", "fusion_weights"),
        *("fusion_weights_by_split", "fusion", "protocol", "intervals", "interval_method"),
        *("num_recordings", "comparisons", "calibration", "classes", "confusions", "agreement"),
        *("tuning", "data", "literature", "how_made", "report", "score_files", "spread"),
        *("spread_is", "command", "error", "exit_code", "class", "count", "mistaken_for", "id"),
        *("truth", "fused", "verdict", "answer", "num_classes", "confusion_matrix", "examples"),
        *("trainings", "num_predicted", "precision", "recall", "f1"),
    )
)
"""Names that mean something else in the results, so no stream can have them."""

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Parsed(click.ParamType):
    """A type whose values are written as text; in a configuration file, some may be lists."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; leave a list, and what was parsed before, such as a default."""
        try:
            return self.from_list(value) if isinstance(value, (tuple, list)) else self.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def parse(self, text: str) -> Any:
        """Return the value that the text means.

        Raises:
            ValueError: says what is expected.
        """
        raise NotImplementedError

    def from_list(self, value: Sequence[Any]) -> Any:
        """Return the value that a list means."""
        return tuple(value)


class Size(Parsed):
    """A frame size, `340x256` (width x height, pixels)."""

    name = "WxH"

    def parse(self, text: str) -> tuple[int, int]:
        """Split at the x."""
        width, times, height = text.lower().partition("x")
        if not times or not width.isdigit() or not height.isdigit():
            raise ValueError(f"expected WIDTHxHEIGHT such as 340x256, got {text!r}")
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


class Names(Parsed):
    """Names separated by commas."""

    name = "A,B"

    def parse(self, text: str) -> tuple[str, ...]:
        """Split at commas."""
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        if not names:
            raise ValueError("expected at least one name")
        return names

    def from_list(self, value: Sequence[Any]) -> tuple[str, ...]:
        """Take numbers as names too: splits are called 1, 2, 3."""
        return tuple(map(str, value))


class Numbers(Parsed):
    """Numbers separated by commas."""

    name = "X,Y"

    def parse(self, text: str) -> tuple[float, ...]:
        """Split at commas."""
        try:
            return self.from_list(text.split(","))
        except ValueError:
            raise ValueError(f"expected numbers separated by commas, got {text!r}") from None

    def from_list(self, value: Sequence[Any]) -> tuple[float, ...]:
        """Take whole numbers too."""
        return tuple(map(float, value))


class Pair(Parsed):
    """A name and its value, `qos=long`.

    Args:
        example: for the message to people who write something else.
    """

    name = "NAME=VALUE"

    def __init__(self, *, example: str) -> None:
        self._example = example

    def parse(self, text: str) -> tuple[str, Any]:
        """Split at the first equals sign."""
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9_-]*", name, re.IGNORECASE):
            raise ValueError(f"expected name=value such as {self._example}, got {text!r}")
        return name, value


class Setting(Pair):
    """One setting, `name=value`, with the value written as in TOML; text needs no quotes."""

    def parse(self, text: str) -> tuple[str, Any]:
        """Split at the first equals sign, and parse the value."""
        name, value = super().parse(text)
        if not name.isidentifier():
            raise ValueError(f"expected name=value such as {self._example}, got {text!r}")

        # As in the configuration file, so that a list or a truth value needs no syntax of its own.
        try:
            parsed = parse_toml(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        return name, tuple(parsed) if isinstance(parsed, list) else parsed


class WorkerRange(Parsed):
    """A number of processes, `8`, or the fewest and the most, `4-8`."""

    name = "N|MIN-MAX"

    def parse(self, text: str) -> tuple[int, int]:
        """Read one number or two."""
        least, _, most = text.partition("-")
        if not least.isdigit() or not (most or least).isdigit() or not 1 <= int(least) <= int(most or least):
            raise ValueError(f"expected a number such as 8 or a range such as 4-8, got {text!r}")
        return int(least), int(most or least)


class AuxShare(Parsed):
    """The share of the auxiliary scores: `auto`, `exclude`, or a number."""

    name = "auto|exclude|W"

    def parse(self, text: str) -> float | None:
        """Return the share; None leaves it to each model."""
        if text == "auto":
            return None
        try:
            share = 0.0 if text == "exclude" else float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            raise ValueError(f"expected auto, exclude or a number >= 0, got {text!r}")
        return share


class StreamFile(Parsed):
    """A stream's score file, `NAME=FILE`."""

    name = "NAME=FILE"

    def parse(self, text: str) -> tuple[str, Path]:
        """Split at the first equals sign."""
        name, equals, file = text.partition("=")
        if not equals or not file or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(
                f"expected NAME=FILE such as temporal=flow.csv (letters, digits, - and _), got {text!r}"
            )
        if name in RESERVED_NAMES:
            raise ValueError(f"a stream cannot be called {name!r}: the results use that name")
        return name, Path(file)
