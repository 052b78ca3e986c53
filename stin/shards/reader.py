"""Read frames and fields of any video of a run, checking every byte that is returned.

Files are opened when they are needed, once in each process (HDF5 has one global lock, so read in processes,
not threads), and without file locks, which network file systems refuse.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, json_object, open_regular
from stin_pipe.stin.shards.codec import Window, decode_field, decode_rgb
from stin_pipe.stin.shards.errors import REBUILD, ShardError, StinPipeError
from stin_pipe.stin.shards.from_json import from_json, shown
from stin_pipe.stin.shards.hdf5 import open_group, open_table, read_attributes
from stin_pipe.stin.shards.index import VideoIndex
from stin_pipe.stin.shards.names import require_group_name
from stin_pipe.stin.shards.publish import canonical_json
from stin_pipe.stin.shards.schema import (
    FORMAT_VERSIONS,
    STREAMS,
    FlowCoding,
    Manifest,
    Stream,
    VideoMeta,
    attributes_crc,
    streams_in,
)
from stin_pipe.stin.shards.writer import item_crc

MAX_OPEN_FILES = 64
_SHARD = FileKind(name="shard", max_bytes=1 << 42)

# What h5py raises on damaged files.
_HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video of an open shard: its checked attributes and its group."""

    id: str
    attributes: dict[str, Any]
    group: Any  # in h5py's types a member of a file is a group or a data set
    offsets: dict[Stream, np.ndarray]
    crcs: dict[Stream, np.ndarray]
    contents: dict[Stream, Any]
    """Open data sets with the encoded images, end to end."""


