"""The errors meant for the person at the keyboard, and how lines of them are made."""

from collections.abc import Sequence


class StinPipeError(Exception):
    """Data or a run is not as it must be; the message names value, rule, place and next step.

    Attributes:
        problem: the message without the next step, for a caller that has a better one.
        message: the line that says it all.
        details: lines that follow it, such as a traceback or a program to copy. Names in a message may hold
            line ends, so only these begin lines on a terminal.
    """

    def __init__(self, problem: str, *, next_step: str = "", details: Sequence[str] = ()) -> None:
        message = f"{problem}; {next_step}" if next_step else problem
        super().__init__("\n".join((message, *details)))
        self.problem = problem
        self.message = message
        self.details = tuple(details)


class ShardError(StinPipeError):
    """A shard cannot be read, or what it holds differs from its checksums."""


class ArgumentError(ValueError):
    """An argument is wrong, or does not fit another one.

    Attributes:
        arguments: their names, as the fields of the options have them; the command line finds the flag or the
            line of the configuration file by these.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str, ...]]:
        """Keep the names when the error comes back from a worker process."""
        return type(self), (str(self), *self.arguments)


REBUILD = "`stin-pipe verify --run RUN --repair`, then the same extract again, makes this shard again"
"""What a person does about a damaged shard."""

MAX_LINE_CHARS = 300


def first_line(error: object) -> str:
    """Return the first line of an error's text that is not empty, else the name of its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:MAX_LINE_CHARS]


def and_more(names: Sequence[object], most: int, *, separator: str = ", ") -> str:
    """Join the first `most` names, and count the others: ``a, b and 3 more``."""
    more = len(names) - most
    return separator.join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural where it needs one: ``1 video``, ``2 videos``."""
    return f"{count} {noun}{'s' * (count != 1)}"
