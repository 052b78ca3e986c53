"""One unit of distributed work: make one shard, publish it, then publish its mark.

It runs in any process on any node: everything it needs is in the task, everything it makes is in files on the
shared path. A killed task leaves nothing that counts, and the same task again gives the same bytes.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.ledger import shard_digest
from stin_pipe.pipeline.planning.plan import IMPORTED
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.shard.fill import packed_fields
from stin_pipe.pipeline.shard.flow_batches import FlowBatches
from stin_pipe.pipeline.shard.from_images import import_video
from stin_pipe.pipeline.shard.from_video import extract_video
from stin_pipe.stin.processes.at_work import at_work
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.from_json import from_json
from stin_pipe.stin.shards.publish import is_temporary
from stin_pipe.stin.shards.schema import Mark, VideoOutcome, format_version
from stin_pipe.stin.shards.writer import ShardWriter

MakeVideo = Callable[..., VideoOutcome]

_PROGRESS = FileKind(name="report of progress", max_bytes=4096)

MAX_TRIES = 3
"""Times that a shard, or a video in it, is tried while processes under it die."""


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What the driver learns about a finished shard; small, since it goes through Ray's object store."""

    shard: str
    num_done: int
    num_failed: int
    num_frames: int
    num_fields: int
    seconds: float


def make_shard(task: ShardTask) -> ShardReport:
    """Extract the videos of one shard and publish shard and mark.

    Raises:
        OSError: the run directory cannot be written.
    """
    started = time.monotonic()
    with at_work(task.extract_dir):
        return _make_shard(task, started)


def _make_shard(task: ShardTask, started: float) -> ShardReport:
    folder = task.extract_dir / "shards"
    path = folder / f"{task.shard.name}.h5"
    remove_leftovers(task.extract_dir, f".{task.shard.name}.*")
    # Without its mark the shard does not count, until the new one is complete.
    path.with_suffix(".json").unlink(missing_ok=True)

    outcomes: list[VideoOutcome] = []
    with _Progress(folder, task.shard.name) as progress:
        video_ids = [video.id for video in task.shard.videos]
        with ShardWriter(
            path, attributes=_file_attributes(task), video_ids=video_ids, streams=task.params.streams
        ) as writer:
            for outcome in _extract_all(task, writer):
                outcomes.append(outcome)
                progress.add(outcome)

        # Threads finish in any order; the digest of the shard must not depend on it.
        outcomes.sort(key=lambda outcome: video_ids.index(outcome.id))
        Mark(
            shard=task.shard.name,
            fingerprint=task.fingerprint,
            outcomes=tuple(outcomes),
            digest=shard_digest(outcomes),
            num_bytes=path.stat().st_size,
            format_version=format_version(task.params.streams),
        ).save(path.with_suffix(".json"))

    done = [outcome.meta for outcome in outcomes if outcome.meta]
    num_frames = sum(meta.num_frames for meta in done)
    return ShardReport(
        shard=task.shard.name,
        num_done=len(done),
        num_failed=len(outcomes) - len(done),
        num_frames=num_frames,
        num_fields=num_frames - len(done) if task.params.stores("flow") else 0,
        seconds=time.monotonic() - started,
    )


def _extract_all(task: ShardTask, writer: ShardWriter) -> Iterator[VideoOutcome]:
    """Yield the outcome of each video as it ends: one by one, or several at a time around one device."""
    if task.params.flow_backend == IMPORTED:
        make_video: MakeVideo = import_video
    elif task.num_threads == 1 or not task.params.stores("flow"):
        make_video = extract_video
    else:
        with (
            FlowBatches(packed_fields, task.params) as flow,
            ThreadPoolExecutor(task.num_threads) as threads,
        ):
            videos = [
                threads.submit(_extract_with_retries, task, video, writer, partial(extract_video, flow=flow))
                for video in task.shard.videos
            ]
            try:
                for video in as_completed(videos):
                    yield video.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        return

    for video in task.shard.videos:
        yield _extract_with_retries(task, video, writer, make_video)


def _extract_with_retries(
    task: ShardTask, video: ListedVideo, writer: ShardWriter, make_video: MakeVideo
) -> VideoOutcome:
    """Extract a video; try again if its decoder was killed, which is the machine's fault, not the video's."""
    for tries in range(1, MAX_TRIES + 1):
        outcome = make_video(
            video,
            root=task.root,
            params=task.params,
            writer=writer,
            timeout_s=task.timeout_s,
            stored=task.stored.get(video.id),
        )
        if outcome.reason != "decoder_died" or tries == MAX_TRIES:
            break
    return outcome


@dataclass(frozen=True, kw_only=True)
class RunningShard:
    """Progress of a shard that is being made, by the last report of its worker."""

    shard: str
    num_videos: int
    num_frames: int


def running_shards(extract_dir: Path) -> list[RunningShard]:
    """Return the shards that the workers of a run are making, on all nodes."""
    shards = []
    for path in sorted((extract_dir / "shards").glob(".*.progress")):
        try:
            shards.append(from_json(RunningShard, read_json(path, _PROGRESS)))
        except (FileNotFoundError, UnreadableFileError, ValueError):
            # Finished or half written at this instant: the next look sees it.
            continue
    return shards


def remove_leftovers(extract_dir: Path, pattern: str = ".*") -> None:
    """Delete the unfinished shards and the reports of progress that killed workers left.

    A worker that is still alive, on a node that was cut off, then fails when it publishes.
    """
    for path in (extract_dir / "shards").glob(pattern):
        if is_temporary(path) or path.suffix == ".progress":
            path.unlink(missing_ok=True)


class _Progress:
    """A small file beside the shard that says how far its worker is; removed when the shard is done."""

    def __init__(self, folder: Path, shard: str) -> None:
        self._path = folder / f".{shard}.progress"
        self._shard, self._num_videos, self._num_frames = shard, 0, 0

    def __enter__(self) -> "_Progress":
        self._save()
        return self

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)

    def add(self, outcome: VideoOutcome) -> None:
        self._num_videos += 1
        self._num_frames += outcome.meta.num_frames if outcome.meta else 0
        self._save()

    def _save(self) -> None:
        value = {"shard": self._shard, "num_videos": self._num_videos, "num_frames": self._num_frames}
        self._path.write_text(json.dumps(value), encoding="utf-8")


def _file_attributes(task: ShardTask) -> dict[str, str | float]:
    import cv2
    import h5py
    import numpy

    coding = task.params.flow_coding
    versions = {
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "h5py": h5py.__version__,
        "ffmpeg": find_ffmpeg().version,
    }
    about: dict[str, str | float] = {
        "shard": task.shard.name,
        "fingerprint": task.fingerprint,
        "codec": task.params.codec,
        "versions": json.dumps(versions, sort_keys=True),
    }

    if not task.params.stores("flow"):
        return about

    return about | {
        "flow_zero": coding.zero,
        "flow_scale": coding.scale,
        "flow_bound_px": float(task.params.bound_px),
        "flow_backend": task.params.flow_backend,
        "flow_params": json.dumps(dict(task.params.flow), sort_keys=True),
    }
