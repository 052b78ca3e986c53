"""Estimate the time and disk that an extract will take: by what the run has measured, else by a short probe.

A probe extracts the first frames of three videos as a worker would. It knows nothing of long or odd videos
and of cold disks: it tells hours from days.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.ledger import Ledger
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.runners.workers import use_one_thread
from stin_pipe.pipeline.shard.fill import packed_fields
from stin_pipe.pipeline.shard.from_video import prepared_frames
from stin_pipe.stin.shards.codec import encode_image
from stin_pipe.stin.shards.schema import Streams

PROBE_VIDEOS = 3
PROBE_FRAMES = 33
SLOW_PROBE_FRAMES = 3
"""Frames whose flow is computed by a back end that takes seconds for a pair."""

PROBE_S = 20.0
MIN_MEASURED_S = 10.0
"""A run that has worked for less time tells less than a probe."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the videos that are left will take.

    Attributes:
        slot_seconds: seconds of one worker; several share them.
        num_frames: frames to store.
        num_bytes: size of their shards.
        source: `run` if it rests on the videos that the run has done, else `probe`.
        num_measured: videos that it rests on.
    """

    slot_seconds: float
    num_frames: int
    num_bytes: int
    source: Literal["run", "probe"]
    num_measured: int


def estimate_from_run(
    ledger: Ledger, root: Path, videos: Sequence[ListedVideo], streams: Streams
) -> Estimate | None:
    """Estimate by the seconds, frames and bytes of what is done for these streams; None if too little is."""
    entries = (*ledger.entries.values(), *ledger.companions.values())
    done = [entry for entry in entries if entry.state == "done" and entry.streams == streams]
    seconds = sum(entry.outcome.seconds for entry in done if entry.outcome)
    source_bytes = _source_bytes(root, [entry.video for entry in done])
    if seconds < MIN_MEASURED_S or not source_bytes:
        return None

    frames = sum(entry.outcome.meta.num_frames for entry in done if entry.outcome and entry.outcome.meta)
    shards = {entry.shard for entry in done}
    stored = sum((ledger.extract_dir / "shards" / f"{name}.h5").stat().st_size for name in shards)
    share = _source_bytes(root, videos) / source_bytes
    return Estimate(
        slot_seconds=seconds * share,
        num_frames=round(frames * share),
        num_bytes=round(stored * share),
        source="run",
        num_measured=len(done),
    )


def estimate_by_probe(root: Path, videos: Sequence[ListedVideo], params: ExtractParams) -> Estimate | None:
    """Estimate by extracting the first frames of a few videos now; None if none of them decodes."""
    use_one_thread()
    if params.stores("flow"):
        # Once beforehand, so that compiling is not measured.
        packed_fields(np.zeros((2, 32, 32), np.uint8), params)
    num_solved = SLOW_PROBE_FRAMES if params.flow_backend in ("opencv", "reference") else PROBE_FRAMES
    seconds_a_frame = bytes_a_frame = 0.0
    all_frames = 0
    measured: list[ListedVideo] = []
    for video in _spread_by_size(root, videos):
        notes, started = DecodeNotes(), time.monotonic()
        try:
            frames = prepared_frames(video, root, params, notes, deadline=started + PROBE_S)
            some = list(islice(frames, PROBE_FRAMES))
        except DecodeError:
            # The extract itself will report what is wrong with it.
            continue
        frames.close()
        if len(some) < 2:
            continue

        decoded = time.monotonic()
        solved = some[:num_solved]
        images = [frame.rgb for frame in solved if frame.rgb is not None]
        greys = [frame.grey for frame in solved if frame.grey is not None]
        images += list(packed_fields(np.stack(greys), params)) if greys else []
        num_bytes = sum(len(encode_image(image, codec=params.codec)) for image in images)
        seconds_a_frame += (decoded - started) / len(some) + (time.monotonic() - decoded) / len(solved)
        bytes_a_frame += num_bytes / len(solved)
        announced = 0 if len(some) < PROBE_FRAMES else (notes.announced or 0) // params.stride
        if params.fps and notes.fps:
            announced = round(announced * min(1.0, params.fps / notes.fps))
        all_frames += max(announced, len(some))
        measured.append(video)
    if not measured:
        return None

    # Bytes of source tell how many frames the other videos have: only a few are opened.
    num_frames = all_frames * _source_bytes(root, videos) / _source_bytes(root, measured)
    return Estimate(
        slot_seconds=seconds_a_frame / len(measured) * num_frames,
        num_frames=round(num_frames),
        num_bytes=round(bytes_a_frame / len(measured) * num_frames),
        source="probe",
        num_measured=len(measured),
    )


def _spread_by_size(root: Path, videos: Sequence[ListedVideo]) -> list[ListedVideo]:
    """Choose a few videos of medium sizes: the smallest and the largest are often odd."""
    ranked = sorted(videos, key=lambda video: (_source_bytes(root, [video]), video.id))
    steps = range(1, PROBE_VIDEOS + 1)
    return [ranked[index] for index in sorted({len(ranked) * step // (PROBE_VIDEOS + 1) for step in steps})]


def _source_bytes(root: Path, videos: Sequence[ListedVideo]) -> int:
    total = 0
    for video in videos:
        try:
            total += (root / video.path).stat().st_size
        except OSError:
            continue  # gone since it was listed
    return total
