"""The state of a run, derived from plans, marks and its last listing: each video once, in exactly one state.

`failures.jsonl` and `manifest.json` are views of it, replaced whole.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.listed import ListingRecord
from stin_pipe.pipeline.planning.plan import IMPORTED, Plan, PlannedShard, joined_params
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import plain
from stin_pipe.stin.shards.publish import json_text, publish_bytes
from stin_pipe.stin.shards.schema import (
    FORMAT_VERSION,
    ONE_STREAM_VERSION,
    Companion,
    FailedVideo,
    Manifest,
    ManifestVideo,
    Mark,
    Stream,
    Streams,
    VideoMeta,
    VideoOutcome,
    streams_in,
)

OTHER_SOURCE = "other_source"
"""Why a stream was not added: its frames are not those of the stream that is stored."""


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """The current state of one planned video, or of the stream that was added to it later.

    Attributes:
        video: as it was planned; in `Ledger.listed` as the last listing has it.
        planned_id: its id in plans and shards.
        shard: name of the shard that holds it, or will.
        streams: what that shard holds.
        outcome: None until the shard is done.
    """

    video: ListedVideo
    planned_id: str
    shard: str
    streams: Streams
    outcome: VideoOutcome | None

    @property
    def state(self) -> Literal["done", "failed", "pending"]:
        """What became of the video."""
        return self.outcome.state if self.outcome else "pending"

    @property
    def source_sha256(self) -> str | None:
        """Digest of the file whose frames are stored; None if none are."""
        return self.outcome.meta.source_sha256 if self.outcome and self.outcome.meta else None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The plans and marks of a run, each read from its file once; the state of every video follows.

    Attributes:
        plans: in the order in which they were made.
        listing: what the last listing said; None where a version that recorded none made the run.
        marks: of the shards that are done, by shard name.
        broken: why a shard that has a mark does not count as done, by shard name; without the next step.
    """

    extract_dir: Path
    plans: tuple[Plan, ...]
    listing: ListingRecord | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict[str, Mark])
    broken: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def entries(self) -> dict[str, LedgerEntry]:
        """All planned videos by id, each with its current state, but for streams that were added later."""
        return self._states(plan for plan in self.plans if plan.kind != "stream")

    @cached_property
    def companions(self) -> dict[str, LedgerEntry]:
        """The streams that were added to stored videos, by id; only where the video still needs one."""
        companions: dict[str, LedgerEntry] = {}
        for video_id, entry in self._states(plan for plan in self.plans if plan.kind == "stream").items():
            stored = self.entries.get(video_id)
            # A video that was extracted again since may have the stream in its own shard by now.
            if stored and stored.state != "failed" and stored.streams not in ("both", entry.streams):
                companions[video_id] = self._agreeing(stored, entry)
        return companions

    def _agreeing(self, stored: LedgerEntry, added: LedgerEntry) -> LedgerEntry:
        """Turn an added stream into a failure if it was made from other frames than the stored one."""
        if not (stored.outcome and stored.outcome.meta and added.outcome and added.outcome.meta):
            return added
        problem = source_problem(
            added.video,
            stored.outcome.meta,
            added.outcome.meta,
            one_file=self.plans[0].params.flow_backend != IMPORTED,
        )
        if not problem:
            return added
        outcome = replace(
            added.outcome, state="failed", reason=OTHER_SOURCE, message=problem, retry=True, meta=None
        )
        return replace(added, outcome=outcome)

    def _states(self, plans: Iterable[Plan]) -> dict[str, LedgerEntry]:
        entries: dict[str, LedgerEntry] = {}
        # In the order of the plans, so that a video that was tried again ends in its newest state.
        for plan in plans:
            for shard in plan.shards:
                mark = self.marks.get(shard.name)
                outcomes = {outcome.id: outcome for outcome in mark.outcomes} if mark else {}
                for video in shard.videos:
                    entry = LedgerEntry(
                        video=video,
                        planned_id=video.id,
                        shard=shard.name,
                        streams=plan.params.streams,
                        outcome=outcomes.get(video.id),
                    )
                    entries[video.id] = _current(entries.get(video.id), entry)
        return entries

    @cached_property
    def listed(self) -> dict[str, LedgerEntry]:
        """The videos that the last listing names, by their ids, with the labels, sides and files it gives."""
        if self.listing is None:
            return self.entries
        return {
            line.video.id: replace(self.entries[line.planned_id], video=line.video)
            for line in self.listing.lines
            if line.is_listed and line.planned_id in self.entries
        }

    @property
    def unlisted(self) -> list[str]:
        """Ids of the videos that an earlier listing named and the last one does not."""
        return [line.video.id for line in self.listing.lines if not line.is_listed] if self.listing else []

    @property
    def pending(self) -> tuple[PlannedShard, ...]:
        """Shards that are not done and hold a listed video, in order."""
        wanted = {entry.planned_id for entry in self.listed.values()}
        return tuple(
            shard
            for shard, _ in _shards(self.plans)
            if shard.name not in self.marks and any(video.id in wanted for video in shard.videos)
        )

    @property
    def done(self) -> list[LedgerEntry]:
        """Listed videos that are in a shard, with the stream that was to be added."""
        return self._in_state("done")

    @property
    def failed(self) -> list[LedgerEntry]:
        """Listed videos that could not be extracted, or the streams that could not be added to them."""
        return self._in_state("failed")

    @property
    def not_yet(self) -> list[LedgerEntry]:
        """Listed videos whose shard is pending, or the streams that are still to be added to them."""
        return self._in_state("pending")

    def _in_state(self, state: str) -> list[LedgerEntry]:
        """Return, of each listed video in this state, what decides it: its own entry or an added stream's."""
        found = []
        for entry in self.listed.values():
            added = self.companions.get(entry.planned_id)
            if entry.state == "done" and added and added.state != "done":
                entry = replace(added, video=entry.video)
            if entry.state == state:
                found.append(entry)
        return found

    @property
    def num_shards(self) -> int:
        """Shards of all plans."""
        return sum(len(plan.shards) for plan in self.plans)

    def with_plan(self, plan: Plan) -> "Ledger":
        """Return the ledger with one more plan, whose shards may have marks already."""
        return replace(self, plans=(*self.plans, plan))._with_marks_of([plan], self.broken)

    def look_again(self) -> "Ledger":
        """Return the ledger after work: the marks of shards that were pending are read, no others."""
        return self._with_marks_of(self.plans, {})

    def _with_marks_of(self, plans: Sequence[Plan], broken: Mapping[str, str]) -> "Ledger":
        """Read the marks of shards that have none in the ledger; mark, plan and shard file must agree."""
        marks, broken = dict(self.marks), dict(broken)
        for shard, fingerprint in _shards(plans):
            path = self.extract_dir / "shards" / f"{shard.name}.json"
            if shard.name in marks or not path.exists():
                continue
            try:
                mark = Mark.load(path)
            except StinPipeError as error:
                broken[shard.name] = error.problem
                continue
            problem = _disagreement(path, mark, shard, fingerprint)
            if problem:
                broken[shard.name] = problem
            else:
                marks[shard.name] = mark
        return replace(self, marks=marks, broken=broken)


