"""Re-read the shards of a run against their checksums, counts and digests."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stin_pipe.pipeline.planning.ledger import Ledger, manifest_of
from stin_pipe.pipeline.planning.plan import Plan, PlannedShard
from stin_pipe.pipeline.shard.make_shard import shard_digest
from stin_pipe.stin.shards.errors import REBUILD, ShardError, StinPipeError
from stin_pipe.stin.shards.reader import ShardFile, content_digest
from stin_pipe.stin.shards.schema import Manifest, Mark, VideoMeta


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """What re-reading one shard found; `problems` is empty when all is well."""

    shard: str
    num_videos: int
    num_bytes: int
    problems: tuple[str, ...]


def verify_shards(ledger: Ledger) -> Iterator[ShardCheck]:
    """Check every shard that has a mark, in order."""
    for plan in ledger.plans:
        for shard in plan.shards:
            if shard.name in ledger.broken:
                message = f"{ledger.broken[shard.name]}; run extract again to rebuild this shard"
                yield ShardCheck(shard=shard.name, num_videos=0, num_bytes=0, problems=(message,))
            elif shard.name in ledger.marks:
                yield _check(ledger.extract_dir, plan, shard, ledger.marks[shard.name])


def verify_manifest(ledger: Ledger) -> tuple[str, ...]:
    """Return what is wrong with the manifest, which extract makes of plans and marks."""
    path = ledger.extract_dir / "manifest.json"
    advice = "give the same extract command again, it makes the manifest anew"
    if not path.exists():
        return () if ledger.pending else (f"{path} is missing; {advice}",)
    try:
        manifest = Manifest.load(path)
    except StinPipeError as error:
        return (str(error),)
    if not ledger.pending and manifest != manifest_of(ledger):
        return (f"{path}: differs from what plans and marks say; {advice}",)
    return ()


def _check(extract_dir: Path, plan: Plan, planned: PlannedShard, mark: Mark) -> ShardCheck:
    path = extract_dir / "shards" / f"{planned.name}.h5"
    problems: list[str] = []
    done = [outcome for outcome in mark.outcomes if outcome.meta]
    if mark.digest != shard_digest(list(mark.outcomes)):
        problems.append(f"{path.with_suffix('.json')}: the mark differs from its own digest; {REBUILD}")
    try:
        shard = ShardFile(path)
    except StinPipeError as error:
        return ShardCheck(shard=planned.name, num_videos=0, num_bytes=0, problems=(*problems, str(error)))
    try:
        if shard.attributes.get("fingerprint") != plan.fingerprint:
            problems.append(f"{path}: made with other parameters than the plan's; {REBUILD}")
        if shard.group_names() != sorted(outcome.group for outcome in done):
            problems.append(f"{path}: the videos in the file are not those of its mark; {REBUILD}")
        for planned_video, outcome in zip(planned.videos, mark.outcomes, strict=True):
            if not outcome.meta:
                continue
            try:
                found = _video_problems(shard, outcome.group, outcome.meta, label=planned_video.label)
                problems += [f"{path}: video {outcome.id}: {problem}; {REBUILD}" for problem in found]
            except ShardError as error:
                problems.append(str(error))
    except ShardError as error:
        problems.append(str(error))
    finally:
        shard.close()
    return ShardCheck(
        shard=planned.name,
        num_videos=len(done),
        num_bytes=path.stat().st_size,
        problems=tuple(problems),
    )


def _video_problems(shard: ShardFile, group: str, meta: VideoMeta, *, label: int) -> list[str]:
    """Compare one video of a shard with its mark, and that with the plan's label."""
    if content_digest(shard, group) != meta.digest:
        return ["content differs from its digest"]
    stored = shard.video(group).attributes
    differ = [name for name, value in asdict(meta).items() if stored.get(name) != value]
    problems = [f"its mark says another {', '.join(differ)} than the shard"] if differ else []
    if meta.label != label:
        problems.append(f"its label is {meta.label}, but the plan says {label}")
    return problems