class ShardFile:
    """An open shard; the attributes and offsets of a video are read and checked once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._videos: dict[str, StoredVideo] = {}
        try:
            # HDF5 would wait for a writer of a named pipe.
            open_regular(path, _SHARD).close()
        except FileNotFoundError:
            raise ShardError(f"{path}: the shard is missing; run extract again to rebuild it") from None
        except UnreadableFileError as error:
            raise ShardError(f"{path}: the file: not readable ({error.reason}); {REBUILD}") from error
        with _as_shard_error(path, "the file"):
            # No cache of chunks: neighbours are read at once, and every video would hold its own.
            self._file: Any = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
            self.attributes = _checked_attributes(self._file, "the file")
        version = self.attributes.get("format_version")
        if version not in FORMAT_VERSIONS:
            known = " and ".join(map(str, FORMAT_VERSIONS))
            raise ShardError(f"{path}: format version {shown(version)}, but this program reads {known}")
        named = self.attributes.get("streams", "both")
        if named not in ("both", *STREAMS):
            raise ShardError(
                f"{path}: the streams are {shown(named)}, but must be rgb, flow or both; {REBUILD}"
            )
        self.streams: tuple[Stream, ...] = streams_in(named)
        self._coding: FlowCoding | None = None
        if "flow" in self.streams:
            with _as_shard_error(path, "the file"):
                self._coding = _flow_coding(self.attributes)

    def close(self) -> None:
        """Close the file; videos read from it stay valid, their bytes cannot be read any more."""
        self._file.close()

    @property
    def flow_coding(self) -> FlowCoding:
        """How this shard's flow bytes become pixels a frame.

        Raises:
            ShardError: it holds no flow.
        """
        if self._coding is None:
            raise ShardError(f"{self.path}: the shard holds no flow")
        return self._coding

    def group_names(self) -> list[str]:
        """Return the names of the videos' groups."""
        with _as_shard_error(self.path, "the list of videos"):
            return sorted(require_group_name(str(name)) for name in open_group(self._file, "videos"))

    def video(self, name: str) -> StoredVideo:
        """Open the group `name`, checking its attributes.

        Raises:
            ShardError: the group is missing or differs from its checksums.
        """
        if name not in self._videos:
            with _as_shard_error(self.path, f"video {name}"):
                group = open_group(open_group(self._file, "videos"), require_group_name(name))
                attributes = _checked_attributes(group, f"video {name}")
                count = from_json(VideoMeta, attributes, name="its description").num_frames
                contents: dict[Stream, Any] = {}
                offsets: dict[Stream, np.ndarray] = {}
                crcs: dict[Stream, np.ndarray] = {}
                for stream in self.streams:
                    number = count if stream == "rgb" else count - 1
                    part = open_group(group, stream)
                    offsets[stream] = open_table(part, "offsets", np.int64, length=number + 1)[...]
                    crcs[stream] = open_table(part, "crc32", np.uint32, length=number)[...]
                    contents[stream] = open_table(part, "bytes", np.uint8)
            self._videos[name] = StoredVideo(
                id=attributes["id"],
                attributes=attributes,
                group=group,
                offsets=offsets,
                crcs=crcs,
                contents=contents,
            )
        return self._videos[name]

    def read_bytes(self, name: str, stream: Stream, index: int) -> np.ndarray:
        """Return the encoded image `index` of a stream, checked against its crc32.

        Raises:
            ShardError: the bytes differ from their checksum.
        """
        return self.read_many(name, stream, (index,))[0]

    def read_many(self, name: str, stream: Stream, indices: Sequence[int]) -> list[np.ndarray]:
        """Return encoded images in the order of `indices`, each checked; neighbours are read at once.

        Raises:
            ShardError: the bytes of one differ from their checksum.
        """
        video = self.video(name)
        if stream not in video.crcs:
            raise ShardError(f"{self.path}: video {video.id}: no {stream} is stored here; {REBUILD}")
        num_images = len(video.crcs[stream])
        for index in indices:
            if not 0 <= index < num_images:
                raise IndexError(f"{video.id}: {stream} index must be in 0..{num_images - 1}, got {index}")

        # HDF5 reads and checks whole chunks: neighbours, which share chunks, are read together.
        images: dict[int, np.ndarray] = {}
        rest = sorted(set(indices))
        while rest:
            count = 1
            while count < len(rest) and rest[count] == rest[0] + count:
                count += 1
            images.update(self._read_neighbours(video, stream, rest[0], count))
            rest = rest[count:]
        return [images[index] for index in indices]

    def _read_neighbours(
        self, video: StoredVideo, stream: Stream, first: int, count: int
    ) -> dict[int, np.ndarray]:
        """Read `count` encoded images from `first` on, and check each."""
        offsets, dataset = video.offsets[stream], video.contents[stream]
        start, end = int(offsets[first]), int(offsets[first + count])
        which = f"{first}" if count == 1 else f"{first} to {first + count - 1}"
        with _as_shard_error(self.path, f"video {video.id}, {stream} {which}"):
            if not 0 <= start < end <= dataset.shape[0]:
                raise ShardError(f"offsets {start}..{end} lie outside the stored {dataset.shape[0]} bytes")
            content = dataset[start:end]

        images = {}
        for index in range(first, first + count):
            begin, stop = (int(value) - start for value in offsets[index : index + 2])
            with _as_shard_error(self.path, f"video {video.id}, {stream} {index}"):
                if not 0 <= begin < stop <= len(content):
                    raise ShardError(f"offsets {begin}..{stop} lie outside the {len(content)} bytes read")
                image = content[begin:stop]
                if item_crc(video.id, stream, index, image.data) != int(video.crcs[stream][index]):
                    raise ShardError("the bytes differ from their crc32")
            images[index] = image
        return images


def content_digest(shard: ShardFile, name: str) -> str:
    """Recompute the content digest of a video from its stored bytes, checking each crc32 on the way.

    Raises:
        ShardError: something differs from its checksum.
    """
    attributes = shard.video(name).attributes
    # Notes hold the words of the decoder's version, which are not content.
    described = {key: value for key, value in attributes.items() if key not in ("notes", "digest")}
    digest = hashlib.sha256(canonical_json(described))
    for stream in shard.streams:
        digest.update(stream_digest(shard, name, stream))
    return digest.hexdigest()


def stream_digest(shard: ShardFile, name: str, stream: Stream) -> bytes:
    """Return the sha256 of the encoded images of one stream of a video, checking each crc32 on the way.

    Raises:
        ShardError: something differs from its checksum.
    """
    digest = hashlib.sha256()
    for index in range(len(shard.video(name).crcs[stream])):
        content = shard.read_bytes(name, stream, index)
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content.data)
    return digest.digest()


