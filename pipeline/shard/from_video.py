"""One video from its file into a shard: decode, resize, flow, encode, in chunks of bounded memory."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
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
"""A GPU needs more pairs a launch to be full: 128 of a video at 340x256, with those of others beside it."""

MAX_ASPECT = 8.0

MAX_REPEATS = 20_000
"""So often at most --fps repeats one picture; a gap in the times of a small file would fill the disk."""


@dataclass(frozen=True, kw_only=True)
class PreparedFrame:
    """A frame at its stored size: `rgb` (H, W, 3) uint8 to keep, `grey` (H, W) uint8 for flow."""

    rgb: np.ndarray
    grey: np.ndarray


def extract_video(
    video: ListedVideo,
    *,
    root: Path,
    params: ExtractParams,
    writer: ShardWriter,
    timeout_s: float,
    flow: Solve | None = None,
) -> VideoOutcome:
    """Extract one video into the open shard.

    Whatever is wrong with the video becomes a failed outcome with a reason; trouble with the shard itself
    (a full disk, say) is raised.

    Args:
        video: what to extract; its path is relative to `root`.
        root: the videos folder.
        params: what decides the bytes.
        writer: the open shard.
        timeout_s: the video is given up after this many seconds.
        flow: computes the fields of a chunk; `packed_fields` when absent.

    Raises:
        OSError: the shard cannot be written.
    """
    deadline = time.monotonic() + timeout_s
    notes = DecodeNotes()

    def fill(target: VideoWriter) -> Filled:
        with closing(prepared_frames(video, root, params, notes, deadline=deadline)) as frames:
            height, width = write_frames(frames, target, params, flow or packed_fields)
        _check_complete(root / video.path, target, notes, params)
        source_sha256 = file_sha256(root / video.path)
        return Filled(height=height, width=width, fps=stored_fps(params, notes), source_sha256=source_sha256)

    return fill_video(video, writer, notes, fill)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What is known of a video once its frames and fields are written."""

    height: int
    width: int
    fps: float
    source_sha256: str


