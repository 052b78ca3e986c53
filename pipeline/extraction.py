"""The stage from videos to shards: plan what is new, make every shard that is not done, publish the manifest.

It prints nothing: events tell what happens on the way, the result what the run holds in the end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stin_pipe.pipeline.listing.listing import Listing
from stin_pipe.pipeline.planning.ledger import Ledger, write_absent, write_views
from stin_pipe.pipeline.planning.match import Digest, file_digest
from stin_pipe.pipeline.planning.plan import IMPORTED, ExtractParams
from stin_pipe.pipeline.planning.todo import ShardTask, Work, count_deleted, prepare_work
from stin_pipe.pipeline.planning.twins import Twins, find_twins
from stin_pipe.pipeline.shard.from_images import folder_sha256
from stin_pipe.pipeline.shard.make_shard import ShardReport, remove_leftovers, running_shards
from stin_pipe.stin.processes.at_work import wait_until_alone
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import STREAMS, Manifest, Streams

RunTasks = Callable[[Sequence[ShardTask]], Iterator[ShardReport | None]]
"""A runner: yields a report for each finished shard and None in between; if it is stopped, it ends early."""


@dataclass(frozen=True, kw_only=True)
class ExtractListed:
    """The listed videos and how they will be stored; nothing is written yet."""

    listing: Listing
    params: ExtractParams


@dataclass(frozen=True, kw_only=True)
class ExtractStart:
    """The work that is about to begin."""

    work: Work


@dataclass(frozen=True, kw_only=True)
class ExtractProgress:
    """How far an extract is, videos of unfinished shards included."""

    num_videos: int
    total_videos: int
    frames_per_s: float


@dataclass(frozen=True, kw_only=True)
class ExtractNotice:
    """Something a person should know."""

    message: str
    is_warning: bool = True


ExtractEvent = ExtractListed | ExtractStart | ExtractProgress | ExtractNotice
OnEvent = Callable[[ExtractEvent], None]


class ExtractStopped(StinPipeError):
    """The runner was asked to stop; finished shards are kept, and the same call resumes."""

    def __init__(self, num_left: int) -> None:
        super().__init__(f"asked to stop: the shards in hand are finished, {num_left} are left")


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What a run holds after an extract.

    Attributes:
        videos, done, failed: videos that were tried; those in shards; those that could not be extracted.
        skipped: video files that no list names.
        absent: listed videos that the folder lacks.
        streams: what the run stores.
        flow_pairs: flow fields in the shards.
        seconds: time that this call took.
        pairs_per_s: flow fields that this call made a second; None if it made none.
        damaged: videos in shards of which only a part could be decoded.
        pictures: videos in shards by what decoding did to their pictures or met (see `count_pictures`).
        failures: number of failed videos by reason.
        num_deleted: failed videos whose files were deleted since; they are no longer counted as failures.
        changed: videos whose file was found to be another one than before, and was extracted anew.
        unlisted: videos in the run that the lists or the folder no longer name; they are not trained on.
        twins: videos of the same pictures under two labels, or on both sides of a split.
        too_many_failed: whether more than the allowed share of videos failed.
        manifest: every video of the run.
    """

    videos: int
    done: int
    failed: int
    skipped: int
    absent: int
    streams: Streams
    frames: int
    flow_pairs: int
    shards: int
    seconds: float
    pairs_per_s: float | None
    flow_backend: str
    damaged: int
    pictures: dict[str, int]
    failures: dict[str, int]
    unlisted: int
    num_deleted: int
    too_many_failed: bool
    changed: int = 0
    twins: tuple[Twins, ...] = ()
    manifest: Manifest = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        hidden = ("num_deleted", "too_many_failed", "manifest")
        counts = {name: value for name, value in vars(self).items() if name not in hidden}
        return counts | {"twins": [asdict(twins) for twins in self.twins]}


