"""One video from its file into a shard: decode, resize, flow, encode, in chunks of bounded memory."""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np

from stin_pipe.pipeline.decoding.choose import ChoiceNotes, Chosen, by_time, every_nth
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_timed, too_late
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.listing.source_files import TooLateError, file_sha256
from stin_pipe.pipeline.planning.ledger import OTHER_SOURCE
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import (
    Filled,
    PreparedFrame,
    fill_video,
    packed_fields,
    prepare_chosen,
    write_frames,
)
from stin_pipe.pipeline.shard.flow_batches import Solve
from stin_pipe.stin.shards.schema import VideoMeta, VideoOutcome
from stin_pipe.stin.shards.writer import ShardWriter, VideoWriter

MAX_REPEATS = 20_000
"""Most repeats of a picture in runs that still repeat them: a gap in the times would else fill the disk."""


def extract_video(
    video: ListedVideo,
    *,
    root: Path,
    params: ExtractParams,
    writer: ShardWriter,
    timeout_s: float,
    flow: Solve | None = None,
    stored: VideoMeta | None = None,
) -> VideoOutcome:
    """Extract one video into the open shard.

    Anything wrong with the video becomes a failed outcome with a reason; trouble with the shard itself (a
    full disk, say) is raised.

    Args:
        video: what to extract; its path is relative to `root`.
        root: the videos folder.
        params: what decides the bytes.
        writer: the open shard.
        timeout_s: seconds after which the video is given up.
        flow: computes the fields of a chunk; `packed_fields` when absent.
        stored: the other stream, if one is added to it: the source must be the same.

    Raises:
        OSError: the shard cannot be written.
    """
    deadline = time.monotonic() + timeout_s
    notes = DecodeNotes()

    def fill(target: VideoWriter) -> Filled:
        if stored:
            _require_source(root / video.path, stored, deadline)
        with closing(prepared_frames(video, root, params, notes, deadline=deadline)) as frames:
            height, width = write_frames(frames, target, params, flow or packed_fields)
        _check_complete(root / video.path, target, notes, params)
        source_sha256 = _source_sha256(root / video.path, deadline)
        return Filled(height=height, width=width, fps=stored_fps(params, notes), source_sha256=source_sha256)

    return fill_video(video, writer, notes, fill)


def prepared_frames(
    video: ListedVideo, root: Path, params: ExtractParams, notes: DecodeNotes, *, deadline: float
) -> Generator[PreparedFrame]:
    """Yield the frames to store, at their stored size, with the grey pictures for the flow.

    Raises:
        DecodeError: as `decode_frames`, or the shape of the picture is not supported.
    """
    path = root / video.path
    pictures = chosen_pictures(
        path, params, notes, start_s=video.start_s, end_s=video.end_s, deadline=deadline
    )
    with closing(pictures):
        yield from prepare_chosen(pictures, params, name=video.path)


def chosen_pictures(
    path: Path,
    params: ExtractParams,
    notes: DecodeNotes,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    deadline: float = math.inf,
) -> Generator[Chosen[np.ndarray]]:
    """Yield the pictures to store, at the size of the video.

    Raises:
        DecodeError: as `decode_timed`.
    """
    decoded = decode_timed(
        path,
        notes,
        start_s=start_s,
        end_s=end_s,
        square_pixels=params.size is None,
        interlaced=params.interlaced if params.decoding > 1 else None,
        deadline=deadline,
    )
    with closing(decoded):
        if params.fps is None:
            yield from every_nth(decoded, params.stride)
            return
        notes.choice = ChoiceNotes()
        chosen = by_time(decoded, params.fps, notes.choice, repeat=params.decoding == 1)
        yield from _without_gaps(chosen, name=path.name, params=params)


def _without_gaps(
    chosen: Iterator[Chosen[np.ndarray]], *, name: str, params: ExtractParams
) -> Iterator[Chosen[np.ndarray]]:
    """Pass every n-th picture on, until one repeats too often."""
    repeats, last = 0, None
    for index, picture in enumerate(chosen):
        repeats = repeats + 1 if picture.picture is last else 0
        last = picture.picture
        if repeats > MAX_REPEATS:
            raise DecodeError(
                "gap",
                f"{name}: --fps {params.fps:g} repeats one picture {MAX_REPEATS} times; is there a gap in "
                "its times? Cut it, or extract it without --fps",
            )
        if index % params.stride == 0:
            yield picture


def stored_fps(params: ExtractParams, notes: DecodeNotes) -> float:
    """Return the rate of the stored frames, 0 if the file does not say."""
    if params.fps is None or params.decoding == 1:
        return (params.fps or notes.fps) / params.stride
    return (notes.choice or ChoiceNotes()).rate(params.fps) / params.stride


def _source_sha256(path: Path, deadline: float) -> str:
    try:
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns, _Limit(deadline))
    except TooLateError as error:
        raise too_late(path) from error
    except OSError as error:
        raise DecodeError("missing", f"{path}: the file went away while it was read", retry=True) from error


class _Limit:
    """A deadline of which the cache of digests takes no notice."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Limit)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=16)
def _digest(path: Path, _num_bytes: int, _mtime_ns: int, limit: _Limit) -> str:
    """Read a file once for all the parts of it that a worker takes in a row."""
    return file_sha256(path, deadline=limit.deadline)


def _require_source(path: Path, stored: VideoMeta, deadline: float) -> None:
    """Refuse another file before its flow is computed; what it decodes to is compared afterwards."""
    if path.exists() and (sha256 := _source_sha256(path, deadline)) != stored.source_sha256:
        raise DecodeError(
            OTHER_SOURCE,
            f"{path}: the file is not the one that the stored stream was made from (sha256 {sha256[:12]}, "
            f"was {stored.source_sha256[:12]}); restore it, or extract into another --run",
            retry=True,
        )


def _check_complete(path: Path, target: VideoWriter, notes: DecodeNotes, params: ExtractParams) -> None:
    """Refuse a video without motion, and a damaged one where damage is not accepted."""
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
