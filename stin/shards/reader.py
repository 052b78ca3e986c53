"""Read frames and fields of any video of a run, checking every byte that is returned.

Files are opened lazily and once in each process (HDF5 has one global lock, so read in processes, not
threads), without locks, which network file systems refuse.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stin_pipe.stin.shards.codec import Window, decode_field, decode_rgb
from stin_pipe.stin.shards.errors import REBUILD, ShardError, StinPipeError
from stin_pipe.stin.shards.index import PlaceTable
from stin_pipe.stin.shards.publish import canonical_json
from stin_pipe.stin.shards.schema import FORMAT_VERSION, FlowCoding, Manifest, Stream, attributes_crc
from stin_pipe.stin.shards.writer import item_crc

MAX_OPEN_FILES = 64
STREAMS: tuple[Stream, ...] = ("rgb", "flow")

# What h5py raises on damaged files, beside OSError.
_HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video of an open shard: its checked attributes and its group."""

    id: str
    attributes: dict[str, Any]
    group: Any  # h5py's types do not tell groups from data sets
    offsets: dict[Stream, np.ndarray]
    crcs: dict[Stream, np.ndarray]
    contents: dict[Stream, Any]
    """The data sets of encoded images, open."""


class ShardFile:
    """One open shard; attributes and offsets of a video are read and checked once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._videos: dict[str, StoredVideo] = {}
        if not path.exists():
            raise ShardError(f"{path}: the shard is missing; run extract again to rebuild it")
        with _as_shard_error(path, "the file"):
            # No cache of chunks: neighbours are read at once, and every video would hold its own.
            self._file: Any = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
            self.attributes = _checked_attributes(self._file.attrs, path, "the file")
        found = self.attributes.get("format_version")
        if found != FORMAT_VERSION:
            raise ShardError(f"{path}: format version {found}, but this program reads {FORMAT_VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def flow_coding(self) -> FlowCoding:
        """How this shard's flow bytes become pixels a frame."""
        return FlowCoding(
            zero=float(self.attributes["flow_zero"]), scale=float(self.attributes["flow_scale"])
        )

    def group_names(self) -> list[str]:
        """Return the names of the videos' groups."""
        with _as_shard_error(self.path, "the list of videos"):
            return sorted(self._file["videos"])

    def video(self, name: str) -> StoredVideo:
        """Open the group `name`, checking its attributes.

        Raises:
            ShardError: the group is missing or differs from its checksums.
        """
        if name not in self._videos:
            with _as_shard_error(self.path, f"video {name}"):
                group = self._file["videos"][name]
                attributes = _checked_attributes(group.attrs, self.path, f"video {name}")
                count = int(attributes["num_frames"])
                contents: dict[Stream, Any] = {}
                offsets: dict[Stream, np.ndarray] = {}
                crcs: dict[Stream, np.ndarray] = {}
                numbers: dict[Stream, int] = {"rgb": count, "flow": count - 1}
                for stream, number in numbers.items():
                    tables = group[stream]["offsets"], group[stream]["crc32"]
                    if [table.shape for table in tables] != [(number + 1,), (number,)]:
                        raise ShardError(f"the {stream} tables do not have {number} entries")
                    offsets[stream], crcs[stream] = (table[...] for table in tables)
                    contents[stream] = group[stream]["bytes"]
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
        offsets, crcs = video.offsets[stream], video.crcs[stream]
        for index in indices:
            if not 0 <= index < len(crcs):
                raise IndexError(f"{video.id}: {stream} index must be in 0..{len(crcs) - 1}, got {index}")
        found: dict[int, np.ndarray] = {}
        wanted = sorted(set(indices))
        dataset = video.contents[stream]
        size = dataset.shape[0]
        while wanted:
            first, count = wanted[0], 1
            while count < len(wanted) and wanted[count] == first + count:
                count += 1
            start, end = int(offsets[first]), int(offsets[first + count])
            run = f"{first}" if count == 1 else f"{first} to {first + count - 1}"
            with _as_shard_error(self.path, f"video {video.id}, {stream} {run}"):
                if not 0 <= start < end <= size:
                    raise ShardError(f"offsets {start}..{end} lie outside the stored {size} bytes")
                content = dataset[start:end]
            for index in wanted[:count]:
                begin, stop = (int(value) - start for value in offsets[index : index + 2])
                with _as_shard_error(self.path, f"video {video.id}, {stream} {index}"):
                    if not 0 <= begin < stop <= len(content):
                        raise ShardError(f"offsets {begin}..{stop} lie outside the {len(content)} bytes read")
                    image = content[begin:stop]
                    if item_crc(video.id, stream, index, image.data) != int(crcs[index]):
                        raise ShardError("the bytes differ from their crc32")
                found[index] = image
            wanted = wanted[count:]
        return [found[index] for index in indices]


