"""What a person sees of an extract or import: the plan, then progress, then the counts."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stin_pipe.pipeline.extraction import (
    ExtractEvent,
    ExtractListed,
    ExtractNotice,
    ExtractProgress,
    ExtractResult,
    ExtractStart,
    ExtractStopped,
)
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.planning.plan import IMPORTED, ExtractParams
from stin_pipe.pipeline.planning.todo import Decision, Work
from stin_pipe.stin.shards.errors import and_more, counted
from stin_pipe.stin.shards.schema import missing_stream, streams_in
from stin_pipe.workflows.terminal.exits import EXIT_MANY_FAILURES, Terminated
from stin_pipe.workflows.terminal.output import Meter, Output, duration, size

MAX_NAMED = 5
MAX_FAILURES_SHOWN = 10
_PICTURES = {
    "deinterlaced": "deinterlaced: the two fields of each frame were joined to a whole picture",
    "interlaced": "with interlaced frames, whose combs were kept",
    "bt709_by_size": "in HD without colour tags, read as BT.709",
    "wide_gamut": "with wide-gamut colours (BT.2020 or P3), converted to BT.709",
    "wide_gamut_kept": "with wide-gamut colours that this ffmpeg cannot convert: they look pale",
    "tone_mapped": "in HDR, mapped to BT.709; light above the reference white is cut off",
    "unfilled": "with fewer frames than --fps asks for at some times; none was repeated",
    "uneven": "with flow over uneven spans of time under --fps (see --flow-pairs)",
}
LOW_DISK_BYTES = 1 << 30


@contextmanager
def shown_extract(output: Output) -> Iterator[Callable[[ExtractEvent], None]]:
    """Show the events of an extract; after a stop by SIGTERM end the program as other commands end."""
    meter: Meter | None = None
    with ExitStack() as stack:

        def show(event: ExtractEvent) -> None:
            nonlocal meter
            match event:
                case ExtractListed():
                    say_listing(output, event.listing, event.params)
                case ExtractStart():
                    say_work(output, event.work)
                case ExtractNotice():
                    (output.warn if event.is_warning else output.say)(event.message)
                case ExtractProgress():
                    if meter is None:
                        # Only now, so that the lines said before stay above the bar.
                        bar = output.progress(output.command, event.total_videos, unit="videos")
                        meter = stack.enter_context(bar)
                    meter.update(event.num_videos, f"{event.frames_per_s:.1f} frames/s")

        try:
            yield show
        except ExtractStopped as stop:
            output.say(str(stop))
            raise Terminated from stop


def say_listing(output: Output, listing: Listing, params: ExtractParams) -> None:
    """Say which videos there are and how they will be stored."""
    sides = Counter(side for video in listing.videos for side in [video.splits.get(listing.split_names[0])])
    output.say(
        f"{listing.dataset}: {len(listing.videos)} videos of {len(listing.classes)} classes "
        f"(split {listing.split_names[0]}: {sides['train']} train, {sides['test']} test), "
        f"{listing.num_skipped} skipped (in no list, or not selected), "
        f"{listing.num_absent} absent (listed, but not in the folder)"
    )
    if listing.absent:
        more = ", ... (all in extract/absent.txt of the run)" if listing.num_absent > MAX_NAMED else ""
        output.say(f"absent: {', '.join(listing.absent[:MAX_NAMED])}{more}")
    output.say(listing.split_source)
    if listing.left_out:
        kinds = [f"{item.count} {item.kind} (such as {item.example})" for item in listing.left_out]
        output.say(f"left out: {and_more(kinds, MAX_NAMED)}")
    for note in listing.notes:
        output.warn(note)

    shape = "x".join(map(str, params.size)) if params.size else f"short side {params.short_side}"
    frames, flow = f"frames {shape}", f"flow by {params.flow_backend}, bound {params.bound_px:g} px"
    if params.flow_backend == IMPORTED:
        frames, flow = "frames as they are", f"flow imported, bound {params.bound_px:g} px"
    parts = {"both": f"{frames}, {flow}", "rgb": f"{frames}, no flow", "flow": f"{flow}, no {frames}"}
    output.say(parts[params.streams])
    _warn_of_lone_classes(output, listing)


def _warn_of_lone_classes(output: Output, listing: Listing) -> None:
    """Warn of classes without a video on one side of a split."""
    for split in listing.split_names:
        sides = {(video.splits.get(split), video.label) for video in listing.videos}
        for side, kind, problem in (("train", "training", "learned"), ("test", "test", "evaluated")):
            lone = [name for label, name in enumerate(listing.classes) if (side, label) not in sides]
            if lone:
                names = and_more(lone, MAX_NAMED)
                output.warn(f"split {split} has no {kind} video of {names}; such classes cannot be {problem}")


def say_work(output: Output, work: Work) -> None:
    """Say what is new, what continues and what is made again."""
    decision, ledger = work.decision, work.ledger
    _say_changes(output, decision)
    if decision.added:
        output.say(f"new to the run: {counted(len(decision.added), 'video')}")
    if decision.retried:
        output.say(f"tried again: {counted(len(decision.retried), 'failed video')}")
    if decision.extended:
        what = {"rgb": "frames", "flow": "flow"}[missing_stream(ledger.plans[0].params.streams)]
        output.say(
            f"{len(decision.extended)} videos get the {what} that they lack, from their sources; what is "
            "stored stays as it is"
        )
    for problem in ledger.broken.values():
        output.warn(f"{problem}; the shard is made again")

    if not work.tasks:
        output.say("everything is extracted already")
    elif len(work.tasks) < ledger.num_shards:
        output.say(f"resuming: {ledger.num_shards - len(work.tasks)} of {ledger.num_shards} shards are done")


def _say_changes(output: Output, decision: Decision) -> None:
    """Say what the folder and the lists say otherwise than at the last listing."""
    if decision.new_classes or decision.lost_classes:
        names = (
            *(f"+{name}" for name in decision.new_classes),
            *(f"-{name}" for name in decision.lost_classes),
        )
        output.warn(
            f"the classes have changed ({and_more(names, MAX_NAMED)}); streams trained before know the "
            "earlier ones and have to be trained again"
        )
    unused = "no longer in the folder or the lists, so neither trained on nor tested (their shards stay)"
    for videos, what in (
        (decision.changed, "another file now than the one extracted before: extracted again"),
        (decision.removed, unused),
        (decision.unreadable, "cannot be read now: the stored frames stay in use"),
    ):
        if videos:
            output.warn(f"{counted(len(videos), 'video')} {what}: {_some(videos)}")
    for videos, what in (
        (decision.relabelled, "with another class by the lists now, not extracted again"),
        (decision.resplit, "on another side of a split now, not extracted again"),
        (decision.relisted, "listed again, taken from the shards"),
        (decision.kept, "absent, but in the shards, and used like any other"),
    ):
        if videos:
            output.say(f"{counted(len(videos), 'video')} {what}: {_some(videos)}")


def _some(videos: Sequence[ListedVideo | str]) -> str:
    return and_more([video if isinstance(video, str) else video.path for video in videos], MAX_NAMED)


def show_result(output: Output, extract_dir: Path, result: ExtractResult, max_failure_rate: float) -> int:
    """Show the counts, the first failures and what needs attention; return the exit code."""
    rate = f", {result.pairs_per_s:g} fields/s" if result.pairs_per_s else ""
    counts = {"rgb": f"{result.frames} frames", "flow": f"{result.flow_pairs} flow fields"}
    what = ", ".join(counts[stream] for stream in streams_in(result.streams))
    output.show(
        f"{result.done} videos extracted ({what}), "
        f"{result.failed} failed; {result.shards} shards ({duration(result.seconds)}{rate})"
    )
    if result.damaged:
        output.show(
            f"{result.damaged} of them are partly damaged and were kept with what could be decoded "
            "(notes in extract/shards/*.json; with --partial refuse they fail)"
        )

    if result.unlisted:
        output.show(f"{counted(result.unlisted, 'video')} of the run no longer listed, and not used")
    for name, count in result.pictures.items():
        output.show(f"{counted(count, 'video')} {_PICTURES[name]}")

    for twins in result.twins[:MAX_NAMED]:
        output.warn(str(twins))
    if len(result.twins) > MAX_NAMED:
        output.warn(f"{len(result.twins) - MAX_NAMED} more such pairs (all with --json)")

    failures = extract_dir / "failures.jsonl"
    for video in result.manifest.failed[:MAX_FAILURES_SHOWN]:
        output.show(f"  failed: {video.reason}: {video.message}")
    if result.failed > MAX_FAILURES_SHOWN:
        output.show(f"  ... {result.failed - MAX_FAILURES_SHOWN} more in {failures}")
    if result.failed:
        output.show("  after repairing them, give the same command with --retry-failed")

    free = shutil.disk_usage(extract_dir).free
    if free < LOW_DISK_BYTES:
        output.warn(f"only {size(free)} of disk space left at {extract_dir}")
    if result.num_deleted:
        output.say(
            f"the files of {result.num_deleted} failed videos were deleted; the failure rate leaves them out"
        )
    if result.too_many_failed:
        num_counted = result.failed - result.num_deleted
        output.warn(
            f"{num_counted} of {result.done + num_counted} videos failed, more than --max-failure-rate "
            f"{max_failure_rate:g} allows (exit code 3); the others can be trained on; see {failures}"
        )
    code = EXIT_MANY_FAILURES if result.too_many_failed else 0
    output.result({**result.to_json(), "exit_code": code})
    return code
