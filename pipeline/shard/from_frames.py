"""Frames in memory into a shard: what a lossless file of the same frames would give, byte for byte."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import numpy as np

from stin_pipe.pipeline.decoding.choose import ChoiceNotes, Chosen, Timed, by_time, every_nth
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import (
    Filled,
    PreparedFrame,
    fill_video,
    packed_fields,
    prepare_chosen,
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
    yield from prepare_chosen(chosen_frames(frames, fps=fps, params=params), params, name=name)


def chosen_frames(
    frames: np.ndarray, *, fps: float, params: ExtractParams, notes: ChoiceNotes | None = None
) -> Iterator[Chosen[np.ndarray]]:
    """Yield the frames to store as they are; those that `chosen_pictures` takes of a file of them."""
    rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(1)
    timed = (
        Timed(picture=np.ascontiguousarray(frame), at_s=index / rate) for index, frame in enumerate(frames)
    )
    if params.fps is None:
        return every_nth(timed, params.stride)
    notes = notes or ChoiceNotes()
    chosen = by_time(timed, params.fps, notes, repeat=params.decoding == 1, ends_s=len(frames) / rate)
    return islice(chosen, 0, None, params.stride)
