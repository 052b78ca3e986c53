"""Decide what an extract has to do: plan a new run, or continue one where it stopped.

The same command again resumes. Videos that were added to the folder since then join in new shards of a later
plan, and so do those whose file changed and failed ones that are tried again; no finished shard is touched.
What the lists say now of labels, sides and membership is recorded beside the plans, and counts.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.hash_split import hash_side, hashed_name
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.listing.source_files import look_at
from stin_pipe.pipeline.planning.ledger import Ledger, next_plan_path
from stin_pipe.pipeline.planning.listed import ListedLine, ListingRecord
from stin_pipe.pipeline.planning.match import Digest, Matches, file_digest, match, source_of
from stin_pipe.pipeline.planning.plan import (
    ExtractParams,
    PlanKind,
    PlannedShard,
    make_plan,
    require_same_params,
)
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Streams, Subset, VideoMeta, join_streams, missing_stream


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How an extract would change a run.

    Attributes:
        record: the listing, with the planned video of each listed one; it replaces that of the run.
        added: listed videos that are new to the run, by their planned ids, with their sides.
        changed: listed videos whose file is another than the one that was extracted, likewise.
        retried: failed videos whose file is another one now; all failed ones if these are to be tried again.
        extended: stored videos that get the stream that they lack, with those whose stream failed and is to
            be tried again; by their planned ids.
        relabelled: ids of videos in shards that have another class than at the last listing.
        resplit: ids of videos in shards that have other sides than at the last listing.
        removed: ids of videos that the last listing named, and this one does not.
        relisted: ids of videos in shards that the last listing did not name, and this one does.
        kept: ids of listed videos that the folder lacks, but the shards hold.
        unreadable: ids of videos in shards whose file cannot be read now; their frames are taken to be right.
        new_classes, lost_classes: by which the classes differ from those of the last listing.
        num_compared: files that were read because their size or time is another than at the last listing.
    """

    record: ListingRecord | None = None
    added: tuple[ListedVideo, ...] = ()
    changed: tuple[ListedVideo, ...] = ()
    retried: tuple[ListedVideo, ...] = ()
    extended: tuple[ListedVideo, ...] = ()
    relabelled: tuple[str, ...] = ()
    resplit: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    relisted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    lost_classes: tuple[str, ...] = ()
    num_compared: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Everything that a worker needs to make one shard.

    Attributes:
        stored: what is stored of the videos already, by id, where the shard adds a stream to them.
        num_threads: videos in progress at a time; more than one where a device computes the flow, so that
            decoders and encoders keep it busy. The content of the shard does not depend on it.
    """

    extract_dir: Path
    root: Path
    shard: PlannedShard
    params: ExtractParams
    fingerprint: str
    timeout_s: float
    stored: Mapping[str, VideoMeta] = field(default_factory=dict[str, VideoMeta])
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an extract is about to do.

    Attributes:
        ledger: state of the run before the work.
        tasks: one for each shard that is not done.
        decision: how an existing run changes; empty for a new one.
    """

    ledger: Ledger
    tasks: tuple[ShardTask, ...]
    decision: Decision


def decide(
    ledger: Ledger,
    listing: Listing,
    params: ExtractParams,
    *,
    retry_failed: bool,
    digest: Digest = file_digest,
) -> Decision:
    """Decide what an extract would do with a run; nothing is written.

    Args:
        ledger: state of the run.
        listing: what the folder and the lists hold now; it decides labels, sides and membership.
        params: what decides the bytes of a shard.
        retry_failed: whether all failed videos are to be tried again.
        digest: of a source, as the shards of this run record it.

    Raises:
        StinPipeError: the run was planned with other parameters, or for other videos.
    """
    params = params.going_on_from(ledger.plans[0])
    first_path = ledger.extract_dir / "plan.json"
    require_same_params(ledger.plans, params, path=first_path)

    matches = match(ledger, listing, digest)
    _require_one_source(ledger, matches, listing, first_path)
    lines = _with_stable_sides(matches.lines, ledger, listing)
    splits = {line.planned_id: line.video.splits for line in lines}
    record = _record(ledger, listing, lines, num_kept=len(matches.kept))

    before, now = ledger.listed, {line.video.id: line for line in record.lines if line.is_listed}
    earlier = {entry.planned_id: entry.video for entry in before.values()}
    same = [(earlier[line.planned_id], line.video) for line in lines if line.planned_id in earlier]
    retried = {video.id: video for video in matches.mended}
    for line in lines:
        entry = ledger.entries.get(line.planned_id)
        if retry_failed and entry and entry.state == "failed":
            retried[line.planned_id] = replace(line.video, id=line.planned_id)
    old_classes = (ledger.listing or ledger.plans[0]).classes
    gone = {line.video.id for line in record.lines if not line.is_listed}
    return Decision(
        record=record,
        added=tuple(replace(video, splits=splits[video.id]) for video in matches.added),
        changed=tuple(replace(video, splits=splits[video.id]) for video in matches.changed),
        retried=tuple(retried.values()),
        extended=tuple(
            replace(line.video, id=line.planned_id)
            for line in lines
            if _lacks(ledger, line.planned_id, params.streams, retry_failed=retry_failed)
        ),
        relabelled=tuple(new.id for old, new in same if old.class_name != new.class_name),
        resplit=tuple(new.id for old, new in same if dict(old.splits) != dict(new.splits)),
        removed=tuple(sorted(name for name in before if name not in now and name in gone)),
        relisted=tuple(sorted(set(ledger.unlisted) & set(now))),
        kept=matches.kept,
        unreadable=matches.unreadable,
        new_classes=tuple(name for name in listing.classes if name not in old_classes),
        lost_classes=tuple(name for name in old_classes if name not in listing.classes),
        num_compared=matches.num_compared,
    )