def content_digest(shard: ShardFile, name: str) -> str:
    """Recompute the content digest of a video from its stored bytes, checking each crc32 on the way.

    Raises:
        ShardError: something differs from its checksum.
    """
    attributes = shard.video(name).attributes
    described = {key: value for key, value in attributes.items() if key not in ("notes", "digest")}
    digest = hashlib.sha256(canonical_json(described))
    for stream in STREAMS:
        part = hashlib.sha256()
        for index in range(len(shard.video(name).crcs[stream])):
            content = shard.read_bytes(name, stream, index)
            part.update(len(content).to_bytes(8, "little"))
            part.update(content.data)
        digest.update(part.digest())
    return digest.hexdigest()


class ShardReader:
    """Random access to the videos of a run by id; cheap to pickle, safe to fork.

    Args:
        extract_dir: the run's `extract` folder, which holds `shards/`.
        manifest: says in which shard and group each video is.
    """

    def __init__(self, extract_dir: Path, manifest: Manifest) -> None:
        self._shards = Path(extract_dir) / "shards"
        self._places = PlaceTable(manifest)
        self._open: OrderedDict[str, ShardFile] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()
        self._process = os.getpid()

    def read_rgb(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return frames (n, H, W, 3) uint8 RGB in the order of `indices`, or a window (rows, columns) of
        them."""
        return self._images(video_id, "rgb", indices, window)

    def read_flow(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return quantised fields (n, 2, H, W) uint8, x then y; field i is the motion from frame i to i+1."""
        return self._images(video_id, "flow", indices, window)

    def _images(
        self, video_id: str, stream: Stream, indices: Sequence[int], window: Window | None
    ) -> np.ndarray:
        shard, group = self._locate(video_id)
        asked = [int(index) for index in indices]
        images = []
        for index, content in zip(asked, shard.read_many(group, stream, asked), strict=True):
            try:
                images.append(
                    decode_rgb(content, window) if stream == "rgb" else decode_field(content, window)
                )
            except ShardError as error:
                raise ShardError(f"{shard.path}: video {video_id}, {stream} {index}: {error}") from error
        return np.stack(images)

    def flow_coding(self, video_id: str) -> FlowCoding:
        """Return how the flow bytes of this video become pixels a frame."""
        return self._locate(video_id)[0].flow_coding

    def close(self) -> None:
        """Close all files of this process."""
        while self._open:
            self._open.popitem()[1].close()

    def _locate(self, video_id: str) -> tuple[ShardFile, str]:
        if self._process != os.getpid():  # after a fork the parent's HDF5 handles are not ours
            self._open = OrderedDict()
            self._process = os.getpid()
        place = self._places.find(video_id)
        if place is None:
            raise StinPipeError(f"video {video_id!r} is not in the manifest of {self._shards.parent}")
        if place.shard not in self._open:
            self._open[place.shard] = ShardFile(self._shards / f"{place.shard}.h5")
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(place.shard)
        opened = self._open[place.shard]
        found = opened.video(place.group)
        if found.id != video_id:
            raise ShardError(
                f"{opened.path}: group {place.group} holds {found.id!r}, but the manifest says {video_id!r}; "
                "run extract again to rebuild the manifest"
            )
        if found.attributes["digest"] != place.digest:
            raise ShardError(
                f"{opened.path}: video {video_id} is not the one that the manifest lists: the shard was made "
                "anew since; give the command again, or run extract again to rebuild the manifest"
            )
        return opened, place.group


def _checked_attributes(source: h5py.AttributeManager, path: Path, what: str) -> dict[str, Any]:
    values = {name: _plain(value) for name, value in source.items()}
    if values.get("attrs_crc32") != attributes_crc(values):
        raise ShardError(f"the attributes of {what} differ from their crc32")
    values.pop("attrs_crc32")
    if "notes" in values:
        values["notes"] = json.loads(values["notes"])
    return values


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _as_shard_error(path: Path, where: str):
    """Turn whatever HDF5 makes of damage into one error that names the shard and the place."""
    try:
        yield
    except _HDF5_ERRORS as error:
        raise ShardError(_damage(path, where, error)) from error
    except ShardError as error:
        raise ShardError(_damage(path, where, error)) from error


def _damage(path: Path, where: str, error: Exception) -> str:
    return f"{path}: {where}: damaged or not readable ({error}); {REBUILD}"
