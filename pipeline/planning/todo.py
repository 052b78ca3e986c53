"""Decide what an extract has to do: plan a new run, or continue one where it stopped.

The same command again resumes. Videos that were added to the folder since then join in new shards of a later
plan, and so do failed ones that are tried again; nothing that is done is touched.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stin_pipe.pipeline.listing.hash_split import hash_side
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.planning.ledger import Ledger, LedgerEntry, next_plan_path
from stin_pipe.pipeline.planning.plan import (
    ExtractParams,
    Plan,
    PlanKind,
    PlannedShard,
    make_plan,
    require_same_params,
)
from stin_pipe.stin.shards.errors import StinPipeError, and_more
from stin_pipe.stin.shards.schema import (
    Streams,
    VideoMeta,
    join_streams,
    missing_stream,
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How an extract would change the plan of a run.

    Attributes:
        added: listed videos that are new to the run, with their sides.
        retried: failed videos that are still listed, if failed videos are to be tried again.
        extended: stored videos that get the stream that they lack, with those whose stream failed and is to
            be tried again.
        removed: ids of planned videos that the folder or the lists no longer have.
    """

    added: tuple[ListedVideo, ...] = ()
    retried: tuple[ListedVideo, ...] = ()
    extended: tuple[ListedVideo, ...] = ()
    removed: tuple[str, ...] = ()


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


def decide(ledger: Ledger, listing: Listing, params: ExtractParams, *, retry_failed: bool) -> Decision:
    """Decide what an extract would do with a run; nothing is written.

    Raises:
        StinPipeError: the run was planned with other parameters, classes or splits.
    """
    first_path = ledger.extract_dir / "plan.json"
    _require_same_data(ledger.plans[0], listing, first_path)
    require_same_params(ledger.plans, params, path=first_path)

    listing = _as_planned(ledger, listing)
    listed = {video.id: video for video in listing.videos}
    _require_one_source(ledger, listed, listing, first_path)
    _require_same_splits(ledger, listed, listing)

    def again(entries: Iterable[LedgerEntry]) -> tuple[ListedVideo, ...]:
        found = (entry.video for entry in entries if entry.video.id in listed)
        return tuple(replace(listed[video.id], splits=video.splits) for video in found)

    failed = [entry for entry in ledger.entries.values() if entry.state == "failed"]
    return Decision(
        added=tuple(
            _with_stable_side(video, listing) for video in listing.videos if video.id not in ledger.entries
        ),
        retried=again(failed) if retry_failed else (),
        extended=again(_lacking(ledger, params.streams, retry_failed=retry_failed)),
        removed=tuple(sorted(set(ledger.entries) - set(listed))),
    )


def prepare_work(
    extract_dir: Path,
    ledger: Ledger | None,
    listing: Listing,
    params: ExtractParams,
    *,
    retry_failed: bool,
    timeout_s: float,
) -> Work:
    """Plan what is not planned yet, and list the shards to make.

    Args:
        extract_dir: the run's `extract` folder; the caller holds its lock.
        ledger: state of the run, read under that lock; None when nothing is planned yet.
        listing: what the folder and the lists hold now.
        params: what decides the bytes of a shard.
        retry_failed: plan the failed videos again.
        timeout_s: time limit a video.

    Raises:
        StinPipeError: the run was planned with other parameters, classes or splits.
    """
    decision = Decision()
    if ledger is None:
        plan = make_plan(listing, params)
        plan.save(next_plan_path(extract_dir))
        ledger = Ledger(extract_dir=extract_dir, plans=()).with_plan(plan)
    else:
        decision = decide(ledger, listing, params, retry_failed=retry_failed)
        ledger = _plan_more(ledger, listing, params, "added", decision.added)
        ledger = _plan_more(ledger, listing, params, "retry", decision.retried)
        missing = missing_stream(ledger.plans[0].params.streams)
        ledger = _plan_more(ledger, listing, params.only(missing), "stream", decision.extended)

    # The root is resolved here, since workers start in folders of their own.
    tasks = tuple(
        ShardTask(
            extract_dir=extract_dir,
            root=listing.root.resolve(),
            shard=shard,
            params=params.only(plan.params.streams),
            fingerprint=plan.fingerprint,
            timeout_s=timeout_s,
            stored=_stored(ledger, shard) if plan.kind == "stream" else {},
        )
        for plan in ledger.plans
        for shard in plan.shards
        if shard.name not in ledger.marks
    )
    return Work(ledger=ledger, tasks=tasks, decision=decision)


def count_deleted(ledger: Ledger, listing: Listing) -> int:
    """Count the failed videos whose files were deleted since; a video on a list stays failed, file or not."""
    if listing.dataset not in ("folder", "csv"):
        return 0
    return sum(not os.path.lexists(listing.root / entry.video.path) for entry in ledger.failed)


