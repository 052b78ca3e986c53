"""`extract --dry-run`: what would be done, and the time and disk that it would take."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stin_pipe.workflows.terminal.output import Output, duration, size

if TYPE_CHECKING:
    from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
    from stin_pipe.pipeline.planning.plan import ExtractParams


def dry_run(
    output: Output, extract_dir: Path, listing: "Listing", params: "ExtractParams", options: dict[str, Any]
) -> None:
    """Show the plan of a new run, or what is left of one, with an estimate; nothing is written."""
    from stin_pipe.pipeline.planning.plan import estimate_bytes, make_plan
    from stin_pipe.workflows.run.run_dir import require_no_other_things

    if extract_dir.parent.is_dir():
        require_no_other_things(extract_dir.parent)
    left, num_done = _left(extract_dir, listing, params, retry_failed=options["retry_failed"])
    plan = make_plan(listing, params)
    estimate = _estimate(extract_dir, listing, params, left) if left else None
    num_bytes = estimate.num_bytes if estimate else estimate_bytes(listing, params) if left else 0
    workers = options["workers"] or (None if options["address"] else len(os.sched_getaffinity(0)))
    workers = min(workers, len(plan.shards)) if workers else None
    what = f"{len(left)} videos" if num_done else f"{len(left)} videos into {len(plan.shards)} shards"
    done = f" ({num_done} are done)" if num_done else ""
    output.show(f"would extract {what}{done}, about {size(num_bytes)} of disk")
    seconds = None
    if estimate is not None:
        seconds = estimate.slot_seconds / workers if workers else None
        how = f"about {duration(estimate.slot_seconds)} of one worker"
        if seconds is not None and workers and workers > 1:
            how = f"about {duration(seconds)} with {workers} workers"
        basis = {
            "run": f"the rate of the {estimate.num_measured} videos that this run has done",
            "probe": f"the first frames of {estimate.num_measured} videos, measured just now",
        }[estimate.source]
        output.show(f"{how}, by {basis}; about {estimate.num_frames} frames")
    elif left:
        output.show("no estimate of time: " + _why_none(params, listing))
    output.result(
        {
            "videos": len(listing.videos),
            "shards": len(plan.shards),
            "to_do": len(left),
            "done": num_done,
            "estimated_bytes": num_bytes,
            "estimated_seconds": None if seconds is None else round(seconds, 1),
            "estimated_slot_seconds": round(estimate.slot_seconds, 1) if estimate else None,
            "estimated_frames": estimate.num_frames if estimate else None,
            "estimate_from": estimate.source if estimate else None,
            "workers": workers,
            "absent": listing.num_absent,
            "absent_videos": list(listing.absent),
        }
    )


def _left(
    extract_dir: Path, listing: "Listing", params: "ExtractParams", *, retry_failed: bool
) -> tuple[list["ListedVideo"], int]:
    """Return the videos that an extract would do now, and how many of those listed it would leave alone."""
    from stin_pipe.pipeline.planning.todo import decide

    decision = decide(extract_dir, listing, params, retry_failed=retry_failed)
    if decision is None:
        return list(listing.videos), 0
    pending = [entry.video for entry in decision.ledger.not_yet]
    left = [*pending, *decision.added, *decision.retried]
    num_pending = sum(video.id not in decision.removed for video in pending)
    return left, len(listing.videos) - num_pending - len(decision.added) - len(decision.retried)


def _estimate(extract_dir: Path, listing: "Listing", params: "ExtractParams", left: list["ListedVideo"]):
    from stin_pipe.pipeline.estimate import estimate_by_probe, estimate_from_run
    from stin_pipe.pipeline.planning.ledger import plan_paths, read_ledger

    found = None
    if plan_paths(extract_dir):
        found = estimate_from_run(extract_dir, read_ledger(extract_dir), listing.root, left)
    return found or (estimate_by_probe(listing.root, left, params) if _runs_here(params) else None)


def _runs_here(params: "ExtractParams") -> bool:
    from stin_pipe.pipeline.flow import resolve_backend

    return params.flow_backend not in ("cuda", "mixed") or resolve_backend("auto") == "cuda"


def _why_none(params: "ExtractParams", listing: "Listing") -> str:
    if not _runs_here(params):
        return f"this machine has no GPU to measure flow by {params.flow_backend}"
    return f"none of the videos tried under {listing.root} decodes"