def plan_paths(extract_dir: Path) -> list[Path]:
    """Return the plan files of a run in the order in which they were made."""
    first = extract_dir / "plan.json"
    return ([first] if first.exists() else []) + sorted(extract_dir.glob("plan-[0-9][0-9][0-9][0-9].json"))


def next_plan_path(extract_dir: Path) -> Path:
    """Return the name of the next plan to be made."""
    count = len(plan_paths(extract_dir))
    return extract_dir / ("plan.json" if count == 0 else f"plan-{count:04d}.json")


def find_ledger(extract_dir: Path) -> Ledger | None:
    """Read plans and marks; None where nothing is planned yet.

    Raises:
        StinPipeError: a plan is damaged.
    """
    plans = tuple(Plan.load(path) for path in plan_paths(extract_dir))
    if not plans:
        return None
    listing = ListingRecord.find(extract_dir)
    return Ledger(extract_dir=extract_dir, plans=plans, listing=listing).look_again()


def read_ledger(extract_dir: Path) -> Ledger:
    """Read plans and marks of a run that has been planned.

    Raises:
        StinPipeError: there is no plan, or one is damaged.
    """
    ledger = find_ledger(extract_dir)
    if ledger is None:
        raise StinPipeError(f"{extract_dir}: nothing was extracted here yet; run `stin-pipe extract` first")
    return ledger


def write_absent(extract_dir: Path, absent: Sequence[str]) -> None:
    """Replace `absent.txt`, the listed videos that the folder lacks, one a line; without any, remove it."""
    path = extract_dir / "absent.txt"
    if absent:
        publish_bytes(path, "".join(f"{plain(name)}\n" for name in absent).encode())
    else:
        path.unlink(missing_ok=True)


def write_views(ledger: Ledger) -> Manifest:
    """Replace `manifest.json` and `failures.jsonl` by what the ledger holds."""
    manifest = manifest_of(ledger)
    lines = [
        json_text(
            {
                "id": entry.video.id,
                "path": entry.video.path,
                "reason": entry.outcome.reason,
                "message": entry.outcome.message,
                "retry": entry.outcome.retry,
                "notes": dict(entry.outcome.notes),
                "shard": entry.shard,
            }
        )
        for entry in ledger.failed
        if entry.outcome
    ]
    publish_bytes(ledger.extract_dir / "failures.jsonl", "".join(line + "\n" for line in lines).encode())
    manifest.save(ledger.extract_dir / "manifest.json")
    return manifest