def _lacking(ledger: Ledger, streams: Streams, *, retry_failed: bool) -> Iterator[LedgerEntry]:
    """Yield the videos that are stored, or about to be, without one of these streams."""
    for video_id, entry in ledger.entries.items():
        if entry.state == "failed" or join_streams([entry.streams, streams]) == entry.streams:
            continue
        companion = ledger.companions.get(video_id)
        if companion is None or (companion.state == "failed" and retry_failed):
            yield entry


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


def _require_same_data(plan: Plan, listing: Listing, path: Path) -> None:
    if plan.dataset != listing.dataset:
        raise StinPipeError(
            f"{path}: the run was planned for {plan.dataset} lists, now the source is {listing.dataset}; "
            "give the same --splits or --list, or another --run"
        )
    if plan.classes != listing.classes:
        new = sorted(set(listing.classes) - set(plan.classes))
        missing = sorted(set(plan.classes) - set(listing.classes))
        changes = [
            f"{what}: {and_more(names, 5)}" for what, names in (("new", new), ("missing", missing)) if names
        ]
        raise StinPipeError(
            f"{path}: the run was planned with {len(plan.classes)} classes, now there are "
            f"{len(listing.classes)} ({'; '.join(changes)}); labels would change: use another --run"
        )


def _require_one_source(
    ledger: Ledger, listed: Mapping[str, ListedVideo], listing: Listing, path: Path
) -> None:
    """Refuse another data set that happens to have classes of the same names."""
    planned = [entry.video for entry in ledger.entries.values()]
    # One is enough: people delete videos once they are extracted.
    if any(video.id in listed or os.path.lexists(listing.root / video.path) for video in planned):
        return
    raise StinPipeError(
        f"{path}: none of the run's {len(planned)} videos is in {listing.root} (first: {planned[0].path}); "
        "give the folder that the run was made from, or another --run for other videos"
    )


def _as_planned(ledger: Ledger, listing: Listing) -> Listing:
    """Give each listed video the id that it has in the run: earlier versions wrote some ids differently.

    Raises:
        StinPipeError: an id of the run now stands for another file or part.
    """
    by_source = {_source(entry.video): entry.video for entry in ledger.entries.values()}
    videos = []
    for video in listing.videos:
        planned = ledger.entries[video.id].video if video.id in ledger.entries else None
        if planned is None or _source(planned) != _source(video):
            planned = by_source.get(_source(video), planned)
        if planned and _is_other(planned, video, listing):
            raise StinPipeError(
                f"{video.id}: {_show_source(planned)} in the run, {_show_source(video)} now; "
                "restore the list, or use another --run"
            )
        videos.append(replace(video, id=planned.id) if planned else video)
    return replace(listing, videos=tuple(videos))


def _source(video: ListedVideo) -> tuple[str, str, float, float | None]:
    return video.class_name, video.path, video.start_s or 0.0, video.end_s


def _is_other(planned: ListedVideo, video: ListedVideo, listing: Listing) -> bool:
    """Tell another file or part from a file that was moved; only a CSV names paths, all else names videos."""
    moved = listing.dataset != "csv" or not (listing.root / planned.path).exists()
    return _source(planned) != _source(replace(video, path=planned.path) if moved else video)


def _show_source(video: ListedVideo) -> str:
    if video.start_s is None and video.end_s is None:
        return video.path
    end = "its end" if video.end_s is None else f"{video.end_s} s"
    return f"{video.path} from {video.start_s or 0.0} s to {end}"


def _require_same_splits(ledger: Ledger, listed: dict[str, ListedVideo], listing: Listing) -> None:
    """Refuse lists that move a planned video between train and test."""
    if ledger.plans[0].split_from == listing.split_from == "hash":
        # A class that grows may move videos of the listing; those of the plan stay where they are.
        return
    moved = [
        entry.video.id
        for entry in ledger.entries.values()
        if entry.video.id in listed and dict(listed[entry.video.id].splits) != dict(entry.video.splits)
    ]
    if moved:
        raise StinPipeError(
            f"the split lists changed for {len(moved)} videos of this run (first: {moved[0]}); "
            "restore the lists, or use another --run"
        )


def _with_stable_side(video: ListedVideo, listing: Listing) -> ListedVideo:
    """Give a video that joins a hash-split run the side of its own hash, whatever the others of its class."""
    if listing.split_from != "hash":
        return video
    # The listing hashes these names too, and names never change their side.
    name = video.path if listing.dataset == "folder" else video.id
    return replace(video, splits={"1": hash_side(name)})
