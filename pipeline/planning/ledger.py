"""The state of a run, derived from its plans and marks alone: each video once, in exactly one state.

`failures.jsonl` and `manifest.json` are views of it, replaced whole.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import Plan, PlannedShard
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import json_text, publish_bytes
from stin_pipe.stin.shards.schema import FailedVideo, Manifest, ManifestVideo, Mark, VideoOutcome


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """The current state of one planned video; `outcome` is None until its shard is done."""

    video: ListedVideo
    shard: str
    outcome: VideoOutcome | None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The plans and marks of a run, each read from its file once; the state of every video follows.

    Attributes:
        plans: in the order in which they were made.
        marks: of the shards that are done, by shard name.
        broken: why a shard that has a mark does not count as done, by shard name; without the next step.
    """

    extract_dir: Path
    plans: tuple[Plan, ...]
    marks: Mapping[str, Mark] = field(default_factory=dict[str, Mark])
    broken: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def entries(self) -> dict[str, LedgerEntry]:
        """All planned videos by id, each with its current state."""
        entries: dict[str, LedgerEntry] = {}
        # In the order of the plans, so that a video that was tried again ends in its newest state.
        for shard, _ in _shards(self.plans):
            mark = self.marks.get(shard.name)
            outcomes = {outcome.id: outcome for outcome in mark.outcomes} if mark else {}
            for video in shard.videos:
                entry = LedgerEntry(video=video, shard=shard.name, outcome=outcomes.get(video.id))
                entries[video.id] = _current(entries.get(video.id), entry)
        return entries

    @property
    def pending(self) -> tuple[PlannedShard, ...]:
        """Shards that are not done, in order."""
        return tuple(shard for shard, _ in _shards(self.plans) if shard.name not in self.marks)

    @property
    def done(self) -> list[LedgerEntry]:
        """Videos that are in a shard."""
        return [entry for entry in self.entries.values() if entry.outcome and entry.outcome.state == "done"]

    @property
    def failed(self) -> list[LedgerEntry]:
        """Videos that were tried and could not be extracted."""
        return [entry for entry in self.entries.values() if entry.outcome and entry.outcome.state == "failed"]

    @property
    def not_yet(self) -> list[LedgerEntry]:
        """Videos whose shard is pending."""
        return [entry for entry in self.entries.values() if entry.outcome is None]

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
    return Ledger(extract_dir=extract_dir, plans=plans).look_again() if plans else None


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
        publish_bytes(path, "".join(f"{name}\n" for name in absent).encode())
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
    videos: dict[str, ManifestVideo] = {}
    for entry in sorted(ledger.done, key=lambda entry: entry.video.id):
        assert entry.outcome is not None and entry.outcome.meta is not None
        videos[entry.video.id] = ManifestVideo.of(
            entry.outcome.meta,
            shard=entry.shard,
            group=entry.outcome.group,
            splits=dict(entry.video.splits),
            group_key=entry.video.group_key,
        )

    failed = tuple(
        FailedVideo(
            id=entry.video.id,
            label=entry.video.label,
            splits=dict(entry.video.splits),
            reason=entry.outcome.reason,
            message=entry.outcome.message,
        )
        for entry in sorted(ledger.failed, key=lambda entry: entry.video.id)
        if entry.outcome
    )

    # All plans of a run share their parameters and classes; only the last has looked at the folder of today.
    return Manifest(
        dataset=first.dataset,
        classes=first.classes,
        split_names=first.split_names,
        split_from=first.split_from,
        split_source=first.split_source,
        videos=videos,
        failed=failed,
        num_skipped=last.num_skipped,
        num_absent=last.num_absent,
        num_pending=len(ledger.not_yet),
        bound_px=first.params.bound_px,
        flow_backend=first.params.flow_backend,
        fingerprint=first.fingerprint,
    )


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


def _ids(videos: Iterable[ListedVideo]) -> list[str]:
    return [video.id for video in videos]


def shard_digest(outcomes: list[VideoOutcome]) -> str:
    """Return the content digest of a shard: its videos in order, or why one is not in it."""
    digest = hashlib.sha256()
    for outcome in outcomes:
        content = outcome.meta.digest if outcome.meta else f"failed:{outcome.reason}"
        digest.update(f"{outcome.id}\0{content}\n".encode())
    return digest.hexdigest()
