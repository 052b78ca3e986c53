"""Whole files, published whole: a reader sees the old content or the new, never a part.

Temporary name in the same folder, flush, fsync, `os.replace`, fsync of the folder.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def temporary_name(path: Path) -> Path:
    """Return a sibling of `path` that no reader looks for and no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Tell whether `path` is what a killed writer may have left behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def publish_file(temporary: Path, path: Path) -> None:
    """Give the finished file `temporary` its name `path`, durably.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is then untouched.
    """
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    _fsync_folder(path.parent)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` as one atomic step."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content)
        publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` as one atomic step."""
    try:
        content = json.dumps(value, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 carries surrogates, which JSON can only escape
        content = json.dumps(value, indent=1).encode()
    publish_bytes(path, content + b"\n")


def canonical_json(value: Any) -> bytes:
    """Return the one byte string that equal values share, for digests and fingerprints."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
