"""Options from the environment: `STIN_PIPE_<COMMAND>_<OPTION>`."""

import os
from difflib import get_close_matches

import click


def name_environment(command: click.Command, name: str) -> None:
    """Let each option be set as `STIN_PIPE_<COMMAND>_<OPTION>`; refuse a variable that sets no option."""
    prefix = _prefix(name)
    parts = command.commands if isinstance(command, click.Group) else {}
    for part, subcommand in parts.items():
        name_environment(subcommand, f"{name} {part}")
    known = set()
    for item in command.params:
        if isinstance(item, click.Option):
            option = max(item.opts, key=len).lstrip("-")
            own = prefix + option.upper().replace("-", "_")
            known.add(own)
            item.envvar = [own, "STIN_PIPE_RUN"] if option == "run" else own
    # A misspelled variable would be ignored silently, and its default used for hours.
    for variable in os.environ:
        of_part = variable.startswith(tuple(_prefix(f"{name} {part}") for part in parts))
        if variable.startswith(prefix) and variable not in known and not of_part:
            near = get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"environment variable {variable} is not an option of {name}{hint}")


def _prefix(name: str) -> str:
    return f"STIN_PIPE_{name.upper().replace('-', '_').replace(' ', '_')}_"
