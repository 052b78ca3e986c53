"""Frames and their flow into the open shard, one video at a time, whole or not at all.

Wherever the frames come from (a file, memory, a folder of images), the video ends here: as a group of the
shard and an outcome that says so, or as an outcome that says why not.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.choose import Chosen
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.flow import TVL1Params, tvl1_clip
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.flow_batches import Solve
from stin_pipe.stin.shards.codec import encode_image
from stin_pipe.stin.shards.schema import VideoOutcome
from stin_pipe.stin.shards.writer import ShardWriter, VideoWriter

CHUNK_PIXELS = 32 * 340 * 256
"""Pixels of one chunk: 32 frames at 340x256, so that memory does not depend on a video's length."""

GPU_CHUNKS = 4
"""A GPU needs more pairs in a launch to be full: 128 of a video at 340x256, and those of others beside it."""

MAX_ASPECT = 8.0


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What is known about a video once its frames and fields are written."""

    height: int
    width: int
    fps: float
    source_sha256: str


def fill_video(
    video: ListedVideo, writer: ShardWriter, notes: DecodeNotes, fill: Callable[[VideoWriter], Filled]
) -> VideoOutcome:
    """Let `fill` write one video into the open shard and report the outcome; a failed video leaves nothing.

    Raises:
        OSError: the shard cannot be written.
    """
    started = time.monotonic()
    target = writer.begin_video(video.id)
    try:
        filled = fill(target)
        group, meta = target.finish(
            label=video.label,
            class_name=video.class_name,
            height=filled.height,
            width=filled.width,
            fps=filled.fps,
            source_sha256=filled.source_sha256,
            notes=notes.as_json(),
        )

    # Whatever else a hostile file provokes in OpenCV or numpy costs this video, not the shard. OSError is
    # left out on purpose: a full disk concerns every video.
    except (DecodeError, cv2.error, ValueError, MemoryError) as error:
        target.abandon()
        expected = isinstance(error, DecodeError)
        return VideoOutcome(
            id=video.id,
            state="failed",
            reason=error.reason if expected else "internal",
            message=str(error) if expected else f"{video.path}: {type(error).__name__}: {error}",
            retry=error.retry if expected else True,
            notes=notes.as_json(),
            seconds=time.monotonic() - started,
        )

    return VideoOutcome(
        id=video.id,
        state="done",
        group=group,
        meta=meta,
        notes=notes.as_json(),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, kw_only=True)
class PreparedFrame:
    """A frame at its stored size: `rgb` (H, W, 3) uint8 to keep, `grey` (H, W) uint8 for flow.

    What the parameters do not store is left out; `shape` is (H, W) all the same.
    """

    rgb: np.ndarray | None
    grey: np.ndarray | None
    shape: tuple[int, int]
    following: np.ndarray | None = None


def prepare_frame(frame: np.ndarray, params: ExtractParams, *, name: str) -> PreparedFrame:
    """Resize one frame (H, W, 3) uint8 RGB to its stored size.

    Raises:
        DecodeError: the picture is too long for a size that keeps its aspect.
    """
    height, width = frame.shape[:2]
    size = params.size or _keep_aspect(width, height, params.short_side or 0, name)

    # Grey comes from the full frame and is then resized, as in the tools that flow networks learn from.
    rgb = frame if params.stores("rgb") else None
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if params.stores("flow") else None
    if size != (width, height):
        # Area averages: shrinking by interpolation would alias, and the flow would follow the aliases.
        shrinks = size[0] <= width and size[1] <= height
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        rgb, grey = (
            None if picture is None else cv2.resize(picture, size, interpolation=how)
            for picture in (rgb, grey)
        )
    return PreparedFrame(rgb=rgb, grey=grey, shape=(size[1], size[0]))


def prepare_chosen(
    chosen: Iterable[Chosen[np.ndarray]], params: ExtractParams, *, name: str
) -> Iterator[PreparedFrame]:
    """Resize chosen pictures, and those that follow them in the source where flow leads there.

    Raises:
        DecodeError: as `prepare_frame`.
    """
    follows = params.flow_pairs == "source" and params.stores("flow")
    last: tuple[np.ndarray | None, PreparedFrame | None] = (None, None)
    for item in chosen:
        # The picture that followed the one before may be chosen itself.
        frame = (
            last[1] if last[0] is item.picture and last[1] else prepare_frame(item.picture, params, name=name)
        )
        if follows and item.following is not None:
            last = item.following, prepare_frame(item.following, params, name=name)
            frame = replace(frame, following=last[1].grey if last[1] else None)
        yield frame


def _keep_aspect(width: int, height: int, short_side: int, name: str) -> tuple[int, int]:
    """Return (width, height) in pixels with the shorter side as wanted."""
    aspect = max(width, height) / min(width, height)
    if aspect > MAX_ASPECT:
        raise DecodeError(
            "odd_shape",
            f"{name}: {width}x{height} is longer than {MAX_ASPECT:g}:1; give --size WxH to force a size",
        )
    if width <= height:
        return short_side, round(height * short_side / width)
    return round(width * short_side / height), short_side


def write_frames(
    frames: Iterator[PreparedFrame], target: VideoWriter, params: ExtractParams, flow: Solve
) -> tuple[int, int]:
    """Encode frames and fields, as far as they are stored, chunk by chunk; return their (height, width).

    Args:
        frames: at least one, all of one size.
        target: the open video of the shard.
        params: what decides the bytes.
        flow: computes the fields of a chunk.
    """
    first = next(frames, None)
    assert first is not None, "decode_frames raises rather than yield nothing"
    height, width = first.shape
    pixels = CHUNK_PIXELS * (GPU_CHUNKS if params.flow_backend == "cuda" else 1)
    per_chunk = max(2, pixels // (height * width))

    _append_frame(first, target, params)
    last = first
    while chunk := list(islice(frames, per_chunk)):
        # The last frame of a chunk is the first of the next, so that no field between them is lost.
        fields = _solve([last, *chunk], params, flow) if first.grey is not None else [None] * len(chunk)
        for frame, field in zip(chunk, fields, strict=True):
            _append_frame(frame, target, params)
            if field is not None:
                target.append_field(encode_image(field, codec=params.codec))
        last = chunk[-1]
    return height, width


def _solve(frames: Sequence[PreparedFrame], params: ExtractParams, flow: Solve) -> np.ndarray:
    """Return the fields that lead from each frame but the last: to the next one, or to the source's next."""
    clip: list[np.ndarray] = []
    begins: list[int] = []
    for frame in frames:
        assert frame.grey is not None, "all frames of a video have a grey picture, or none"
        if not clip or frame.grey is not clip[-1]:
            clip.append(frame.grey)
        begins.append(len(clip) - 1)
        if frame.following is not None and frame is not frames[-1]:
            clip.append(frame.following)
    # Between a picture that follows and the next frame there may be a field, which is of no use.
    return flow(np.stack(clip), params)[begins[:-1]]


def _append_frame(frame: PreparedFrame, target: VideoWriter, params: ExtractParams) -> None:
    if frame.rgb is not None:
        target.append_frame(encode_image(frame.rgb, codec=params.codec))


def packed_fields(greys: np.ndarray, params: ExtractParams) -> np.ndarray:
    """Return the fields of a clip (T, H, W) as stored: uint8 (T-1, 2H, W)."""
    return tvl1_clip(
        greys,
        bound_px=params.bound_px,
        params=TVL1Params.from_record(params.flow),
        backend=params.flow_backend,
        num_threads=1,  # a worker is one core; others work on other shards
    )
