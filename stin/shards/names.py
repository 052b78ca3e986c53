"""Names that come out of a file: checked before they become part of a path, escaped before they are shown.

A run, a list or a model may have been written by a stranger. What it names must lie where such things lie,
and must not speak to a terminal.
"""

import os
import re
from pathlib import Path, PurePosixPath

from stin_pipe.stin.shards.errors import StinPipeError

MAX_NAME_BYTES = 255
"""What file systems take."""

_SHARD = re.compile(r"[0-9]{5,9}")
_GROUP = re.compile(r"[0-9]{6,9}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_BIDI = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks that turn the order of what stands beside them, so that a name shows as another."""
NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029" + _BIDI + "]")


def plain(text: str) -> str:
    r"""Return a text as one line: line ends, control and direction marks and bytes not UTF-8 as `\xNN`.

    Names are data: a line end or an escape sequence in one could fake or hide lines of a terminal or a log.
    A text of ours that has several lines is passed line by line.
    """
    return NOT_PRINTED.sub(lambda match: _escaped(ord(match[0])), text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def require_name(text: str, what: str) -> str:
    """Return one name of a file or folder; refuse what is more than that, or less.

    Raises:
        ValueError: it is empty, hidden, holds a slash or a control character, is `..`, or is too long.
    """
    if not text or text.startswith(".") or "/" in text or "\\" in text or _CONTROL.search(text):
        raise ValueError(
            f"{what} must be one plain name (no slash, no leading dot, no control character), got {text!r}"
        )
    if len(os.fsencode(text)) > MAX_NAME_BYTES:
        raise ValueError(f"{what} must be a name of at most {MAX_NAME_BYTES} bytes, got {text[:40]!r}...")
    return text


def require_shard_name(text: str) -> str:
    """Return the name of a shard, `00042`.

    Raises:
        ValueError: it is anything but five or more digits.
    """
    if not _SHARD.fullmatch(text):
        raise ValueError(f"a shard must be named by five or more digits, got {text!r}")
    return text


def require_group_name(text: str) -> str:
    """Return the name of a video's group in a shard, `000017`.

    Raises:
        ValueError: it is anything but six or more digits.
    """
    if not _GROUP.fullmatch(text):
        raise ValueError(f"a group must be named by six or more digits, got {text!r}")
    return text


def require_relative(text: str, what: str) -> str:
    """Return a path relative to some folder that its text does not leave.

    A file of the user may have any name, so line ends and the like pass: whoever shows it escapes it.

    Raises:
        ValueError: it is empty, absolute, holds a null byte, or `..` as one of its parts.
    """
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError(f"{what} must be a path that stays inside its folder, got {text!r}")
    return text


def make_inside(folder: Path, root: Path) -> Path:
    """Make a folder below `root` if it is missing, and return it; for one that is about to be written to.

    Raises:
        StinPipeError: a link on the way, or one inside it that would be written through, leads out of `root`.
        OSError: it cannot be made.
    """
    _require_inside(folder, root)
    folder.mkdir(parents=True, exist_ok=True)
    _require_links_inside(folder, root)
    return folder


def _require_links_inside(folder: Path, root: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                # Shards and marks are replaced as a whole; other files are appended to.
                if folder.name != "shards":
                    _require_inside(Path(entry.path), root)
            elif entry.is_dir():
                _require_links_inside(Path(entry.path), root)


def _require_inside(path: Path, root: Path) -> None:
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, real_root]) != real_root:
        raise StinPipeError(
            f"{path}: a link leads out of {root}, to {real}, and nothing is written there; "
            "put the real file or folder in its place"
        )
