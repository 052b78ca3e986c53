"""Scores written video by video, so that a killed scoring loses at most one.

The file starts with one line of JSON that says what is scored; then come records of equal length, one a
video, each with a checksum. A record that was cut short counts as never written, as do all after a damaged
one.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from stin_pipe.stin.shards.bounded import FileKind, read_bytes

_JOURNAL = FileKind(
    name="journal", max_bytes=4 << 30, next_step="delete it; the same command then scores all videos"
)


class ScoreJournal:
    """Rows of float32 numbers in an append-only file.

    Args:
        path: of the file; a journal with another identity is overwritten.
        identity: JSON values that decide what the rows mean.
        row_length: numbers in a row.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, Any], row_length: int) -> None:
        self.path = path
        self._row_length = row_length
        self._header = json.dumps(identity, sort_keys=True).encode() + b"\n"
        self._file: BinaryIO | None = None

    def read(self) -> np.ndarray:
        """Return the rows that were written completely, float32 (n, row_length)."""
        record = 4 * self._row_length + 4
        try:
            content = read_bytes(self.path, _JOURNAL)
        except FileNotFoundError:
            content = b""
        rows = []
        if content.startswith(self._header):
            for start in range(len(self._header), len(content) - record + 1, record):
                payload = content[start : start + record - 4]
                if _checksum(payload, len(rows)) != content[start + record - 4 : start + record]:
                    break
                rows.append(np.frombuffer(payload, np.float32))
        return np.stack(rows) if rows else np.empty((0, self._row_length), np.float32)

    def __enter__(self) -> "ScoreJournal":
        rows = self.read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if len(rows) else "wb")
        if len(rows):
            self._file.truncate(len(self._header) + len(rows) * (4 * self._row_length + 4))
            self._file.seek(0, os.SEEK_END)
        else:
            self._file.write(self._header)
            self._file.flush()
        self._count = len(rows)
        return self

    def append(self, row: np.ndarray) -> None:
        """Write one more row; the operating system has it when this returns."""
        assert self._file is not None and row.shape == (self._row_length,)
        payload = row.astype(np.float32).tobytes()
        self._file.write(payload + _checksum(payload, self._count))
        self._file.flush()
        self._count += 1

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()


def _checksum(payload: bytes, number: int) -> bytes:
    """Return a record's checksum; its number takes part, so that no record can stand in for another."""
    return zlib.crc32(payload, number).to_bytes(4, "little")
