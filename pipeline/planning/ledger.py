"""What a run has done, derived from its plans and marks alone: each video once, in exactly one state.

`failures.jsonl` and `manifest.json` are views of the ledger, replaced whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import Plan, PlannedShard
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import json_text, publish_bytes
from stin_pipe.stin.shards.schema import FailedVideo, Manifest, ManifestVideo, Mark, VideoOutcome


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """The current state of one planned video; `outcome` is None while it is not yet done."""

    video: ListedVideo
    shard: str
    outcome: VideoOutcome | None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All planned videos of a run with their states.

    Attributes:
        entries: by video id.
        pending: shards that have no valid mark, in order.
        broken: why a shard that has a mark does not count, by shard name.
    """

    plans: tuple[Plan, ...]
    entries: dict[str, LedgerEntry]
    pending: tuple[PlannedShard, ...]
    broken: dict[str, str]

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


def plan_paths(extract_dir: Path) -> list[Path]:
    """Return the plan files of a run in the order in which they were made."""
    first = extract_dir / "plan.json"
    return ([first] if first.exists() else []) + sorted(extract_dir.glob("plan-[0-9][0-9][0-9][0-9].json"))


def next_plan_path(extract_dir: Path) -> Path:
    """Return the name of the next plan to be made."""
    count = len(plan_paths(extract_dir))
    return extract_dir / ("plan.json" if count == 0 else f"plan-{count:04d}.json")


def read_ledger(extract_dir: Path) -> Ledger:
    """Read plans and marks.

    Raises:
        StinPipeError: there is no plan, or one is damaged.
    """
    paths = plan_paths(extract_dir)
    if not paths:
        raise StinPipeError(f"{extract_dir}: nothing was extracted here yet; run `stin-pipe extract` first")
    plans = tuple(Plan.load(path) for path in paths)
    entries: dict[str, LedgerEntry] = {}
    pending: list[PlannedShard] = []
    broken: dict[str, str] = {}
    for plan in plans:
        for shard in plan.shards:
            mark = _valid_mark(extract_dir, shard, plan.fingerprint, broken)
            if mark is None:
                pending.append(shard)
            outcomes = {outcome.id: outcome for outcome in mark.outcomes} if mark else {}
            for video in shard.videos:
                entry = LedgerEntry(video=video, shard=shard.name, outcome=outcomes.get(video.id))
                entries[video.id] = _current(entries.get(video.id), entry)
    return Ledger(plans=plans, entries=entries, pending=tuple(pending), broken=broken)


def write_absent(extract_dir: Path, absent: Sequence[str]) -> None:
    """Replace `absent.txt`: the listed videos that the folder lacks, one a line; no file without any."""
    path = extract_dir / "absent.txt"
    if absent:
        publish_bytes(path, "".join(f"{name}\n" for name in absent).encode())
    else:
        path.unlink(missing_ok=True)


def write_views(extract_dir: Path, ledger: Ledger) -> Manifest:
    """Replace `manifest.json` and `failures.jsonl` by what the ledger says."""
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
    publish_bytes(extract_dir / "failures.jsonl", "".join(line + "\n" for line in lines).encode())
    manifest.save(extract_dir / "manifest.json")
    return manifest


def manifest_of(ledger: Ledger) -> Manifest:
    """Return the manifest that plans and marks make."""
    first, last = ledger.plans[0], ledger.plans[-1]
    videos: dict[str, ManifestVideo] = {}
    for entry in sorted(ledger.done, key=lambda entry: entry.video.id):
        assert entry.outcome is not None and entry.outcome.meta is not None
        meta = entry.outcome.meta
        videos[entry.video.id] = ManifestVideo(
            id=meta.id,
            label=meta.label,
            num_frames=meta.num_frames,
            height=meta.height,
            width=meta.width,
            fps=meta.fps,
            shard=entry.shard,
            group=entry.outcome.group,
            splits=dict(entry.video.splits),
            digest=meta.digest,
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


def _valid_mark(
    extract_dir: Path, shard: PlannedShard, fingerprint: str, broken: dict[str, str]
) -> Mark | None:
    """Return the mark of a shard when mark, plan and shard file agree; note why not in `broken`."""
    path = extract_dir / "shards" / f"{shard.name}.json"
    if not path.exists():
        return None
    try:
        mark = Mark.load(path)
    except StinPipeError as error:
        broken[shard.name] = error.problem
        return None
    data = path.with_suffix(".h5")
    if mark.fingerprint != fingerprint or [item.id for item in mark.outcomes] != _ids(shard.videos):
        broken[shard.name] = f"{path}: the mark belongs to another plan"
    elif not data.exists():
        broken[shard.name] = f"{data}: the shard is missing"
    elif data.stat().st_size != mark.num_bytes:
        broken[shard.name] = f"{data}: {data.stat().st_size} bytes, but its mark says {mark.num_bytes}"
    return None if shard.name in broken else mark


def _current(old: LedgerEntry | None, new: LedgerEntry) -> LedgerEntry:
    """Choose the state that counts: a later plan's, unless that would lose a finished video."""
    if old is None or old.outcome is None:
        return new
    if new.outcome is None:
        return old if old.outcome.state == "done" else new
    return old if old.outcome.state == "done" and new.outcome.state == "failed" else new


def _ids(videos: Iterable[ListedVideo]) -> list[str]:
    return [video.id for video in videos]
