"""Types of the options that say which scores are fused."""

from pathlib import Path
from typing import Any

import click


class AuxShare(click.ParamType):
    """What becomes of the auxiliary scores: `auto`, `exclude`, or their share."""

    name = "auto|exclude|W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the share; None leaves it to the models."""
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
        if not equals or not file or not name.replace("-", "").replace("_", "").isalnum() or name == "fused":
            self.fail(
                f"expected NAME=FILE such as temporal=flow.csv (letters, digits, - and _), got {value!r}",
                param,
                ctx,
            )
        return name, Path(file)
