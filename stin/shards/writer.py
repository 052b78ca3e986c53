"""Write one shard: videos stream in frame by frame, and the file is published whole at the end.

The file under construction has a temporary name; a killed writer leaves nothing that a reader would open.
"""

import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from stin_pipe.stin.shards.publish import canonical_json, publish_file, temporary_name
from stin_pipe.stin.shards.schema import (
    Stream,
    Streams,
    VideoMeta,
    attributes_crc,
    format_version,
    streams_in,
)

CHUNK_BYTES = 64 * 1024
OFFSETS_PER_CHUNK = 1024
BUFFER_BYTES = 4 * 1024 * 1024


def item_crc(video_id: str, stream: Stream, index: int, content: bytes | memoryview) -> int:
    """Return the crc32 that ties image bytes to their video, stream and index."""
    return zlib.crc32(content, zlib.crc32(f"{video_id}:{stream}:{index}:".encode()))


class ShardWriter:
    """A shard under construction; use as a context manager.

    Leaving the block normally publishes the file under `path`; leaving it by an exception removes it.

    Args:
        path: final name of the shard, `NNNNN.h5`.
        attributes: file attributes besides the format version (plain JSON values).
        video_ids: the videos in the order of the plan. It numbers their groups, in whatever order they are
            written; without it groups are numbered as they come.
        streams: what the shard holds of each video.
    """

    def __init__(
        self,
        path: Path,
        *,
        attributes: Mapping[str, Any],
        video_ids: Sequence[str] = (),
        streams: Streams = "both",
    ) -> None:
        self._path = path
        self._numbers = {video_id: number for number, video_id in enumerate(video_ids)}
        self._temporary = temporary_name(path)
        self._guard = _GuardedFile(self._temporary)
        self._file: Any = h5py.File(self._guard, "w")
        self._num_videos = 0
        self._streams: Streams = streams
        # Only where it says something: a shard of both streams is the same as ever.
        named = {} if streams == "both" else {"streams": streams}
        _set_attributes(self._file.attrs, {"format_version": format_version(streams), **named, **attributes})
        self._file.create_group("videos")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            self._guard.close()
            if kind is None:
                self._guard.raise_failure()
                publish_file(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def begin_video(self, video_id: str) -> "VideoWriter":
        """Open a group; close it with `finish` or `abandon`.

        Several may be open at a time, each in a thread of its own: h5py admits one thread after another.
        """
        number = self._numbers.get(video_id, self._num_videos)
        self._num_videos += 1
        group = self._file["videos"].create_group(f"{number:06d}")
        return VideoWriter(group, video_id, self._guard, self._streams)


class VideoWriter:
    """Streams the encoded frames and fields of one video, or those of one stream, into its group."""

    def __init__(self, group: Any, video_id: str, guard: "_GuardedFile", streams: Streams = "both") -> None:
        self._group = group
        self._id = video_id
        self._guard = guard
        self._parts = {
            stream: _ByteStream(group.create_group(stream), video_id, stream)
            for stream in streams_in(streams)
        }

    def append_frame(self, content: bytes) -> None:
        """Add the next encoded RGB frame.

        Raises:
            OSError: the disk is full or failing.
        """
        self._append("rgb", content)

    def append_field(self, content: bytes) -> None:
        """Add the next encoded flow field (motion from frame i to i+1).

        Raises:
            OSError: the disk is full or failing.
        """
        self._append("flow", content)

    def _append(self, stream: Stream, content: bytes) -> None:
        self._parts[stream].append(content)
        self._guard.raise_failure()

    @property
    def num_frames(self) -> int:
        """Frames of the video so far; where only flow is stored, those that it leads between."""
        if "rgb" in self._parts:
            return self._parts["rgb"].count
        return self._parts["flow"].count + 1

    def finish(
        self,
        *,
        label: int,
        class_name: str,
        height: int,
        width: int,
        fps: float,
        source_sha256: str,
        notes: Mapping[str, Any],
    ) -> tuple[str, VideoMeta]:
        """Close the group and return its name and a description of its content."""
        counts = {stream: part.count for stream, part in self._parts.items()}
        assert counts.get("flow", self.num_frames - 1) == self.num_frames - 1, counts
        for part in self._parts.values():
            part.close()

        described = {
            "id": self._id,
            "label": label,
            "class_name": class_name,
            "num_frames": self.num_frames,
            "height": height,
            "width": width,
            "fps": fps,
            "source_sha256": source_sha256,
        }
        digest = hashlib.sha256(canonical_json(described))
        for part in self._parts.values():
            digest.update(part.digest.digest())

        # Notes stay out of the digest: another version of ffmpeg words its messages otherwise.
        meta = VideoMeta(**described, notes=dict(notes), digest=digest.hexdigest())
        stored = {**described, "notes": canonical_json(dict(notes)).decode(), "digest": meta.digest}
        _set_attributes(self._group.attrs, stored)
        return self._group.name.rsplit("/", 1)[-1], meta

    def abandon(self) -> None:
        """Remove what was written of a video that failed; HDF5 uses the space again."""
        del self._group.parent[self._group.name]


class _GuardedFile(io.FileIO):
    """The file beneath HDF5, which survives a full disk.

    HDF5 cannot close a file in order once a write has failed. So a failing write is noted here and reported
    to HDF5 as done; whoever writes calls `raise_failure`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of `content`, or note why that failed."""
        view = memoryview(content).cast("B")
        done = 0
        # A write to a nearly full disk may do a part and succeed.
        while done < len(view) and self._failure is None:
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self._failure = OSError(error.errno, error.strerror, str(self.name))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file, or note why that failed."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._failure = OSError(error.errno, error.strerror, str(self.name))
            return size or 0

    def raise_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure


class _ByteStream:
    """Encoded images end to end, with offsets and checksums; written in blocks of a few MiB."""

    def __init__(self, group: Any, video_id: str, stream: Stream) -> None:
        self._id = video_id
        self._stream: Stream = stream
        options: dict[str, Any] = {"maxshape": (None,), "fletcher32": True}
        self._bytes = group.create_dataset("bytes", (0,), np.uint8, chunks=(CHUNK_BYTES,), **options)
        self._offsets = group.create_dataset(
            "offsets", (0,), np.int64, chunks=(OFFSETS_PER_CHUNK,), **options
        )
        self._crcs = group.create_dataset("crc32", (0,), np.uint32, chunks=(OFFSETS_PER_CHUNK,), **options)
        self._buffer = bytearray()
        self._ends: list[int] = [0]
        self._values: list[int] = []
        self._written = 0
        self.digest = hashlib.sha256()

    @property
    def count(self) -> int:
        return len(self._values)

    def append(self, content: bytes) -> None:
        self._values.append(item_crc(self._id, self._stream, self.count, content))
        self._buffer += content
        self._ends.append(self._written + len(self._buffer))
        self.digest.update(len(content).to_bytes(8, "little"))
        self.digest.update(content)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        _fill(self._offsets, np.asarray(self._ends, np.int64))
        _fill(self._crcs, np.asarray(self._values, np.uint32))

    def _flush(self) -> None:
        end = self._written + len(self._buffer)
        self._bytes.resize((end,))
        self._bytes[self._written : end] = np.frombuffer(bytes(self._buffer), np.uint8)
        self._written = end
        self._buffer.clear()


def _fill(dataset: h5py.Dataset, values: np.ndarray) -> None:
    dataset.resize(values.shape)
    dataset[...] = values


def _set_attributes(target: h5py.AttributeManager, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        target[name] = value
    target["attrs_crc32"] = attributes_crc(values)
