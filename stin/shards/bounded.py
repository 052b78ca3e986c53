"""Read files whole that may be damaged, or made to do harm: regular files only, of bounded size and depth.

A named pipe would make a plain `open` wait for ever, `/dev/zero` fill the memory, and a number of 100,000
digits or a list in a list in a list end in an error of Python's own.
"""

import codecs
import io
import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from stin_pipe.stin.shards.errors import StinPipeError

MAX_DEPTH = 64
"""Lists and objects within each other; ours have fewer than ten."""

MAX_DIGITS = 300
"""Characters of one number; a whole number of so many still fits into a float."""

MIB = 1 << 20
_PIECE_BYTES = 8 * MIB
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """A kind of file, as messages name it.

    Attributes:
        name: `plan`; the message says `the plan cannot be read`.
        max_bytes: a larger file is refused before it is read.
        next_step: what a person does about one that cannot be read.
    """

    name: str
    max_bytes: int = 64 * MIB
    next_step: str = ""


class UnreadableFileError(StinPipeError):
    """A file is not of the kind that it should be.

    Attributes:
        reason: what is wrong with it, without its path.
    """

    def __init__(self, path: Path, kind: FileKind, reason: str) -> None:
        super().__init__(f"{path}: the {kind.name} cannot be read ({reason})", next_step=kind.next_step)
        self.reason = reason
        self._parts = path, kind, reason

    def __reduce__(self) -> tuple[type["UnreadableFileError"], tuple[Path, FileKind, str]]:
        """Come back whole from a worker process."""
        return type(self), self._parts


def open_regular(path: Path, kind: FileKind) -> BinaryIO:
    """Open a regular file for reading; waits for nothing.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is a pipe, a device, a folder or too large, or may not be read.
    """
    try:
        # Without O_NONBLOCK the call would wait until somebody writes into a named pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFileError(path, kind, error.strerror or str(error)) from error
    except ValueError as error:  # a null byte in the path
        raise UnreadableFileError(path, kind, str(error)) from error

    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        what = next((words for test, words in _KINDS.items() if test(status.st_mode)), "of an unknown kind")
        raise UnreadableFileError(path, kind, f"it is {what}, not a regular file")
    if status.st_size > kind.max_bytes:
        os.close(descriptor)
        raise UnreadableFileError(path, kind, _too_large(kind))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, kind: FileKind) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: see `open_regular`; or it grew while it was read, or the disk fails.
    """
    with open_regular(path, kind) as file:
        try:
            content = file.read(os.fstat(file.fileno()).st_size + 1)
            # Files of /proc tell no size, and others grow.
            while piece := file.read(_PIECE_BYTES):
                content += piece
                if len(content) > kind.max_bytes:
                    raise UnreadableFileError(path, kind, _too_large(kind))
        except OSError as error:
            raise UnreadableFileError(path, kind, error.strerror or str(error)) from error
        except MemoryError as error:
            raise UnreadableFileError(path, kind, "it does not fit into the memory") from error
    return content


def read_text(path: Path, kind: FileKind) -> str:
    """Return a text in UTF-8; a byte-order mark is dropped. It raises what `read_bytes` raises."""
    try:
        return read_bytes(path, kind).removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(path, kind, f"it is not UTF-8 text: byte {error.start}") from error


def open_list(path: Path, kind: FileKind) -> TextIO:
    """Open a text list for reading line by line.

    A byte-order mark is dropped, and bytes that are not UTF-8 are kept, as in file names. It raises what
    `open_regular` raises.
    """
    file = open_regular(path, kind)
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def read_json(path: Path, kind: FileKind) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: see `read_bytes`; or it holds no JSON object of bounded depth and numbers.
    """
    content = read_bytes(path, kind)
    try:
        return json_object(content)
    except ValueError as error:
        raise UnreadableFileError(path, kind, str(error)) from error


def read_json_lines(path: Path, kind: FileKind) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; one that is none, or half written, is left out.

    It raises what `read_bytes` raises.
    """
    for line in read_bytes(path, kind).splitlines():
        try:
            yield json_object(line)
        except ValueError:
            continue


def read_toml(path: Path, kind: FileKind) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: see `read_text`; or it is not TOML of bounded depth and numbers.
    """
    text = read_text(path, kind)
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UnreadableFileError(path, kind, f"it is not TOML: {error}") from error
    except ValueError as error:
        raise UnreadableFileError(path, kind, str(error)) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables in a text.

    Raises:
        tomllib.TOMLDecodeError: it is not TOML.
        ValueError: it is not of bounded depth and numbers.
    """
    return _bounded(lambda: tomllib.loads(text, parse_float=_float))


def json_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ValueError: says in plain words what else it is.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {_words(value)} where an object belongs")
    return value


def parse_json(text: str | bytes) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: says in plain words why it is none, or none of bounded depth and numbers.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: byte {error.start}") from error
    return _bounded(lambda: json.loads(plain, parse_int=_int, parse_float=_float))


def _bounded(parse: Callable[[], Any]) -> Any:
    """Parse, and refuse what is nested too deeply; the parsers of Python give up only at some 1,000."""
    too_deep = f"it is nested more than {MAX_DEPTH} levels deep"
    try:
        value = parse()
    except RecursionError:
        raise ValueError(too_deep) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        # The parser of TOML takes whole numbers by itself; Python refuses those above 4,300 digits.
        raise ValueError(str(error) if isinstance(error, _NumberError) else _LONG_NUMBER) from error

    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for outer in level for part in _parts(outer) if isinstance(part, (dict, list))]
        if not level:
            return value
    raise ValueError(too_deep)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


_LONG_NUMBER = f"it holds a number of more than {MAX_DIGITS} digits"


class _NumberError(ValueError):
    """A number is too long."""


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _NumberError(_LONG_NUMBER)
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise _NumberError(_LONG_NUMBER)
    return float(text)


def _words(value: Any) -> str:
    return "a list" if isinstance(value, list) else "nothing" if value is None else "a single value"


def _too_large(kind: FileKind) -> str:
    size = kind.max_bytes
    shown = f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
    return f"it is larger than {shown}, the most that is read of a {kind.name}"
