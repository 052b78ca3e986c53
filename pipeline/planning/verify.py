"""Re-read the shards of a run against their checksums, counts and digests."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stin_pipe.pipeline.planning.ledger import Ledger, manifest_of, shard_digest
from stin_pipe.pipeline.planning.plan import Plan, PlannedShard
from stin_pipe.stin.shards.errors import REBUILD, ShardError, StinPipeError
from stin_pipe.stin.shards.reader import ShardFile, content_digest
from stin_pipe.stin.shards.schema import Manifest, Mark, VideoMeta


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """What re-reading one shard found; `problems` is empty when all is well."""

    shard: str
    num_videos: int = 0
    num_bytes: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerifyProgress:
    """How many shards, or sources, have been read."""

    unit: Literal["shards", "sources"]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What re-reading a run found.

    Attributes:
        shards, videos, bytes: what was read.
        pending_shards: shards that are not extracted yet.
        problems: a line each, with the next step.
        damaged_shards: names of the shards that have problems.
    """

    shards: int
    videos: int
    bytes: int
    pending_shards: int
    problems: tuple[str, ...]
    damaged_shards: tuple[str, ...]


def verify(ledger: Ledger, on_event: Callable[[VerifyProgress], None] = lambda _event: None) -> VerifyResult:
    """Check every shard that has a mark, then the manifest; `on_event` is called after each shard."""
    checks: list[ShardCheck] = []
    for check in _check_shards(ledger):
        checks.append(check)
        on_event(VerifyProgress(unit="shards", done=len(checks), total=ledger.num_shards))

    problems = [problem for check in checks for problem in check.problems]
    return VerifyResult(
        shards=len(checks),
        videos=sum(check.num_videos for check in checks),
        bytes=sum(check.num_bytes for check in checks),
        pending_shards=sum(shard.name not in ledger.broken for shard in ledger.pending),
        problems=(*problems, *_manifest_problems(ledger)),
        damaged_shards=tuple(check.shard for check in checks if check.problems),
    )


def _check_shards(ledger: Ledger) -> Iterator[ShardCheck]:
    for plan in ledger.plans:
        for shard in plan.shards:
            if shard.name in ledger.broken:
                problem = f"{ledger.broken[shard.name]}; run extract again to rebuild this shard"
                yield ShardCheck(shard=shard.name, problems=(problem,))
            elif shard.name in ledger.marks:
                yield _check_shard(ledger.extract_dir, plan, shard, ledger.marks[shard.name])


def _manifest_problems(ledger: Ledger) -> tuple[str, ...]:
    """Compare the manifest with what plans and marks say now; while shards are pending it may be older."""
    path = ledger.extract_dir / "manifest.json"
    advice = "give the same extract command again; it rebuilds the manifest"
    if not path.exists():
        return () if ledger.pending else (f"{path} is missing; {advice}",)
    try:
        manifest = Manifest.load(path)
    except StinPipeError as error:
        return (str(error),)
    if not ledger.pending and manifest != manifest_of(ledger):
        return (f"{path}: differs from what plans and marks say; {advice}",)
    return ()


def _check_shard(extract_dir: Path, plan: Plan, planned: PlannedShard, mark: Mark) -> ShardCheck:
    path = extract_dir / "shards" / f"{planned.name}.h5"
    problems: list[str] = []
    if mark.digest != shard_digest(list(mark.outcomes)):
        problems.append(f"{path.with_suffix('.json')}: the mark differs from its own digest; {REBUILD}")
    try:
        shard = ShardFile(path)
    except StinPipeError as error:
        return ShardCheck(shard=planned.name, problems=(*problems, str(error)))

    stored = [outcome for outcome in mark.outcomes if outcome.meta]
    try:
        if shard.attributes.get("fingerprint") != plan.fingerprint:
            problems.append(f"{path}: made with other parameters than the plan's; {REBUILD}")
        if shard.group_names() != sorted(outcome.group for outcome in stored):
            problems.append(f"{path}: the videos in the file are not those of its mark; {REBUILD}")
        for video, outcome in zip(planned.videos, mark.outcomes, strict=True):
            if not outcome.meta:
                continue
            try:
                lines = _video_problems(shard, outcome.group, outcome.meta, label=video.label)
                problems += [f"{path}: video {outcome.id}: {line}; {REBUILD}" for line in lines]
            except ShardError as error:  # one damaged video; the others are still worth a look
                problems.append(str(error))
    except ShardError as error:
        problems.append(str(error))
    finally:
        shard.close()

    num_bytes = path.stat().st_size
    return ShardCheck(
        shard=planned.name, num_videos=len(stored), num_bytes=num_bytes, problems=tuple(problems)
    )


def _video_problems(shard: ShardFile, group: str, meta: VideoMeta, *, label: int) -> list[str]:
    """Compare one video of a shard with its mark, and that with the plan's label."""
    if content_digest(shard, group) != meta.digest:
        return ["content differs from its digest"]
    stored = shard.video(group).attributes
    names = [name for name, value in asdict(meta).items() if stored.get(name) != value]
    problems = [f"its mark says another {', '.join(names)} than the shard"] if names else []
    if meta.label != label:
        problems.append(f"its label is {meta.label}, but the plan says {label}")
    return problems
