"""`stin-pipe completion`: a script that lets a shell complete commands, options and their values."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from stin_pipe.workflows.terminal.commands import PROGRAM
from stin_pipe.workflows.terminal.options import common_options
from stin_pipe.workflows.terminal.output import Output

EXAMPLES = """\b
Examples (once; then open a new shell):
  echo 'eval "$(stin-pipe completion bash)"' >> ~/.bashrc
  echo 'eval "$(stin-pipe completion zsh)"' >> ~/.zshrc
  stin-pipe completion fish > ~/.config/fish/completions/stin-pipe.fish
"""

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
"""The environment variable by which click recognises that a shell asks."""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS), required=False, metavar="[bash|zsh|fish]")
@common_options
def completion(output: Output, shell: str | None) -> None:
    """Print a script that lets a shell complete commands, options and values.

    Without an argument it is for the shell that $SHELL names.
    """
    login_shell = Path(os.environ.get("SHELL", "")).name
    shell = shell or login_shell
    if shell not in SHELLS:
        raise click.UsageError(
            f"$SHELL names none of {', '.join(SHELLS)} ({login_shell or 'it is not set'}); "
            "give one as the argument"
        )
    completion_class = get_completion_class(shell)
    assert completion_class is not None, shell
    root = click.get_current_context().find_root().command
    script = completion_class(root, {}, PROGRAM, _VARIABLE).source()
    for line in script.rstrip().split("\n"):
        output.show(line)
    output.result({"shell": shell, "script": script})