class ShardReader:
    """Random access to the videos of a run by id; cheap to pickle, safe to fork.

    Args:
        extract_dir: the run's `extract` folder, which holds `shards/`.
        manifest: tells in which shard and group each video is.
    """

    def __init__(self, extract_dir: Path, manifest: Manifest) -> None:
        self._shards = Path(extract_dir) / "shards"
        self._index = {stream: VideoIndex(manifest, stream) for stream in STREAMS}
        self._open: OrderedDict[str, ShardFile] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_index": self._index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()
        self._process = os.getpid()

    def read_rgb(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return frames (n, H, W, 3) uint8 RGB in the order of `indices`, or a window of each."""
        return self._images(video_id, "rgb", indices, window)

    def read_flow(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return quantised fields (n, 2, H, W) uint8, x then y; field i is the motion from frame i to i+1."""
        return self._images(video_id, "flow", indices, window)

    def _images(
        self, video_id: str, stream: Stream, indices: Sequence[int], window: Window | None
    ) -> np.ndarray:
        shard, group = self._locate(video_id, stream)
        numbers = [int(index) for index in indices]
        images = []
        for index, content in zip(numbers, shard.read_many(group, stream, numbers), strict=True):
            try:
                images.append(
                    decode_rgb(content, window) if stream == "rgb" else decode_field(content, window)
                )
            except ShardError as error:
                raise ShardError(f"{shard.path}: video {video_id}, {stream} {index}: {error}") from error
        return np.stack(images)

    def flow_coding(self, video_id: str) -> FlowCoding:
        """Return how the flow bytes of this video become pixels a frame."""
        return self._locate(video_id, "flow")[0].flow_coding

    def close(self) -> None:
        """Close all files of this process."""
        while self._open:
            self._open.popitem()[1].close()

    def _locate(self, video_id: str, stream: Stream) -> tuple[ShardFile, str]:
        """Return the open shard of a stream and the name of its group, checked against the manifest."""
        if self._process != os.getpid():
            # After a fork the parent's HDF5 handles are not ours: drop them unclosed.
            self._open = OrderedDict()
            self._process = os.getpid()
        location = self._index[stream].find(video_id)
        if location is None and any(index.find(video_id) for index in self._index.values()):
            raise StinPipeError(
                f"video {video_id!r} has no {stream} in {self._shards.parent}; extract with --streams both "
                "adds it"
            )
        if location is None:
            raise StinPipeError(f"video {video_id!r} is not in the manifest of {self._shards.parent}")

        if location.shard not in self._open:
            self._open[location.shard] = ShardFile(self._shards / f"{location.shard}.h5")
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(location.shard)
        shard = self._open[location.shard]

        # The shard may have been made again since the manifest was read.
        video = shard.video(location.group)
        if video.attributes["digest"] != location.digest:
            raise ShardError(
                f"{shard.path}: video {video_id} is not the one that the manifest lists: the shard was made "
                "again since; give the command again, or run extract again to rebuild the manifest"
            )
        return shard, location.group


def _checked_attributes(owner: h5py.Group, what: str) -> dict[str, Any]:
    values = read_attributes(owner)
    if values.get("attrs_crc32") != attributes_crc(values):
        raise ShardError(f"the attributes of {what} differ from their crc32")
    values.pop("attrs_crc32")
    if "notes" in values:
        values["notes"] = json_object(from_json(str, values["notes"], name="notes"))
    return values


def _flow_coding(attributes: Mapping[str, Any]) -> FlowCoding:
    parts = {name: attributes.get(f"flow_{name}") for name in ("zero", "scale")}
    coding: FlowCoding = from_json(FlowCoding, parts, name="the coding of flow")
    if coding.scale <= 0:
        raise ShardError(f"flow_scale must be > 0, got {coding.scale}")
    return coding


@contextmanager
def _as_shard_error(path: Path, where: str):
    """Turn whatever HDF5 makes of damage into one error that names the shard and what was read."""
    try:
        yield
    except _HDF5_ERRORS as error:
        raise ShardError(_damage(path, where, error)) from error
    except ShardError as error:
        raise ShardError(_damage(path, where, error)) from error


def _damage(path: Path, where: str, error: Exception) -> str:
    return f"{path}: {where}: damaged or not readable ({error}); {REBUILD}"
