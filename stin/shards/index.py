"""In which shard and group each video of a run is stored."""

from dataclasses import dataclass

import numpy as np

from stin_pipe.stin.shards.schema import Manifest


@dataclass(frozen=True, kw_only=True)
class Location:
    """Shard and group of one video, and the digest of its content."""

    shard: str
    group: str
    digest: str


class VideoIndex:
    """The locations of all videos by id, in arrays.

    A process that looks at a Python object writes its count of references, and so gets a copy of the memory
    page. Arrays stay shared among all the processes that read, however large the data set is.
    """

    def __init__(self, manifest: Manifest) -> None:
        rows = sorted((_bytes(v.id), v.shard, v.group, v.digest) for v in manifest.videos.values())
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        self._ids, self._shards, self._groups, self._digests = (
            np.array(column, np.bytes_) for column in columns
        )

    def find(self, video_id: str) -> Location | None:
        """Return the location of a video; None for one that is not in the manifest."""
        key = _bytes(video_id)
        row = int(np.searchsorted(self._ids, np.bytes_(key))) if len(self._ids) else 0
        if row == len(self._ids) or self._ids[row] != key:
            return None
        return Location(
            shard=self._shards[row].decode(),
            group=self._groups[row].decode(),
            digest=self._digests[row].decode(),
        )


def _bytes(video_id: str) -> bytes:
    return video_id.encode("utf-8", "surrogateescape")
