"""Types of the options that say which scores are fused."""

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
        if not equals or not file or not name.replace("-", "").replace("_", "").isalnum():
            self.fail(
                f"expected NAME=FILE such as temporal=flow.csv (letters, digits, - and _), got {value!r}",
                param,
                ctx,
            )
        if name in RESERVED_NAMES:
            self.fail(f"a stream cannot be called {name!r}, which has a meaning in the results", param, ctx)
        return name, Path(file)