def make_shards(
    extract_dir: Path,
    ledger: Ledger | None,
    listing: Listing,
    params: ExtractParams,
    *,
    run_tasks: RunTasks,
    retry_failed: bool = False,
    timeout_s: float = 3600.0,
    max_failure_rate: float = 0.05,
    on_event: OnEvent = lambda _event: None,
) -> ExtractResult:
    """Make every shard of a run that is not done yet.

    Args:
        extract_dir: the run's `extract` folder; the caller holds its lock.
        ledger: state of the run, read under that lock; None when nothing is planned yet.
        listing: what the folder and the lists hold now.
        params: what decides the bytes of a shard.
        run_tasks: makes the shards, here or on a cluster.
        retry_failed: try failed videos again.
        timeout_s: time limit a video.
        max_failure_rate: share of failed videos above which the result has `too_many_failed`.
        on_event: called at the start of the work and as it goes on.

    Raises:
        StinPipeError: the run was planned with other parameters, classes or splits.
        ExtractStopped: the runner ended before it had made all shards.
    """
    started = time.monotonic()
    if ledger is not None:
        params = params.going_on_from(ledger.plans[0])
    work = prepare_work(
        extract_dir,
        ledger,
        listing,
        params,
        retry_failed=retry_failed,
        timeout_s=timeout_s,
        digest=source_digest(listing.root, params),
    )
    on_event(ExtractStart(work=work))
    write_absent(extract_dir, sorted(set(listing.absent) - set(work.decision.kept)))

    num_pairs = 0
    try:
        for report in _reports(extract_dir, work, run_tasks, on_event):
            num_pairs += report.num_fields
    finally:
        # After an interruption, too, the manifest must agree with the marks.
        remove_leftovers(extract_dir)
        ledger = work.ledger.look_again()
        manifest = write_views(ledger)

    seconds = time.monotonic() - started
    result = _result(ledger, manifest, listing, max_failure_rate, seconds=seconds, num_pairs=num_pairs)
    return replace(result, changed=len(work.decision.changed), twins=tuple(find_twins(ledger)))


def source_digest(root: Path, params: ExtractParams) -> Digest:
    """Return how the shards of these parameters tell one source under `root` from another."""
    if params.flow_backend == IMPORTED:
        return lambda path, streams: folder_sha256(path, root=root, params=params.only(streams))
    return file_digest


def _result(
    ledger: Ledger,
    manifest: Manifest,
    listing: Listing,
    max_failure_rate: float,
    *,
    seconds: float,
    num_pairs: int,
) -> ExtractResult:
    with_frames, with_flow = (
        [video.num_frames for video in manifest.videos.values() if video.has(stream)] for stream in STREAMS
    )
    num_done, num_failed = len(ledger.done), len(ledger.failed)

    # A failed video that was deleted is dealt with: it must not keep the exit code at 3 for ever.
    num_deleted = count_deleted(ledger, listing)
    num_counted = num_failed - num_deleted

    return ExtractResult(
        videos=num_done + num_failed,
        done=num_done,
        failed=num_failed,
        skipped=manifest.num_skipped,
        absent=manifest.num_absent,
        streams=manifest.streams,
        frames=sum(with_frames),
        flow_pairs=sum(with_flow) - len(with_flow),  # a video of T frames has T-1 fields
        shards=ledger.num_shards,
        seconds=round(seconds, 3),
        pairs_per_s=round(num_pairs / seconds, 2) if num_pairs else None,
        flow_backend=manifest.flow_backend,
        damaged=sum(bool(entry.outcome and entry.outcome.notes.get("damaged")) for entry in ledger.done),
        pictures=count_pictures(ledger),
        failures=dict(Counter(video.reason for video in manifest.failed)),
        unlisted=manifest.num_unlisted,
        num_deleted=num_deleted,
        too_many_failed=num_counted / max(1, num_done + num_counted) > max_failure_rate,
        manifest=manifest,
    )


def count_pictures(ledger: Ledger) -> dict[str, int]:
    """Count the stored videos by what was done to their pictures, and by what a person should know of them.

    `interlaced` still have frames with combs; `unfilled` have fewer frames than `fps` asks for; `uneven` have
    fields whose time spans differ; the others are those of `PictureChange`.
    """
    counts: Counter[str] = Counter()
    for entry in ledger.done:
        notes = entry.outcome.notes if entry.outcome else {}
        counts.update(notes.get("changes", ()))
        counts.update(name for name in ("interlaced", "unfilled", "uneven") if notes.get(name))
    return dict(sorted(counts.items()))


def _reports(extract_dir: Path, work: Work, run_tasks: RunTasks, on_event: OnEvent) -> Iterator[ShardReport]:
    """Run the tasks and tell how many videos are done, including those of unfinished shards."""
    if not work.tasks:
        remove_leftovers(extract_dir)
        return
    wait_until_alone(extract_dir)
    remove_leftovers(extract_dir)

    total = len(work.ledger.listed)
    num_videos = total - len(work.ledger.not_yet)
    num_left, num_frames, started = len(work.tasks), 0, time.monotonic()
    for report in run_tasks(work.tasks):
        if report is not None:
            num_left -= 1
            # A shard may also hold videos that are no longer listed.
            num_videos = min(total, num_videos + report.num_done + report.num_failed)
            num_frames += report.num_frames
            yield report

        # Workers write how far they are into small files, which can be read from any node.
        in_hand = running_shards(extract_dir)
        rate = (num_frames + sum(shard.num_frames for shard in in_hand)) / (time.monotonic() - started)
        # A video that is new and then gets its other stream is in two shards.
        num_begun = min(total, num_videos + sum(shard.num_videos for shard in in_hand))
        on_event(ExtractProgress(num_videos=num_begun, total_videos=total, frames_per_s=rate))

    if num_left:
        raise ExtractStopped(num_left)