def fill_video(
    video: ListedVideo, writer: ShardWriter, notes: DecodeNotes, fill: Callable[[VideoWriter], Filled]
) -> VideoOutcome:
    """Let `fill` write one video into the open shard and tell how that ended; what failed leaves nothing.

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
    except (DecodeError, cv2.error, ValueError, MemoryError) as error:
        target.abandon()
        known = isinstance(error, DecodeError)
        return VideoOutcome(
            id=video.id,
            state="failed",
            reason=error.reason if known else "internal",
            message=str(error) if known else f"{video.path}: {type(error).__name__}: {error}",
            retry=error.retry if known else True,
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


def prepared_frames(
    video: ListedVideo, root: Path, params: ExtractParams, notes: DecodeNotes, *, deadline: float
) -> Generator[PreparedFrame]:
    """Yield the frames to store, at their stored size, with the grey pictures that flow is made from.

    Raises:
        DecodeError: as `decode_frames`, or a shape outside of what is supported.
    """
    frames = decode_frames(
        root / video.path,
        notes,
        fps=params.fps,
        start_s=video.start_s,
        end_s=video.end_s,
        square_pixels=params.size is None,
        deadline=deadline,
    )
    if params.fps is not None:
        frames = _without_gaps(frames, name=video.path, fps=params.fps)
    for index, frame in enumerate(frames):
        if index % params.stride == 0:
            yield prepare_frame(frame, params, name=video.path)


def _without_gaps(frames: Iterator[np.ndarray], *, name: str, fps: float) -> Iterator[np.ndarray]:
    repeats, last = 0, None
    for frame in frames:
        repeats = repeats + 1 if last is not None and np.array_equal(frame, last) else 0
        if repeats > MAX_REPEATS:
            raise DecodeError(
                "gap",
                f"{name}: --fps {fps:g} repeats one picture {MAX_REPEATS} times; is there a gap in "
                "its times? Cut it, or extract it without --fps",
            )
        last = frame
        yield frame


def prepare_frame(frame: np.ndarray, params: ExtractParams, *, name: str) -> PreparedFrame:
    """Resize one decoded frame (H, W, 3) uint8 RGB; grey comes from the full frame, then is resized."""
    height, width = frame.shape[:2]
    size = params.size or _keep_aspect(width, height, params.short_side or 0, name)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if size == (width, height):
        return PreparedFrame(rgb=frame, grey=grey)
    how = cv2.INTER_AREA if size[0] <= width and size[1] <= height else cv2.INTER_LINEAR
    return PreparedFrame(
        rgb=cv2.resize(frame, size, interpolation=how), grey=cv2.resize(grey, size, interpolation=how)
    )


def stored_fps(params: ExtractParams, notes: DecodeNotes) -> float:
    """Return the rate of the stored frames, 0 when the file does not tell."""
    return (params.fps or notes.fps) / params.stride


def file_sha256(path: Path) -> str:
    """Return the digest of a source file.

    Raises:
        DecodeError: the file vanished while it was worked on.
    """
    try:
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DecodeError("missing", f"{path}: the file went away while it was read", retry=True) from error


@lru_cache(maxsize=16)
def _digest(path: Path, _num_bytes: int, _mtime_ns: int) -> str:
    """Read a file once for all parts of it that a worker takes in a row."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_frames(
    frames: Iterator[PreparedFrame], target: VideoWriter, params: ExtractParams, flow: Solve
) -> tuple[int, int]:
    """Encode frames and fields chunk by chunk; the last frame of a chunk starts the next one's flow."""
    first = next(frames, None)
    assert first is not None, "decode_frames raises rather than yield nothing"
    shape = first.grey.shape
    pixels = CHUNK_PIXELS * (GPU_CHUNKS if params.flow_backend == "cuda" else 1)
    per_chunk = max(2, pixels // (shape[0] * shape[1]))
    target.append_frame(encode_image(first.rgb, codec=params.codec))
    last = first.grey
    while chunk := list(islice(frames, per_chunk)):
        greys = np.stack([last, *(frame.grey for frame in chunk)])
        for frame, field in zip(chunk, flow(greys, params), strict=True):
            target.append_frame(encode_image(frame.rgb, codec=params.codec))
            target.append_field(encode_image(field, codec=params.codec))
        last = greys[-1]
    return shape[0], shape[1]


def packed_fields(greys: np.ndarray, params: ExtractParams) -> np.ndarray:
    """Return the fields of a clip (T, H, W) as stored: uint8 (T-1, 2H, W)."""
    return tvl1_clip(
        greys,
        bound_px=params.bound_px,
        params=TVL1Params.from_record(params.flow),
        backend=params.flow_backend,
        num_threads=1,
    )


def _check_complete(path: Path, target: VideoWriter, notes: DecodeNotes, params: ExtractParams) -> None:
    if target.num_frames < 2:
        raise DecodeError(
            "too_short",
            f"{path}: {target.num_frames} frame; motion needs at least 2 (see --stride and --fps)",
        )
    if notes.damaged and params.partial == "refuse":
        announced = "unknown" if notes.announced is None else notes.announced
        raise DecodeError(
            "damaged",
            f"{path}: {notes.num_errors} decoder errors, {notes.decoded} of {announced} frames decoded; "
            "--partial keep would keep what there is",
        )


def _keep_aspect(width: int, height: int, short_side: int, name: str) -> tuple[int, int]:
    aspect = max(width, height) / min(width, height)
    if aspect > MAX_ASPECT:
        raise DecodeError(
            "odd_shape",
            f"{name}: {width}x{height} is longer than {MAX_ASPECT:g}:1; give --size WxH to force a size",
        )
    if width <= height:
        return short_side, round(height * short_side / width)
    return round(width * short_side / height), short_side
