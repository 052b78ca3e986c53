"""In which shard and group each video of a run is stored, stream by stream."""

from dataclasses import dataclass

import numpy as np

from stin_pipe.stin.shards.schema import Manifest, ManifestVideo, Stream, streams_in


@dataclass(frozen=True, kw_only=True)
class Location:
    """Shard and group of one stream of a video, and the digest of its content there."""

    shard: str
    group: str
    digest: str


class VideoIndex:
    """The locations of one stream of all videos by id, in arrays.

    A process that looks at a Python object writes its count of references, and so gets a copy of the memory
    page. Arrays stay shared among all the processes that read, however large the data set is.
    """

    def __init__(self, manifest: Manifest, stream: Stream) -> None:
        stored = ((video.id, _location(video, stream)) for video in manifest.videos.values())
        rows = sorted((_bytes(name), at.shard, at.group, at.digest) for name, at in stored if at)
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        self._ids, self._shards, self._groups, self._digests = (
            np.array(column, np.bytes_) for column in columns
        )

    def find(self, video_id: str) -> Location | None:
        """Return the location of a video; None for one of which the manifest has no such stream."""
        key = _bytes(video_id)
        row = int(np.searchsorted(self._ids, np.bytes_(key))) if len(self._ids) else 0
        if row == len(self._ids) or self._ids[row] != key:
            return None
        return Location(
            shard=self._shards[row].decode(),
            group=self._groups[row].decode(),
            digest=self._digests[row].decode(),
        )


def _location(video: ManifestVideo, stream: Stream) -> Location | None:
    if stream in streams_in(video.streams):
        return Location(shard=video.shard, group=video.group, digest=video.digest)
    if video.companion is None:
        return None
    at = video.companion
    return Location(shard=at.shard, group=at.group, digest=at.digest)


def _bytes(video_id: str) -> bytes:
    return video_id.encode("utf-8", "surrogateescape")
