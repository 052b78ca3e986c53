"""The command `stin-pipe`: loads a stage when it is called, and turns a failure into one clear line."""

import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import click

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import plain
from stin_pipe.workflows.terminal.commands import COMMANDS, PACKAGE, PROGRAM, RESUMABLE
from stin_pipe.workflows.terminal.config_file import place_of_mistake
from stin_pipe.workflows.terminal.environment import name_environment
from stin_pipe.workflows.terminal.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    Terminated,
)
from stin_pipe.workflows.terminal.output import invocation


class LazyGroup(click.Group):
    """A group that imports a command only when it is called; its own help imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table, which is that of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, and let its options be set by environment variables."""
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"{PACKAGE}.{module}"), function)
        name_environment(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest name for one that does not exist."""
        if args[0] not in COMMANDS and (near := get_close_matches(args[0], COMMANDS, n=1)):
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]}?", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(package_name="stin-pipe", prog_name=PROGRAM)
def cli() -> None:
    """From folders of videos to a trained two-stream action recogniser.

    \b
    The way of a video through the commands:
      stin-pipe extract        --run RUN --videos DIR    frames + TV-L1 flow -> HDF5 shards
      stin-pipe train-spatial  --run RUN                 RGB stream of STIN
      stin-pipe train-temporal --run RUN                 flow stream of STIN
      stin-pipe fuse-eval      --run RUN                 scores, fusion, report.html

    Every stage resumes: after an interruption, give the same command again. Try `stin-pipe demo` first;
    `stin-pipe doctor` shows what works on this machine.
    """


def main() -> None:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    _open_closed_streams()
    arguments = sys.argv[1:]

    # Interruptions first, then what people did wrong, then what went wrong.
    try:
        # Outside of standalone mode click returns the code of its Exit exception.
        returned = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
    except (KeyboardInterrupt, click.Abort, Terminated) as error:
        code = _say_stopped(arguments, EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED)
    except SystemExit as error:
        if error.code != signal.SIGTERM:  # while Ray starts, its own handler turns SIGTERM into this exit
            raise
        code = _say_stopped(arguments, EXIT_TERMINATED)
    except click.exceptions.NoArgsIsHelpError as error:
        code = EXIT_USAGE
        _print(error.format_message(), sys.stderr)
    except click.UsageError as error:
        code = EXIT_USAGE
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        message = error.format_message().replace("\n\t", " ") + _dash_hint(error, arguments)
        _report(arguments, message + place_of_mistake(error) + where, code)
    except click.ClickException as error:
        code = EXIT_FAILED
        _report(arguments, error.format_message(), code)
    except Exception as error:  # the last stop: people get a line, never a traceback
        if stop := _stop_behind(error):
            code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
            sys.exit(_ended(_say_stopped(arguments, code)))
        if invocation.debug or "--debug" in arguments:
            raise
        code = EXIT_FAILED
        details = error.details if isinstance(error, StinPipeError) else ()
        _report(arguments, describe_error(error), code, details)

    # What is still buffered may fail to be written, and then the command has failed.
    sys.exit(_ended(code))


def _stop_behind(error: BaseException | None) -> BaseException | None:
    """Return the interruption that an error follows from, as when numba is stopped while it compiles."""
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__cause__ or error.__context__
    return error


def _dash_hint(error: click.UsageError, arguments: list[str]) -> str:
    """Return how to write the name of a file that was taken for an option, if there is such a file."""
    if not isinstance(error, click.NoSuchOption):
        return ""
    files = [word for word in arguments if word.startswith("-") and os.path.lexists(word)]
    return f" If it is a file, write ./{files[0]}" if files else ""


def _say_stopped(arguments: list[str], code: int) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # batch systems send it more than once
    resumes = _called_command(arguments) in RESUMABLE
    kept, again = "what is finished is kept, the same command resumes", "give the same command again"
    _report(arguments, f"stopped; {kept if resumes else again}", code)
    return code


def describe_error(error: Exception) -> str:
    """Return the one line that says what went wrong and what to do next."""
    if isinstance(error, StinPipeError):
        return error.message

    if isinstance(error, OSError):
        # A temporary or progress file means nothing to a person; its folder does.
        path = Path(str(error.filename or ""))
        place = path.parent if path.name.startswith(".") else path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
            where = f" (writing {place})" if error.filename else ""
            return f"{what}{where}; free some room and give the same command again, it resumes"
        if error.errno == errno.EROFS:
            return f"{place}: on a read-only file system; choose another folder, or mount it for writing"
        if isinstance(error, PermissionError):
            return f"no permission for {place}; choose another folder or change its rights"
        if error.filename:
            return f"{place}: {error.strerror}"

    # OpenCV's wheels need libraries of a display that servers lack.
    if isinstance(error, ImportError) and ".so" in str(error):
        return (
            f"a library of the system is missing: {error}; for OpenCV on Debian or Ubuntu: apt install "
            "libgl1 libglib2.0-0 libxcb1; `stin-pipe doctor` shows what works"
        )
    return f"unexpected {type(error).__name__}: {error}; --debug shows where"


def _report(arguments: list[str], message: str, code: int, details: Sequence[str] = ()) -> None:
    """Write the error for people, and as JSON if that was asked for."""
    for line in (f"{PROGRAM}: {message}", *details):
        _print(plain(line), sys.stderr)
    if invocation.as_json or "--json" in arguments:
        value: dict[str, Any] = {
            "command": _called_command(arguments),
            "error": "\n".join((message, *details)),
            "exit_code": code,
        }
        _print(json.dumps(value), sys.stdout)


def _called_command(arguments: list[str]) -> str | None:
    """Return the full name of the command that was called; None if the arguments name no command."""
    if invocation.command:
        return invocation.command
    # It failed before its options were read, so only the words themselves can tell.
    index = next((index for index, word in enumerate(arguments) if word in COMMANDS), None)
    if index is None:
        return None
    part = [word for word in arguments[index + 1 : index + 2] if word.isalpha()]
    return " ".join([arguments[index], *part]) if arguments[index] == "job" else arguments[index]


def _print(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:
        _discard(stream)  # nobody is listening


def _ended(code: int) -> int:
    """Return the exit code; a result that could not be written counts as a failure."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        _print(f"{PROGRAM}: standard output cannot be written: {error.strerror}", sys.stderr)
        return code or EXIT_FAILED
    return code


def _discard(stream: TextIO) -> None:
    """Drop what is still buffered; otherwise Python would try once more, and fail, as it exits."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Open what a shell closed with `>&-`: the stream is None, and the next file would get its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - to the end


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the orderly way out has begun
    raise Terminated
