"""Publish whole files: a reader sees the old content or the new, never a part.

Temporary name in the same folder, fsync, `os.replace`, fsync of the folder.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import NOT_PRINTED

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""How file systems say that they have no hard links."""

CHECKSUM = "sha256"
"""Key of the checksum in the objects of `publish_checked_json`."""


def temporary_name(path: Path) -> Path:
    """Return a sibling of `path` that no reader looks for and no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Tell whether `path` is what a killed writer may have left behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def publish_file(temporary: Path, path: Path) -> None:
    """Give the finished file `temporary` its name `path`, so that it survives a power cut.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is untouched.
    """
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    # The folder, too: else a power cut may lose the new name.
    _fsync_folder(path.parent)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` as one atomic step."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content)
        publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_new(temporary: Path, path: Path) -> None:
    """Give the finished file `temporary` the further name `path`, which nobody may have yet.

    Where the file system has no hard links (FAT, exFAT, SMB, gcsfuse), the file is created and then
    written, so for an instant a reader may see it empty.

    Raises:
        FileExistsError: somebody has that name.
        OSError: the disk is full or the folder is not writable.
    """
    try:
        os.link(temporary, path)
        return
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise

    content = temporary.read_bytes()
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def open_for_append(path: Path) -> BinaryIO:
    """Open a log or a lock file at its end; no link is followed, and no named pipe waited for.

    Raises:
        StinPipeError: something else than a file lies there, or it cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file")
    except OSError as error:
        raise StinPipeError(
            f"{path}: cannot be written ({error.strerror})", next_step="remove it, or mend its permissions"
        ) from error
    return os.fdopen(descriptor, "ab")


def publish_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` as one atomic step."""
    publish_bytes(path, json_text(value, indent=1).encode() + b"\n")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that keeps names readable and escapes what `plain` would, so that it is safe to show."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # JSON has escaped the line ends of names; those that are left indent it.
    return "\n".join(
        NOT_PRINTED.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in text.split("\n")
    )


def publish_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of itself, which `is_whole` compares."""
    publish_json(path, {**value, CHECKSUM: _checksum(value)})


def is_whole(value: dict[str, Any]) -> bool:
    """Take the checksum out of an object that was read, and tell whether it fits; true if it has none."""
    checksum = value.pop(CHECKSUM, None)
    return checksum is None or checksum == _checksum(value)


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the byte string that equal values share, for digests and fingerprints."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems sync files alone.
        if error.errno not in (errno.EINVAL, *NO_HARD_LINKS):
            raise
    finally:
        os.close(descriptor)
