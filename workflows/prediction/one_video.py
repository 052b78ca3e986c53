"""One video, a file or frames in memory, as a run of its own: a shard in a folder, and its manifest."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.listing.listing import ListedVideo, display_name
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import PreparedFrame
from stin_pipe.pipeline.shard.from_frames import chosen_frames, extract_frames, prepared_from_memory
from stin_pipe.pipeline.shard.from_video import chosen_pictures, extract_video, prepared_frames
from stin_pipe.stin.shards.codec import decode_rgb, encode_image
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import FlowCoding, Manifest, ManifestVideo, VideoOutcome
from stin_pipe.stin.shards.writer import ShardWriter

SPLIT = "1"
"""The one split of a one-video run, in which the video is the test list."""


class UnusableVideo(StinPipeError):
    """A video that gives no frames or no flow.

    Attributes:
        reason: short key, as in failures.jsonl.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class VideoSource(Protocol):
    """Where the frames of the one video come from."""

    @property
    def name(self) -> str:
        """What a person knows the video by."""
        ...

    def extract(self, video: ListedVideo, params: ExtractParams, writer: ShardWriter) -> VideoOutcome:
        """Write frames and flow into the open shard."""
        ...

    def prepared(self, params: ExtractParams) -> Iterator[PreparedFrame]:
        """Yield the frames as they are stored."""
        ...

    def full_size(self, params: ExtractParams) -> Iterator[np.ndarray]:
        """Yield the same frames as they are shown, (H, W, 3) uint8 RGB at the size of the video."""
        ...


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video file, which gets `timeout_s` seconds."""

    path: Path
    timeout_s: float

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def extract(self, video: ListedVideo, params: ExtractParams, writer: ShardWriter) -> VideoOutcome:
        """Write frames and flow into the open shard."""
        return extract_video(video, root=self._root, params=params, writer=writer, timeout_s=self.timeout_s)

    def prepared(self, params: ExtractParams) -> Iterator[PreparedFrame]:
        """Yield the frames as they are stored."""
        listed = _listed(self.path.name, class_name="")
        deadline = time.monotonic() + self.timeout_s
        return prepared_frames(listed, self._root, params, DecodeNotes(), deadline=deadline)

    def full_size(self, params: ExtractParams) -> Iterator[np.ndarray]:
        """Yield the same frames at the size of the video."""
        return (chosen.picture for chosen in chosen_pictures(self.path, params, DecodeNotes()))

    @property
    def _root(self) -> Path:
        return self.path.absolute().parent


@dataclass(frozen=True, kw_only=True)
class FramesInMemory:
    """Frames (T, H, W, 3) uint8 RGB at `fps` frames a second, 0 where the rate is not known."""

    frames: np.ndarray = field(repr=False)
    fps: float
    name: str = "frames"

    def extract(self, video: ListedVideo, params: ExtractParams, writer: ShardWriter) -> VideoOutcome:
        """Write frames and flow into the open shard."""
        return extract_frames(video, self.frames, fps=self.fps, params=params, writer=writer)

    def prepared(self, params: ExtractParams) -> Iterator[PreparedFrame]:
        """Yield the frames as they are stored."""
        return prepared_from_memory(self.frames, fps=self.fps, params=params, name=self.name)

    def full_size(self, params: ExtractParams) -> Iterator[np.ndarray]:
        """Yield the same frames at their own size."""
        chosen = chosen_frames(self.frames, fps=self.fps, params=params)
        return (picture.picture for picture in chosen)


def frames_in_memory(frames: np.ndarray | torch.Tensor, *, fps: float | None) -> FramesInMemory:
    """Return frames as a source.

    Raises:
        ValueError: they are not (T, H, W, 3) uint8 with at least one frame, or the rate is not a number > 0.
    """
    if isinstance(frames, torch.Tensor):
        frames = frames.detach().cpu().numpy()
    if not isinstance(frames, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            "a video must be the path of a file, or frames as a numpy array or torch tensor (T, H, W, 3) of "
            f"uint8 RGB, got {type(frames).__name__}"
        )

    # Floats could be 0..1 or 0..255, and a wrong guess would give wrong scores without a word.
    if frames.dtype != np.uint8:
        raise ValueError(
            f"frames must be uint8 RGB in 0..255, got {frames.dtype}; floats in 0..1 become that by "
            "(frames * 255).round().astype('uint8')"
        )

    if frames.ndim != 4 or frames.shape[3] != 3:
        hint = ""
        if frames.ndim == 3 and frames.shape[2] == 3:
            hint = "; a single picture is frames[None]"
        elif frames.ndim == 4 and frames.shape[1] == 3:
            hint = "; move the channels last: frames.transpose(0, 2, 3, 1), or permute for a tensor"
        raise ValueError(f"frames must have the shape (T, H, W, 3), got {frames.shape}{hint}")

    if 0 in frames.shape:
        raise ValueError(f"frames must hold at least one picture of at least one pixel, got {frames.shape}")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps must be a number > 0, got {fps!r}")
    return FramesInMemory(frames=frames, fps=fps or 0.0)


@dataclass(frozen=True, kw_only=True)
class OneVideoRun:
    """What a folder holds of one video.

    Attributes:
        folder: holds ``shards/``.
        manifest: lists the video alone, as the test list of its only split.
        notes: what decoding had to say.
    """

    folder: Path
    manifest: Manifest
    notes: Mapping[str, Any]

    @property
    def video(self) -> ManifestVideo:
        """The one video."""
        (video,) = self.manifest.videos.values()
        return video

    def reader(self) -> ShardReader:
        """Open its shard."""
        return ShardReader(self.folder, self.manifest)


def make_one_video_run(
    folder: Path, source: VideoSource, *, classes: tuple[str, ...], params: ExtractParams
) -> OneVideoRun:
    """Extract the video into a shard under `folder`.

    Raises:
        UnusableVideo: it gives no frames or no flow; the message says why.
    """
    # Any class will do: nobody knows the video's own, and its label is never looked at.
    listed = _listed(Path(source.name).name, class_name=classes[0])
    coding = FlowCoding.from_bound(params.bound_px)

    (folder / "shards").mkdir()
    with ShardWriter(
        folder / "shards" / "00000.h5",
        attributes={"flow_zero": coding.zero, "flow_scale": coding.scale},
        streams=params.streams,
    ) as writer:
        outcome = source.extract(listed, params, writer)
    if outcome.meta is None:
        raise UnusableVideo(outcome.reason, outcome.message)

    meta = outcome.meta
    video = ManifestVideo.of(
        meta, shard="00000", group=outcome.group, splits=listed.splits, streams=params.streams
    )

    # No plan and no mark stand behind this manifest: it never leaves its temporary folder.
    manifest = Manifest(
        dataset="folder",
        classes=classes,
        split_names=(SPLIT,),
        split_from="lists",
        split_source="",
        videos={video.id: video},
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=params.bound_px,
        flow_backend=params.flow_backend,
        fingerprint=params.fingerprint(),
        streams=params.streams,
    )

    return OneVideoRun(folder=folder, manifest=manifest, notes=meta.notes)


def single_frame(source: VideoSource, params: ExtractParams) -> np.ndarray:
    """Return the first frame of a video that is too short for flow, as a shard would give it: (1, H, W, 3).

    Raises:
        UnusableVideo: it gives none.
    """
    try:
        # To the end, although one frame is wanted: the decoder reports some faults only there.
        prepared = source.prepared(params.only("rgb"))
        frames = [encode_image(frame.rgb, codec=params.codec) for frame in prepared if frame.rgb is not None]
    except DecodeError as error:
        raise UnusableVideo(error.reason, str(error)) from error
    return np.stack([decode_rgb(content) for content in frames[:1]])


def _listed(name: str, *, class_name: str) -> ListedVideo:
    # Ids are text; the bytes of a file name that are not UTF-8 would not go into a shard.
    return ListedVideo(
        id=display_name(name), path=name, label=0, class_name=class_name, splits={SPLIT: "test"}
    )
