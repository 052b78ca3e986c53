"""Where each video of a run is stored."""

from dataclasses import dataclass

import numpy as np

from stin_pipe.stin.shards.schema import Manifest


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of one video, and the digest of what is there."""

    shard: str
    group: str
    digest: str


class PlaceTable:
    """The places of all videos by id, in arrays.

    A process that reads a Python object takes a copy of its memory page, for the sake of the count of
    references; arrays stay shared among the processes that read.
    """

    def __init__(self, manifest: Manifest) -> None:
        rows = sorted((_bytes(v.id), v.shard, v.group, v.digest) for v in manifest.videos.values())
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        self._ids, self._shards, self._groups, self._digests = (
            np.array(column, np.bytes_) for column in columns
        )

    def find(self, video_id: str) -> Place | None:
        """Return the place of a video; None for one that is not there."""
        wanted = _bytes(video_id)
        row = int(np.searchsorted(self._ids, np.bytes_(wanted))) if len(self._ids) else 0
        if row == len(self._ids) or self._ids[row] != wanted:
            return None
        return Place(
            shard=self._shards[row].decode(),
            group=self._groups[row].decode(),
            digest=self._digests[row].decode(),
        )


def _bytes(video_id: str) -> bytes:
    return video_id.encode("utf-8", "surrogateescape")