def prepare_work(
    extract_dir: Path,
    ledger: Ledger | None,
    listing: Listing,
    params: ExtractParams,
    *,
    retry_failed: bool,
    timeout_s: float,
    digest: Digest = file_digest,
) -> Work:
    """Plan what is not planned yet, record the listing, and list the shards to make.

    Args:
        extract_dir: the run's `extract` folder; the caller holds its lock.
        ledger: state of the run, read under that lock; None when nothing is planned yet.
        listing: what the folder and the lists hold now.
        params: what decides the bytes of a shard.
        retry_failed: plan the failed videos again.
        timeout_s: time limit a video.
        digest: of a source, as the shards of this run record it.

    Raises:
        StinPipeError: the run was planned with other parameters, or for other videos.
    """
    if ledger is None:
        plan = make_plan(listing, params)
        plan.save(next_plan_path(extract_dir))
        ledger = Ledger(extract_dir=extract_dir, plans=()).with_plan(plan)
        decision = Decision(record=_first_record(listing))
    else:
        decision = decide(ledger, listing, params, retry_failed=retry_failed, digest=digest)
        ledger = _plan_more(ledger, listing, params, "added", decision.added)
        ledger = _plan_more(ledger, listing, params, "changed", decision.changed)
        ledger = _plan_more(ledger, listing, params, "retry", decision.retried)
        missing = missing_stream(ledger.plans[0].params.streams)
        ledger = _plan_more(ledger, listing, params.only(missing), "stream", decision.extended)

    # After the plans: a listing may only lead to videos that are planned.
    assert decision.record is not None
    decision.record.save(extract_dir)
    ledger = replace(ledger, listing=decision.record)
    paths = {line.planned_id: line.video.path for line in decision.record.lines}

    pending = {shard.name for shard in ledger.pending}
    # The root is resolved here, since workers start in folders of their own.
    tasks = tuple(
        ShardTask(
            extract_dir=extract_dir,
            root=listing.root.resolve(),
            shard=_at_paths(shard, paths),
            params=params.only(plan.params.streams),
            fingerprint=plan.fingerprint,
            timeout_s=timeout_s,
            stored=_stored(ledger, shard) if plan.kind == "stream" else {},
        )
        for plan in ledger.plans
        for shard in plan.shards
        if shard.name in pending
    )
    return Work(ledger=ledger, tasks=tasks, decision=decision)


def count_deleted(ledger: Ledger, listing: Listing) -> int:
    """Count the failed videos of a CSV whose files were deleted since; those of other lists stay failed."""
    if listing.dataset != "csv":
        return 0
    return sum(not os.path.lexists(listing.root / entry.video.path) for entry in ledger.failed)


def _lacks(ledger: Ledger, planned_id: str, streams: Streams, *, retry_failed: bool) -> bool:
    """Tell whether a video is stored, or about to be, without one of these streams."""
    entry = ledger.entries.get(planned_id)
    if entry is None or entry.state == "failed":
        return False
    if join_streams([entry.streams, streams]) == entry.streams:
        return False
    companion = ledger.companions.get(planned_id)
    return companion is None or (companion.state == "failed" and retry_failed)


