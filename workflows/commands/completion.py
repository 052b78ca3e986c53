"""`stin-pipe completion`: what makes a shell complete commands, options and their values."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from stin_pipe.workflows.cli import PROGRAM, cli
from stin_pipe.workflows.terminal.options import common_options
from stin_pipe.workflows.terminal.output import Output

EXAMPLES = """\b
Examples (once; then open a new shell):
  echo 'eval "$(stin-pipe completion bash)"' >> ~/.bashrc
  echo 'eval "$(stin-pipe completion zsh)"' >> ~/.zshrc
  stin-pipe completion fish > ~/.config/fish/completions/stin-pipe.fish
"""

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"  # where click looks for it


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS), required=False, metavar="[bash|zsh|fish]")
@common_options
def completion(output: Output, shell: str | None) -> None:
    """Print what makes a shell complete commands, options and values; by default for the shell of $SHELL."""
    own = Path(os.environ.get("SHELL", "")).name
    shell = shell or (own if own in SHELLS else None)
    if shell is None:
        raise click.UsageError(
            f"the shell of $SHELL ({own or 'not set'}) is none of {', '.join(SHELLS)}; name one"
        )
    kind = get_completion_class(shell)
    assert kind is not None, shell
    script = kind(cli, {}, PROGRAM, _VARIABLE).source()
    output.show(script.rstrip())
    output.result({"shell": shell, "script": script})
