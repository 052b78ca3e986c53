"""What an extract would do, and the time and disk that it would take; nothing is written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stin_pipe.pipeline.estimate import Estimate, estimate_by_probe, estimate_from_run
from stin_pipe.pipeline.extraction import OnEvent
from stin_pipe.pipeline.flow import resolve_backend
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.planning.ledger import Ledger, find_ledger
from stin_pipe.pipeline.planning.plan import ExtractParams, estimate_bytes, make_plan
from stin_pipe.pipeline.planning.todo import Decision, decide
from stin_pipe.stin.shards.schema import Streams, join_streams, missing_stream
from stin_pipe.workflows.run.extraction import ExtractOptions, resolve_extract
from stin_pipe.workflows.run.run_dir import require_no_other_things
from stin_pipe.workflows.terminal.output import duration, size


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an extract would do.

    Attributes:
        streams: what would be stored of the videos that are left.
        num_shards: shards that a new run would have.
        num_left: videos that would be extracted.
        num_done: listed videos that would be left alone.
        num_bytes: disk that the work would take.
        estimate: time and frames; None if no video is left, or none can be measured.
        why_none: why there is no estimate, if videos are left.
        workers: slots that would work at a time; None if the cluster decides.
    """

    listing: Listing
    streams: Streams
    num_shards: int
    num_left: int
    num_done: int
    num_bytes: int
    estimate: Estimate | None
    why_none: str
    workers: int | None

    @property
    def seconds(self) -> float | None:
        """Time that the work would take."""
        return self.estimate.slot_seconds / self.workers if self.estimate and self.workers else None

    def lines(self) -> list[str]:
        """Return the forecast as lines for people."""
        work = f"{self.num_left} videos" + ("" if self.num_done else f" into {self.num_shards} shards")
        done = f" ({self.num_done} are done)" if self.num_done else ""
        what = {"both": "", "rgb": "the frames of ", "flow": "the flow of "}[self.streams]
        lines = [f"would extract {what}{work}{done}, about {size(self.num_bytes)} of disk"]
        if self.why_none:
            return [*lines, f"no estimate of time: {self.why_none}"]
        if self.estimate is None:  # nothing is left
            return lines

        time = f"about {duration(self.estimate.slot_seconds)} of one worker"
        if self.seconds is not None and self.workers != 1:
            time = f"about {duration(self.seconds)} with {self.workers} workers"
        count = self.estimate.num_measured
        basis = {
            "run": f"the rate of the {count} videos that this run has done",
            "probe": f"the first frames of {count} videos, measured just now",
        }[self.estimate.source]
        return [*lines, f"{time}, by {basis}; about {self.estimate.num_frames} frames"]

    def to_json(self) -> dict[str, Any]:
        """Return what `extract --dry-run --json` prints."""
        estimate = self.estimate
        return {
            "videos": len(self.listing.videos),
            "streams": self.streams,
            "shards": self.num_shards,
            "to_do": self.num_left,
            "done": self.num_done,
            "estimated_bytes": self.num_bytes,
            "estimated_seconds": None if self.seconds is None else round(self.seconds, 1),
            "estimated_slot_seconds": round(estimate.slot_seconds, 1) if estimate else None,
            "estimated_frames": estimate.num_frames if estimate else None,
            "estimate_from": estimate.source if estimate else None,
            "workers": self.workers,
            "absent": self.listing.num_absent,
            "absent_videos": list(self.listing.absent),
        }


def forecast_extract(run_path: Path, videos: Path, options: ExtractOptions, on_event: OnEvent) -> Forecast:
    """Return what `extract_run` would do with the same arguments; it raises the same errors."""
    resolved = resolve_extract(videos, options, on_event)
    listing, params = resolved.listing, resolved.params
    if run_path.is_dir():
        require_no_other_things(run_path)

    ledger = find_ledger(run_path / "extract")
    left, num_done = list(listing.videos), 0
    if ledger is not None:
        decision = decide(ledger, listing, params, retry_failed=options.retry_failed)
        left, num_done = _left(ledger, listing, decision)
        params = params.only(_streams_of(ledger, decision, params.streams))
    estimate = _estimate(ledger, listing, params, left) if left else None
    # If nothing can be measured, the sizes of the source files have to do.
    num_bytes = estimate.num_bytes if estimate else estimate_bytes(listing, params) if left else 0

    num_shards = len(make_plan(listing, params).shards)
    num_slots = resolved.num_slots()
    return Forecast(
        listing=listing,
        streams=params.streams,
        num_shards=num_shards,
        num_left=len(left),
        num_done=num_done,
        num_bytes=num_bytes,
        estimate=estimate,
        why_none=_why_none(params, listing) if left and estimate is None else "",
        workers=min(num_slots, num_shards) if num_slots else None,
    )


def _left(ledger: Ledger, listing: Listing, decision: Decision) -> tuple[list[ListedVideo], int]:
    """Return the videos that would be extracted, and how many of the listed ones would be left alone."""
    ledger = replace(ledger, listing=decision.record)
    new = (*decision.added, *decision.changed, *decision.retried, *decision.extended)
    left = [*(entry.video for entry in ledger.not_yet), *new]
    return left, len(listing.videos) + len(decision.kept) - len(left)


def _streams_of(ledger: Ledger, decision: Decision, streams: Streams) -> Streams:
    """Return what would be stored of the videos that are left: where a stream is added, it alone."""
    making: list[Streams] = [entry.streams for entry in ledger.not_yet]
    if decision.extended:
        making.append(missing_stream(ledger.plans[0].params.streams))
    if decision.added or decision.changed or decision.retried:
        making.append(streams)
    return join_streams(making) if making else streams


def _estimate(
    ledger: Ledger | None, listing: Listing, params: ExtractParams, left: list[ListedVideo]
) -> Estimate | None:
    """Estimate by what the run has measured, else by a probe if this machine can compute the flow."""
    measured = estimate_from_run(ledger, listing.root, left, params.streams) if ledger else None
    return measured or (estimate_by_probe(listing.root, left, params) if _runs_here(params) else None)


def _runs_here(params: ExtractParams) -> bool:
    return params.flow_backend not in ("cuda", "mixed") or resolve_backend("auto") == "cuda"


def _why_none(params: ExtractParams, listing: Listing) -> str:
    if not _runs_here(params):
        return f"this machine has no GPU to measure flow by {params.flow_backend}"
    return f"none of the videos tried under {listing.root} decodes"