def manifest_of(ledger: Ledger) -> Manifest:
    """Return the manifest that follows from plans and marks."""
    first, last = ledger.plans[0], ledger.plans[-1]
    listing = ledger.listing or first
    videos: dict[str, ManifestVideo] = {}
    for video_id, entry in sorted(ledger.listed.items()):
        if entry.outcome is None or entry.outcome.meta is None:
            continue
        videos[video_id] = ManifestVideo.of(
            entry.outcome.meta,
            id=entry.video.id,
            label=entry.video.label,
            shard=entry.shard,
            group=entry.outcome.group,
            splits=dict(entry.video.splits),
            group_key=entry.video.group_key,
            streams=entry.streams,
            companion=_companion(ledger.companions.get(entry.planned_id)),
        )

    failed = tuple(
        FailedVideo(
            id=entry.video.id,
            label=entry.video.label,
            splits=dict(entry.video.splits),
            reason=entry.outcome.reason,
            message=entry.outcome.message,
            stream=_one_stream(entry) if entry.video.id in videos else None,
        )
        for entry in sorted(ledger.failed, key=lambda entry: entry.video.id)
        if entry.outcome
    )

    params = joined_params(ledger.plans)
    is_plain = all(plan.params.streams == "both" for plan in ledger.plans)

    # All plans of a run share their parameters; without a listing the last has looked at the folder latest.
    return Manifest(
        dataset=listing.dataset,
        classes=listing.classes,
        split_names=listing.split_names,
        split_from=listing.split_from,
        split_source=listing.split_source,
        videos=videos,
        failed=failed,
        num_skipped=(ledger.listing or last).num_skipped,
        num_absent=(ledger.listing or last).num_absent,
        num_pending=len(ledger.not_yet),
        num_unlisted=len(ledger.unlisted),
        bound_px=params.bound_px,
        flow_backend=params.flow_backend,
        fingerprint=first.fingerprint,
        streams=params.streams,
        format_version=FORMAT_VERSION if is_plain else ONE_STREAM_VERSION,
    )


def _companion(entry: LedgerEntry | None) -> Companion | None:
    if entry is None or entry.outcome is None or entry.outcome.meta is None:
        return None
    return Companion(shard=entry.shard, group=entry.outcome.group, digest=entry.outcome.meta.digest)


def _one_stream(entry: LedgerEntry) -> Stream:
    (stream,) = streams_in(entry.streams)
    return stream


def _shards(plans: Iterable[Plan]) -> Iterator[tuple[PlannedShard, str]]:
    """Yield the shards of some plans in order, each with the fingerprint of its plan."""
    for plan in plans:
        for shard in plan.shards:
            yield shard, plan.fingerprint


def _disagreement(path: Path, mark: Mark, shard: PlannedShard, fingerprint: str) -> str:
    """Say how a mark differs from its plan or its shard file; empty if the shard is done."""
    if mark.fingerprint != fingerprint or [item.id for item in mark.outcomes] != _ids(shard.videos):
        return f"{path}: the mark belongs to another plan"
    # Size is enough at every start; `verify` reads the bytes.
    data = path.with_suffix(".h5")
    if not data.exists():
        return f"{data}: the shard is missing"
    num_bytes = data.stat().st_size
    return (
        ""
        if num_bytes == mark.num_bytes
        else f"{data}: {num_bytes} bytes, but its mark says {mark.num_bytes}"
    )


def _current(old: LedgerEntry | None, new: LedgerEntry) -> LedgerEntry:
    """Choose the state that counts: that of a later plan, unless it would lose a finished video."""
    if old is None or old.outcome is None:
        return new
    if new.outcome is None:
        return old if old.outcome.state == "done" else new
    return old if old.outcome.state == "done" and new.outcome.state == "failed" else new


def source_problem(video: ListedVideo, stored: VideoMeta, added: VideoMeta, *, one_file: bool) -> str:
    """Say how an added stream was made from other frames than the stored one; empty if it was not.

    Args:
        video: the video of both.
        stored: the stream that was there before.
        added: the stream that is to join it.
        one_file: whether both come from one file; the images of an import have a digest for each stream.
    """
    for name in ("num_frames", "height", "width", *(["source_sha256"] if one_file else [])):
        old, new = getattr(stored, name), getattr(added, name)
        if old != new:
            return (
                f"{video.path}: {name} is {new} now, but was {old} when the other stream was stored; restore "
                "the source, or extract into another --run"
            )
    return ""


def _ids(videos: Iterable[ListedVideo]) -> list[str]:
    return [video.id for video in videos]


def shard_digest(outcomes: list[VideoOutcome]) -> str:
    """Return the content digest of a shard: its videos in order, or why one is not in it."""
    digest = hashlib.sha256()
    for outcome in outcomes:
        content = outcome.meta.digest if outcome.meta else f"failed:{outcome.reason}"
        digest.update(f"{outcome.id}\0{content}\n".encode())
    return digest.hexdigest()
