"""Frames in memory into a shard: what a lossless file of the same frames would give, byte for byte."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import (
    Filled,
    PreparedFrame,
    fill_video,
    packed_fields,
    prepare_frame,
    write_frames,
)
from stin_pipe.stin.shards.schema import VideoOutcome
from stin_pipe.stin.shards.writer import ShardWriter, VideoWriter


def extract_frames(
    video: ListedVideo, frames: np.ndarray, *, fps: float, params: ExtractParams, writer: ShardWriter
) -> VideoOutcome:
    """Extract frames (T, H, W, 3) uint8 RGB into the open shard under the id of `video`.

    Args:
        video: id and label; its path is never opened.
        frames: the frames as they are shown.
        fps: their rate; only needed where `params` resample.
        params: what decides the bytes.
        writer: the open shard.

    Raises:
        OSError: the shard cannot be written.
    """

    def fill(target: VideoWriter) -> Filled:
        height, width = write_frames(
            prepared_from_memory(frames, fps=fps, params=params, name=video.id), target, params, packed_fields
        )
        if target.num_frames < 2:
            raise DecodeError("too_short", f"{video.id}: {target.num_frames} frame; motion needs at least 2")
        return Filled(
            height=height, width=width, fps=(params.fps or fps) / params.stride, source_sha256="memory"
        )

    return fill_video(video, writer, DecodeNotes(), fill)


def prepared_from_memory(
    frames: np.ndarray, *, fps: float, params: ExtractParams, name: str
) -> Iterator[PreparedFrame]:
    """Yield the frames to store, at their stored size, as `prepared_frames` does for a file."""
    for index in chosen_frames(len(frames), fps=fps, params=params):
        yield prepare_frame(np.ascontiguousarray(frames[index]), params, name=name)


def chosen_frames(num_frames: int, *, fps: float, params: ExtractParams) -> list[int]:
    """Return which frames are stored: those that ffmpeg's fps filter shows, and of these every stride-th."""
    if params.fps is None:
        return list(range(0, num_frames, params.stride))
    # The filter rounds every time to the new clock, halves away from zero, and shows the latest frame that
    # has come by each tick; the end of the last frame is rounded in the same way. Fractions, since a float
    # just below a half would show another frame than ffmpeg does.
    ratio = Fraction(f"{params.fps:g}") / Fraction(fps).limit_denominator(1001)
    ticks = [math.floor(index * ratio + Fraction(1, 2)) for index in range(num_frames + 1)]
    shown: list[int] = []
    for index in range(num_frames):
        shown += [index] * (ticks[index + 1] - ticks[index])
    return shown[:: params.stride]
