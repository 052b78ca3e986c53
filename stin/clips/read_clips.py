"""The clips of one video: frames or flow stacks, cut to crops.

Training, scoring from shards and scoring a video in memory share this code, so that they cannot differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, overload

import numpy as np

from stin_pipe.stin.clips.sampling import flow_stacks
from stin_pipe.stin.clips.transforms import Crop, crop_fields, crop_frames
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig
from stin_pipe.stin.shards.codec import Window
from stin_pipe.stin.shards.schema import FlowCoding, ManifestVideo


class ClipSource(Protocol):
    """Gives frames and fields by video id: a shard reader, or one video in memory."""

    def read_rgb(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return RGB frames, uint8 (n, H, W, 3), or a window (rows, columns) of each."""
        ...

    def read_flow(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return quantised fields, uint8 (n, 2, H, W), or a window of each."""
        ...

    def flow_coding(self, video_id: str) -> FlowCoding:
        """Return the meaning of the quantised values."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """The properties of a video from which its clips are chosen."""

    id: str
    label: int
    num_frames: int
    height: int
    width: int

    @classmethod
    def of(cls, video: ManifestVideo) -> "ClipShape":
        """Return the shape of a video of a manifest."""
        return cls(
            id=video.id,
            label=video.label,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )


class ShapeTable(Sequence[ClipShape]):
    """The shapes of many videos, in a few arrays.

    A loader worker that reads a Python object copies its memory page, because the reference count changes;
    arrays are read from memory that all processes share. So workers do not grow with the length of the list.
    """

    def __init__(self, videos: Sequence[ClipShape]) -> None:
        names = [video.id.encode("utf-8", "surrogateescape") for video in videos]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._ends = np.cumsum([0, *(len(name) for name in names)])
        self._numbers = np.array(
            [(v.label, v.num_frames, v.height, v.width) for v in videos], np.int64
        ).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> ClipShape: ...

    @overload
    def __getitem__(self, index: slice) -> "ShapeTable": ...

    def __getitem__(self, index: int | slice) -> "ClipShape | ShapeTable":
        if isinstance(index, slice):
            return ShapeTable([self[number] for number in range(*index.indices(len(self)))])
        label, num_frames, height, width = self._numbers[index].tolist()
        number = index % len(self)
        name = self._names[self._ends[number] : self._ends[number + 1]].tobytes()
        return ClipShape(
            id=name.decode("utf-8", "surrogateescape"),
            label=label,
            num_frames=num_frames,
            height=height,
            width=width,
        )


@dataclass(frozen=True, kw_only=True)
class MemoryClip:
    """One video in memory, which is read like a shard; the id does not matter."""

    rgb: np.ndarray | None
    flow: np.ndarray | None
    coding: FlowCoding | None

    def read_rgb(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return frames by index."""
        assert self.rgb is not None
        rows, columns = window or (slice(None), slice(None))
        return self.rgb[list(indices)][:, rows, columns]

    def read_flow(self, video_id: str, indices: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return quantised fields by index."""
        assert self.flow is not None
        rows, columns = window or (slice(None), slice(None))
        return self.flow[list(indices)][:, :, rows, columns]

    def flow_coding(self, video_id: str) -> FlowCoding:
        """Return what the quantised values mean."""
        assert self.coding is not None
        return self.coding


@dataclass(frozen=True, kw_only=True)
class CutClips:
    """The clips of one video, in one or more crops."""

    clips: np.ndarray
    """uint8 (crops, K, C, crop_px, crop_px)."""
    coding: FlowCoding | None
    num_repeated: int


def read_clips(
    source: ClipSource,
    video: ClipShape,
    *,
    starts: np.ndarray,
    crops: Sequence[Crop],
    stream: StreamConfig,
    crop_px: int,
) -> CutClips:
    """Read the clips that begin at ``starts``, and cut every crop from them.

    Each frame or field is decoded once, even if several clips share it.
    """
    num_segments = len(starts)
    window = None
    # What a single crop leaves out need not be converted and copied.
    if len(crops) == 1:
        (crop,) = crops
        window = (
            slice(crop.top, crop.top + crop.height),
            slice(crop.left, crop.left + crop.width),
        )
        crops = (replace(crop, top=0, left=0),)

    if isinstance(stream, SpatialConfig):
        indices, index_of_clip = np.unique(starts, return_inverse=True)
        frames_NHWC = source.read_rgb(video.id, indices.tolist(), window)
        if len(indices) < num_segments:
            frames_NHWC = frames_NHWC[index_of_clip]
        cut = [crop_frames(frames_NHWC, crop=crop, size_px=crop_px) for crop in crops]
        return CutClips(clips=np.stack(cut), coding=None, num_repeated=0)

    stacks = flow_stacks(starts=starts, stack_len=stream.stack_len, num_fields=video.num_frames - 1)
    indices, index_of_field = np.unique(stacks.indices, return_inverse=True)
    fields_N2HW = source.read_flow(video.id, indices.tolist(), window)
    coding = source.flow_coding(video.id)
    cut = []
    for crop in crops:
        cut_N2HW = crop_fields(fields_N2HW, crop=crop, size_px=crop_px, zero=coding.zero)
        cut.append(cut_N2HW[index_of_field.reshape(-1)].reshape(num_segments, -1, crop_px, crop_px))
    return CutClips(clips=np.stack(cut), coding=coding, num_repeated=stacks.num_repeated)


def item_count(video: ClipShape, stream: StreamConfig) -> int:
    """Return the number of frames or flow fields from which the stream can choose."""
    return video.num_frames if isinstance(stream, SpatialConfig) else video.num_frames - 1


def clip_length(stream: StreamConfig) -> int:
    """Return how many of them make one clip."""
    return 1 if isinstance(stream, SpatialConfig) else stream.stack_len
