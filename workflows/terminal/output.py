"""What a person sees and what a program reads: results on standard output, all else on standard error."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from stin_pipe.stin.shards.names import plain

LOG_INTERVAL_S = 10.0
WIDE_COLUMNS = 120
"""A terminal at least this wide gets the long progress bar."""


@dataclass
class Invocation:
    """The command that this process was called for, and how it reports a failure.

    Attributes:
        command: its full name, `train-spatial` or `job slurm`; empty until its options are read.
        as_json: whether it ends with a JSON object.
        debug: whether an error shows its traceback.
    """

    command: str = ""
    as_json: bool = False
    debug: bool = False

    def note(self, command: str, *, as_json: bool = False, debug: bool = False) -> None:
        """Take what flags, environment and file say for the command; stages inside it change nothing."""
        if self.command in ("", command):
            self.command = command
            self.as_json |= as_json
            self.debug |= debug


invocation = Invocation()
"""That of this process: a failure may come before the command has an `Output`."""


class Output:
    """Prints what one command says; each text is one line, whatever names it holds (see `plain`).

    Args:
        as_json: print one JSON object as the last line of standard output, and tables on standard error.
        command: name of the command, for the JSON.
        keep_result: keep the result in `kept` and print no JSON; for a stage inside another command.
    """

    def __init__(self, *, as_json: bool, command: str, keep_result: bool = False) -> None:
        self.as_json = as_json
        self.command = command
        self.kept: dict[str, Any] = {}
        self._keep_result = keep_result
        # No markup: rich would read the brackets in file names as styles.
        self._errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._results = self._errors if as_json else Console(markup=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line about what is going on."""
        self._errors.print(plain(line))

    def warn(self, line: str) -> None:
        """Print a line that should not be overlooked."""
        self._errors.print(Text(plain(f"warning: {line}"), style="yellow"))

    def show(self, line: str = "", *, tone: Literal["good", "neutral", "bad"] = "neutral") -> None:
        """Print a line of the result; one that is good or bad news has a colour."""
        style = {"good": "bold green", "neutral": "", "bad": "bold red"}[tone]
        self._results.print(Text(plain(line), style=style))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of the result; the first column is text, the others are numbers."""
        table = Table(title=Text(plain(title)), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(Text(plain(column)), justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self._results.print(table)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the JSON object if `--json` was given."""
        if self._keep_result:
            self.kept = dict(value)
        elif self.as_json:
            # The object must be the last line, after everything that is still buffered.
            sys.stdout.flush()
            print(json.dumps(_finite({"command": self.command, **value}), allow_nan=False), flush=True)  # noqa: T201

    @contextmanager
    def progress(self, label: str, total: int, *, unit: str) -> Iterator["Meter"]:
        """Show progress: a bar on a terminal, a plain line every few seconds in a log."""
        if not self._errors.is_terminal:
            yield _LineMeter(self, label, total, unit)
            return

        # On a narrow terminal the texts are cut; bar, count and time left stay whole.
        whole = [Column(no_wrap=True) for _ in range(3)]
        columns = (
            _Shortened("{task.description}", markup=False, table_column=Column()),
            BarColumn(bar_width=40 if self._errors.width >= WIDE_COLUMNS else 10, table_column=whole[0]),
            MofNCompleteColumn(table_column=whole[1]),
            TimeRemainingColumn(table_column=whole[2]),
            _Shortened("{task.fields[detail]}", markup=False, table_column=Column()),
        )
        with Progress(*columns, console=self._errors, transient=True) as bar:
            yield _BarMeter(bar, f"{label} ({unit})", total)


class _Shortened(TextColumn):
    """Text that is cut short with an ellipsis when the terminal is too narrow for all columns."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class Meter:
    """Takes progress; call `update` as often as you like. `total` may change on the way."""

    def __init__(self, total: int) -> None:
        self.total = total

    def update(self, done: int, detail: str = "") -> None:
        """Set how much is done; `detail` is shown beside it."""
        raise NotImplementedError


class _BarMeter(Meter):
    def __init__(self, bar: Progress, label: str, total: int) -> None:
        super().__init__(total)
        self._bar = bar
        self._task = bar.add_task(plain(label), total=total, detail="")

    def update(self, done: int, detail: str = "") -> None:
        self._bar.update(self._task, completed=done, total=self.total, detail=plain(detail))


class _LineMeter(Meter):
    def __init__(self, output: Output, label: str, total: int, unit: str) -> None:
        super().__init__(total)
        self._output, self._label, self._unit = output, label, unit
        self._started = self._last = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, detail: str = "") -> None:
        now = time.monotonic()
        # What was done before a resumed command started must not count towards its speed.
        if self._first is None:
            self._first = done
        if now - self._last < LOG_INTERVAL_S:
            return
        self._last = now
        left = ""
        if done > self._first and "left" not in detail:
            seconds = (now - self._started) * (self.total - done) / (done - self._first)
            left = f", {duration(seconds)} left"
        detail = f", {detail}" if detail else ""
        self._output.say(f"{self._label}: {done}/{self.total} {self._unit}{detail}{left}")


def _finite(value: Any) -> Any:
    """Return JSON values with null in place of NaN and infinity, which JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def duration(seconds: float) -> str:
    """Return a time as people write it: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Return a size in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
