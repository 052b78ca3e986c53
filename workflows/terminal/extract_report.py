"""What `stin-pipe extract` tells the person: the plan before, the counts after."""

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stin_pipe.workflows.terminal.output import Output, duration, size

if TYPE_CHECKING:
    from stin_pipe.pipeline.listing.listing import Listing
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.pipeline.planning.todo import Work
    from stin_pipe.stin.shards.schema import Manifest


MAX_NAMED = 5


def say_listing(output: Output, listing: "Listing", params: "ExtractParams") -> None:
    """Say what was found and how it will be stored."""
    from stin_pipe.pipeline.planning.plan import IMPORTED

    sides = Counter(side for video in listing.videos for side in [video.splits.get(listing.split_names[0])])
    output.say(
        f"{listing.dataset}: {len(listing.videos)} videos of {len(listing.classes)} classes "
        f"(split {listing.split_names[0]}: {sides['train']} train, {sides['test']} test), "
        f"{listing.num_skipped} skipped (in no list, or not asked for), "
        f"{listing.num_absent} absent (listed, not in the folder)"
    )
    if listing.absent:
        more = ", ... (all in extract/absent.txt of the run)" if listing.num_absent > 5 else ""
        output.say(f"absent: {', '.join(listing.absent[:5])}{more}")
    output.say(f"{listing.split_source}")
    shape = "x".join(map(str, params.size)) if params.size else f"short side {params.short_side}"
    how = f"frames {shape}, flow by {params.flow_backend}"
    how = "frames as they are, flow imported" if params.flow_backend == IMPORTED else how
    output.say(f"{how}, bound {params.bound_px:g} px")
    _say_lone_classes(output, listing)


def _say_lone_classes(output: Output, listing: "Listing") -> None:
    """Warn of classes that a split cannot train, or cannot judge."""
    for split in listing.split_names:
        there = {(video.splits.get(split), video.label) for video in listing.videos}
        for side, what in (("train", "cannot be learnt"), ("test", "cannot be judged")):
            lone = [name for label, name in enumerate(listing.classes) if (side, label) not in there]
            if lone:
                more = f" and {len(lone) - MAX_NAMED} more" if len(lone) > MAX_NAMED else ""
                named = ", ".join(lone[:MAX_NAMED])
                output.warn(f"split {split}: no {side} video of {named}{more}, which {what} so")


def say_work(output: Output, work: "Work") -> None:
    """Say what is new, what is resumed and what is made again."""
    ledger = work.ledger
    if work.num_added:
        output.say(f"{work.num_added} videos are new and join the run")
    if work.num_retried:
        output.say(f"{work.num_retried} failed videos are tried again")
    if work.removed:
        output.warn(
            f"{len(work.removed)} videos of this run are no longer in the folder or the lists "
            f"(first: {work.removed[0]}); their shards are kept"
        )
    for reason in ledger.broken.values():
        output.warn(f"{reason}; this shard is made again")
    if not work.tasks:
        output.say("everything is extracted already")
    elif len(work.tasks) < ledger.num_shards:
        output.say(f"resuming: {ledger.num_shards - len(work.tasks)} of {ledger.num_shards} shards are done")


def say_result(
    output: Output, extract_dir: Path, manifest: "Manifest", result: dict[str, Any], seconds: float
) -> None:
    """Say the counts, the first failures and whether the disk is nearly full."""
    rate = f", {result['pairs_per_s']:g} fields/s" if result["pairs_per_s"] else ""
    output.show(
        f"{result['done']} videos extracted ({result['frames']} frames, {result['flow_pairs']} flow fields), "
        f"{result['failed']} failed; {result['shards']} shards ({duration(seconds)}{rate})"
    )
    if result["damaged"]:
        output.show(
            f"{result['damaged']} of them are damaged in part and were kept with what could be decoded "
            "(notes in extract/shards/*.json; --partial refuse fails them)"
        )
    for video in manifest.failed[:10]:
        output.show(f"  failed: {video.reason}: {video.message}")
    if len(manifest.failed) > 10:
        output.show(f"  ... {len(manifest.failed) - 10} more in {extract_dir / 'failures.jsonl'}")
    if manifest.failed:
        output.show("  when they are mended, the same command with --retry-failed reads them again")
    free = shutil.disk_usage(extract_dir).free
    if free < 1 << 30:
        output.warn(f"only {size(free)} of disk left at {extract_dir}")
