"""Values from `--config FILE.toml`: one file can serve every command of a run.

A command reads the table of its name (`[extract]`, `[job.slurm]`; `[train]` serves both trainings) and two
keys above all: `run` is `--run` of every command, `split` is `--split` of those that do the whole chain.
"""

import math
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stin_pipe.workflows.terminal.commands import COMMANDS
from stin_pipe.workflows.terminal.types import Names, Numbers

CHAIN_COMMANDS = ("run", "job.slurm", "job.ray", "job.kubernetes")
_META = "stin-pipe values of the configuration file"


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the command's tables of the file its defaults, and remember which table each value is from."""
    if path is None:
        return None
    tables = _load(path, ctx, param)
    name = table_name(ctx)
    options = {option.lstrip("-"): item for item in ctx.command.params for option in item.opts}
    defaults: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, key, value in _values(tables, name, path, ctx, param):
        option = key.replace("_", "-")
        if option not in options:
            near = [name.replace("-", "_") for name in get_close_matches(option, options, n=1)]
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(options))}"
            raise click.BadParameter(f"{path}: {place} has no option {key!r}; {hint}", ctx=ctx, param=param)
        item = options[option]
        if expected := _expected(item, key, value):
            raise click.BadParameter(
                f"{path}: {place} has {key} = {value!r}; {expected}", ctx=ctx, param=param
            )
        value = tuple(value) if isinstance(value, list) else value
        defaults[item.name or option] = value
        places[option] = place
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta[f"{_META}: {name}"] = (path, places)
    return path


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

    path, places = ctx.meta.get(f"{_META}: {table_name(ctx)}", (None, {}))
    for item in ctx.command.params:
        # A flag or a variable goes before the file, so its value need not be the one that stands there.
        if item.name in names and ctx.get_parameter_source(item.name or "") == ParameterSource.DEFAULT_MAP:
            for option in (word.lstrip("-") for word in item.opts):
                if option in places:
                    return f" ({option} is from {path}, {places[option]})"
    return ""


def config_path(ctx: click.Context) -> Path | None:
    """Return the configuration file of this command, None if it was given none."""
    return ctx.meta.get(f"{_META}: {table_name(ctx)}", (None, {}))[0]


def place_in_file(ctx: click.Context, option: str) -> str:
    """Return where the command's file sets the option, `[train]`; nothing if it does not."""
    _, places = ctx.meta.get(f"{_META}: {table_name(ctx)}", (None, {}))
    return places.get(option, "")


def table_name(ctx: click.Context) -> str:
    """Return the name of the command's table: `extract`, or `job.slurm` for a command of a group."""
    name = ctx.info_name or ""
    grouped = ctx.parent is not None and ctx.parent.parent is not None
    return f"{ctx.parent.info_name}.{name}" if grouped and ctx.parent else name


def _load(path: Path, ctx: click.Context, param: click.Parameter) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", ctx=ctx, param=param) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: not TOML: {error}", ctx=ctx, param=param) from error
    _require_known(tables, path, ctx, param)
    return tables


def _values(
    tables: dict[str, Any], name: str, path: Path, ctx: click.Context, param: click.Parameter
) -> list[tuple[str, str, Any]]:
    """Return (place, key, value) of everything that the command reads; later ones override earlier ones."""
    values_of_command = []
    has_run = any("--run" in item.opts for item in ctx.command.params)
    if "run" in tables and has_run:
        values_of_command.append(("above the tables", "run", tables["run"]))
    if "split" in tables and name in CHAIN_COMMANDS:
        split = tables["split"]
        split = [str(item) for item in split] if isinstance(split, list) else str(split)
        values_of_command.append(("above the tables", "split", split))
    for table in [*(["train"] if name.startswith("train-") else []), name]:
        if table == "run":
            continue  # a key, the run directory: the command `run` has its options above the tables
        values: Any = tables
        for part in table.split("."):
            values = values.get(part, {})
            if not isinstance(values, dict):
                raise click.BadParameter(f"{path}: [{table}] must be a table", ctx=ctx, param=param)
        values_of_command += [(f"[{table}]", key, value) for key, value in values.items()]
    return values_of_command


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

    # In Python, True is a number and a path: click would take both without a word.
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


def _require_known(tables: dict[str, Any], path: Path, ctx: click.Context, param: click.Parameter) -> None:
    """Refuse what no command reads: a mistake there would go unnoticed."""
    for name, value in tables.items():
        if name in ("run", "split"):
            if isinstance(value, dict):
                raise click.BadParameter(
                    f'{path}: [{name}] is not a table; write {name} = "..." above all tables',
                    ctx=ctx,
                    param=param,
                )
        elif name not in COMMANDS and name != "train":
            kind = "a table" if isinstance(value, dict) else "a value outside any table"
            known = ", ".join(f"[{command}]" for command in ("train", *COMMANDS) if command != "run")
            raise click.BadParameter(
                f"{path}: {name!r} is {kind} that no command reads; known tables: {known}; "
                "above them: run, split",
                ctx=ctx,
                param=param,
            )
