"""The source of a video on the disk: what tells at a glance that it may have changed, and its digest."""

import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """Size and time of a file, or of a folder of images: their sum and the latest.

    Equal states are taken for equal content; where they differ, digests decide.
    """

    num_bytes: int
    mtime_ns: int


def look_at(path: Path) -> SourceState | None:
    """Return the state of a file or a folder; None if nothing can be seen there."""
    try:
        state = path.stat()
        if not path.is_dir():
            return SourceState(num_bytes=state.st_size, mtime_ns=state.st_mtime_ns)
        return _folder_state(path, state.st_mtime_ns)
    except OSError:
        return None


def _folder_state(path: Path, mtime_ns: int) -> SourceState:
    num_bytes = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner = _folder_state(Path(entry.path), entry.stat().st_mtime_ns)
                num_bytes, mtime_ns = num_bytes + inner.num_bytes, max(mtime_ns, inner.mtime_ns)
            else:
                state = entry.stat()
                num_bytes, mtime_ns = num_bytes + state.st_size, max(mtime_ns, state.st_mtime_ns)
    return SourceState(num_bytes=num_bytes, mtime_ns=mtime_ns)


class TooLateError(Exception):
    """A file could not be read in the time that it had."""


def file_sha256(path: Path, *, deadline: float = math.inf) -> str:
    """Return the digest of a file.

    Args:
        path: the file.
        deadline: value of `time.monotonic()` at which it is given up.

    Raises:
        OSError: it cannot be read.
        TooLateError: it is too long for its time, as a sparse file can be.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            if time.monotonic() > deadline:
                raise TooLateError(path)
    return digest.hexdigest()
