"""The option values of one stage of the chain, as its own command would read them."""

import shlex
from copy import copy
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stin_pipe.workflows.terminal.config_file import place_in_file

_NAMED_TRAININGS = {
    "train-spatial": ("name", "more-epochs", "continue-from"),
    "train-temporal": ("name", "more-epochs", "continue-from"),
    "fuse-eval": ("name", "spatial", "temporal"),
}
"""Options that make other trainings and evaluations than the default ones, which are those of the chain."""


def read_stage(
    ctx: click.Context, config: Path, command: str, run_path: Path, *, files_are_here: bool = True
) -> dict[str, Any]:
    """Read the options of one stage from environment, file and defaults.

    Args:
        ctx: of the command that reads the chain.
        config: the configuration file.
        command: the stage, `train-spatial`.
        run_path: the run directory.
        files_are_here: whether files and folders that options name must exist on this machine.

    Returns:
        values by the names of the command's parameters, without the run and the output.

    Raises:
        click.UsageError: a value that the stage would refuse, or that makes no part of the chain.
    """
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    stage_command = root.command.get_command(root, command)
    assert stage_command is not None
    if not files_are_here:
        stage_command = _with_paths_unchecked(stage_command)

    try:
        arguments = ["--config", str(config), "--run", str(run_path)]
        stage = stage_command.make_context(command, arguments, parent=root)
    except click.MissingParameter as error:
        option = max(error.param.opts, key=len).lstrip("-") if error.param else "an option"
        raise click.UsageError(f"{config}: [{command}] needs a value for {option}") from error
    # The splits are set once, above the tables, for all stages alike.
    if place := place_in_file(stage, "split"):
        raise click.UsageError(
            f'{config}: {place} has split, which the chain ignores; write split = "..." above all tables'
        )
    _refuse_names(stage, config, command, run_path)
    return {name: value for name, value in stage.params.items() if name not in ("output", "run_path")}


def _refuse_names(stage: click.Context, config: Path, command: str, run_path: Path) -> None:
    for option in _NAMED_TRAININGS.get(command, ()):
        name = option.replace("-", "_")
        variable = f"{stage.auto_envvar_prefix}_{name.upper()}"
        if place := place_in_file(stage, option):
            where, remedy = f"{config}: {place} has {name}", "leave it out of the file"
        elif stage.get_parameter_source(name) == ParameterSource.ENVIRONMENT:
            where, remedy = f"{config}: the variable {variable} is set", "unset it"
        else:
            continue

        by_hand = f"stin-pipe {command} --run {shlex.quote(str(run_path))}"
        by_hand += f" --{option} NAME" if command == "fuse-eval" else " --name NAME"
        raise click.UsageError(
            f"{where}, but the chain trains and evaluates the default training of each stream; {remedy}, and "
            f"{'evaluate' if command == 'fuse-eval' else 'train'} by hand: {by_hand}"
        )


def _with_paths_unchecked(command: click.Command) -> click.Command:
    """Return the command with options that take any path: pods see other folders than this machine."""
    # Copies, because commands are shared: the real ones must go on checking.
    command = copy(command)
    command.params = [copy(item) for item in command.params]
    for item in command.params:
        if isinstance(item.type, click.Path):
            item.type = click.Path(path_type=Path)
    return command
