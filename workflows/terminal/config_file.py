"""Values from `--config FILE.toml`: one file can serve every command of a run.

A command reads the table of its name (`[extract]`, `[job.slurm]`; `[train]` serves both trainings) and two
keys above all: `run` is `--run` of every command, `split` is `--split` of those that do the whole chain.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_toml
from stin_pipe.workflows.terminal.commands import COMMANDS
from stin_pipe.workflows.terminal.types import Names, Numbers

CONFIGURATION = FileKind(name="configuration", max_bytes=1 << 20)
CHAIN_COMMANDS = ("run", "job.slurm", "job.ray", "job.kubernetes")
_META = "stin-pipe values of the configuration file"
_ABOVE = "above the tables"


@dataclass(frozen=True, kw_only=True)
class FileValues:
    """What a command has read from its configuration file.

    Attributes:
        places: option without dashes -> the table that sets it, `[train]`.
    """

    path: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the command's tables of the file its defaults, and remember which table each value is from."""
    if path is None:
        return None
    try:
        tables = _load(path)
        defaults, places = _defaults(ctx, tables)
    except ValueError as error:
        raise click.BadParameter(f"{path}: {error}", ctx=ctx, param=param) from error
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta[f"{_META}: {table_name(ctx)}"] = FileValues(path=path, places=places)
    return path


def _defaults(ctx: click.Context, tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values by the names of the parameters, and the table of each option."""
    options = {option.lstrip("-"): item for item in ctx.command.params for option in item.opts}
    defaults: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, key, value in _values(ctx, tables):
        option = key.replace("_", "-")
        if option not in options:
            near = [name.replace("-", "_") for name in get_close_matches(option, options, n=1)]
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(options))}"
            raise ValueError(f"{place} has no option {key!r}; {hint}")

        item = options[option]
        if expected := _expected(item, key, value):
            raise ValueError(f"{place} has {key} = {value!r}; {expected}")
        defaults[item.name or option] = tuple(value) if isinstance(value, list) else value
        places[option] = place
    return defaults, places


class WrongOptions(click.UsageError):
    """Options whose values are wrong or do not fit each other, by the names of their parameters."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


def place_of_mistake(error: click.UsageError) -> str:
    """Return ` (size is from FILE, [extract])` when the wrong value came from a file, else nothing."""
    ctx = error.ctx
    if ctx is None:
        return ""
    names: Sequence[str | None] = ()
    if isinstance(error, WrongOptions):
        names = error.names
    elif isinstance(error, click.BadParameter) and error.param:
        names = (error.param.name,)

    file = _file_values(ctx)
    for item in ctx.command.params:
        # A flag or a variable overrides the file, so the wrong value need not be the file's.
        if item.name in names and ctx.get_parameter_source(item.name or "") == ParameterSource.DEFAULT_MAP:
            for option in (word.lstrip("-") for word in item.opts):
                if option in file.places:
                    return f" ({option} is from {file.path}, {file.places[option]})"
    return ""


def config_path(ctx: click.Context) -> Path | None:
    """Return the configuration file of this command, None if it was given none."""
    return _file_values(ctx).path


def place_in_file(ctx: click.Context, option: str) -> str:
    """Return where the command's file sets the option, `[train]`; nothing if it does not."""
    return _file_values(ctx).places.get(option, "")


def _file_values(ctx: click.Context) -> FileValues:
    return ctx.meta.get(f"{_META}: {table_name(ctx)}", FileValues())


def table_name(ctx: click.Context) -> str:
    """Return the name of the command's table: `extract`, or `job.slurm` for a command of a group."""
    name = ctx.info_name or ""
    grouped = ctx.parent is not None and ctx.parent.parent is not None
    return f"{ctx.parent.info_name}.{name}" if grouped and ctx.parent else name


def _load(path: Path) -> dict[str, Any]:
    """Read the file; refuse what no command reads, since a mistake there would go unnoticed."""
    try:
        tables = read_toml(path, CONFIGURATION)
    except FileNotFoundError as error:
        raise ValueError(error.strerror) from error
    except UnreadableFileError as error:
        raise ValueError(error.reason) from error

    for name, value in tables.items():
        if name in ("run", "split"):
            if isinstance(value, dict):
                raise ValueError(f'[{name}] is not a table; write {name} = "..." above all tables')
        elif name not in COMMANDS and name != "train":
            kind = "a table" if isinstance(value, dict) else "a value outside any table"
            known = ", ".join(f"[{command}]" for command in ("train", *COMMANDS) if command != "run")
            raise ValueError(
                f"{name!r} is {kind} that no command reads; known tables: {known}; above them: run, split"
            )
    return tables


def _values(ctx: click.Context, tables: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (place, key, value) of everything that the command reads; later ones override earlier ones."""
    name = table_name(ctx)
    if "run" in tables and any("--run" in item.opts for item in ctx.command.params):
        yield _ABOVE, "run", tables["run"]
    if "split" in tables and name in CHAIN_COMMANDS:
        split = tables["split"]
        yield _ABOVE, "split", [str(item) for item in split] if isinstance(split, list) else str(split)

    for table in [*(["train"] if name.startswith("train-") else []), name]:
        if table == "run":
            continue  # a key, the run directory: the command `run` has its options above the tables
        values: Any = tables
        for part in table.split("."):
            values = values.get(part, {})
            if not isinstance(values, dict):
                raise ValueError(f"[{table}] must be a table")
        for key, value in values.items():
            yield f"[{table}]", key, value


def _expected(item: click.Parameter, key: str, value: Any) -> str:
    """Return how to write the value if it is of a kind that the option cannot read, else nothing.

    Words on a command line are all text, so click's types cannot tell a list or a table from a wrong word.
    """
    if isinstance(item.type, Numbers):
        return _wrong_element(value, (int, float), f"write numbers: {key} = [1, 1.5]")
    takes_many = item.multiple or item.nargs == -1
    if takes_many or isinstance(item.type, Names):
        if not takes_many and isinstance(value, str):
            return ""
        as_list = f'write a list: {key} = ["...", "..."]'
        kinds = (str,) if isinstance(item.type, click.Path) else (str, int, float)
        return as_list if not isinstance(value, list) else _wrong_element(value, kinds, as_list)
    if isinstance(value, (list, dict)):
        return f'write one value, not a list or table: {key} = "..."'
    if isinstance(item, click.Option) and item.is_flag:
        return "" if isinstance(value, (bool, str)) else f"write {key} = true or {key} = false"

    # click would take true for the number 1, or for a path of that name, without a word.
    if isinstance(value, bool) or (isinstance(item.type, click.Path) and not isinstance(value, str)):
        number = isinstance(item.type, (click.types.IntParamType, click.types.FloatParamType))
        return f"write a number: {key} = 1" if number else f'write text in quotes: {key} = "..."'
    if isinstance(item.type, click.types.IntParamType) and isinstance(value, float):
        return f"write a whole number: {key} = {round(value) if math.isfinite(value) else 1}"
    return ""


def _wrong_element(value: Any, kinds: tuple[type, ...], advice: str) -> str:
    """Return the advice unless the value is text, read as on the command line, or a list of these kinds."""
    elements = value if isinstance(value, list) else [value]
    fits = all(isinstance(element, kinds) and not isinstance(element, bool) for element in elements)
    return "" if isinstance(value, str) or (elements and fits) else advice