def _stored(ledger: Ledger, shard: PlannedShard) -> dict[str, VideoMeta]:
    """Return what the run holds of a shard's videos."""
    outcomes = ((video.id, ledger.entries[video.id].outcome) for video in shard.videos)
    return {video_id: outcome.meta for video_id, outcome in outcomes if outcome and outcome.meta}


def _plan_more(
    ledger: Ledger, listing: Listing, params: ExtractParams, kind: PlanKind, videos: Sequence[ListedVideo]
) -> Ledger:
    if not videos:
        return ledger
    plan = make_plan(listing, params, kind=kind, first_shard=ledger.num_shards, videos=videos)
    plan.save(next_plan_path(ledger.extract_dir))
    return ledger.with_plan(plan)


def _at_paths(shard: PlannedShard, paths: Mapping[str, str]) -> PlannedShard:
    """Let the videos of a shard be read where they lie now."""
    videos = tuple(replace(video, path=paths.get(video.id, video.path)) for video in shard.videos)
    return replace(shard, videos=videos)


def _require_one_source(ledger: Ledger, matches: Matches, listing: Listing, path: Path) -> None:
    """Refuse another data set that happens to have classes of the same names."""
    planned = [entry.video for entry in ledger.entries.values()]
    is_known = any(line.planned_id in ledger.entries for line in matches.lines)
    # One is enough: people delete videos once they are extracted.
    if is_known or any(os.path.lexists(listing.root / video.path) for video in planned):
        return
    raise StinPipeError(
        f"{path}: none of the run's {len(planned)} videos is in {listing.root} (first: {planned[0].path}); "
        "give the folder that the run was made from, or another --run for other videos"
    )


def _record(ledger: Ledger, listing: Listing, lines: Sequence[ListedLine], *, num_kept: int) -> ListingRecord:
    """Return the record of a listing: its lines, and those of videos that only earlier listings had."""
    earlier = _earlier_lines(ledger)
    taken, sources = {line.planned_id for line in lines}, {source_of(line.video) for line in lines}
    gone = [
        replace(line, is_listed=False)
        for line in earlier
        if line.planned_id not in taken and source_of(line.video) not in sources
    ]
    return _record_of(listing, (*lines, *gone), num_kept=num_kept)


def _first_record(listing: Listing) -> ListingRecord:
    lines = [
        ListedLine(video=video, planned_id=video.id, state=look_at(listing.root / video.path))
        for video in listing.videos
    ]
    return _record_of(listing, tuple(lines), num_kept=0)


def _earlier_lines(ledger: Ledger) -> Sequence[ListedLine]:
    """Return what a run has listed so far; where its version kept no record, all that it has planned."""
    if ledger.listing:
        return ledger.listing.lines
    return [ListedLine(video=entry.video, planned_id=name) for name, entry in ledger.entries.items()]


def _record_of(listing: Listing, lines: tuple[ListedLine, ...], *, num_kept: int) -> ListingRecord:
    return ListingRecord(
        dataset=listing.dataset,
        root=str(listing.root.absolute()),
        classes=listing.classes,
        split_names=listing.split_names,
        split_from=listing.split_from,
        split_source=listing.split_source,
        num_skipped=listing.num_skipped,
        num_absent=listing.num_absent - num_kept,
        lines=lines,
    )


def _with_stable_sides(
    lines: Sequence[ListedLine], ledger: Ledger, listing: Listing
) -> tuple[ListedLine, ...]:
    """Keep the sides of the videos of a hash-split run; one that joins gets that of its own hash.

    Whatever the others of its class: a class that grows would else move videos of the listing.
    """
    origin = ledger.listing.split_from if ledger.listing else ledger.plans[0].split_from
    if not origin == listing.split_from == "hash":
        return tuple(lines)

    earlier = _earlier_lines(ledger)
    by_frames = {line.planned_id: line.video.splits for line in earlier}
    by_source = {source_of(line.video): line.video.splits for line in earlier}
    by_group = {hashed_name(PurePosixPath(line.video.path)): line.video.splits for line in earlier}

    def stable(video: ListedVideo, planned_id: str) -> Mapping[str, Subset]:
        # The listing hashes these names too, and names never change their side.
        name = hashed_name(PurePosixPath(video.path)) if listing.dataset == "folder" else video.id
        before = by_frames.get(planned_id) or by_source.get(source_of(video)) or by_group.get(name) or {}
        # It may have been listed last by lists of other splits.
        return before if set(before) == set(listing.split_names) else {"1": hash_side(name)}

    return tuple(
        replace(line, video=replace(line.video, splits=stable(line.video, line.planned_id))) for line in lines
    )
