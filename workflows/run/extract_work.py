"""The work of `extract` and `import`: plan, run the shards, tell the person, write the views."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stin_pipe.workflows.terminal.exits import Grace, Terminated
from stin_pipe.workflows.terminal.extract_report import say_result, say_work
from stin_pipe.workflows.terminal.output import Output

if TYPE_CHECKING:
    from stin_pipe.pipeline.listing.listing import Listing
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.pipeline.planning.todo import Work
    from stin_pipe.pipeline.shard.make_shard import ShardReport, ShardTask

Reports = Iterator["ShardReport | None"]


def make_shards(
    output: Output,
    extract_dir: Path,
    listing: "Listing",
    params: "ExtractParams",
    *,
    retry_failed: bool,
    timeout_s: float,
    max_failure_rate: float,
    grace: Grace,
    run_tasks: Callable[[Sequence["ShardTask"]], Reports],
) -> int:
    """Make every shard that is not done yet and return the exit code; the caller holds the run's lock.

    Args:
        output: where the person is told.
        extract_dir: the run's `extract` folder.
        listing: what the folder and the lists hold now.
        params: what decides the bytes of a shard.
        retry_failed: try failed videos again.
        timeout_s: time limit a video.
        max_failure_rate: share of failed videos above which the exit code is 3.
        grace: how SIGTERM is taken; when it is asked for, `run_tasks` begins no further shard.
        run_tasks: a runner: yields a report for each finished shard, and None in between.
    """
    from stin_pipe.pipeline.planning.ledger import read_ledger, write_absent, write_views
    from stin_pipe.pipeline.planning.todo import count_deleted, prepare_work
    from stin_pipe.pipeline.shard.make_shard import remove_leftovers

    started = time.monotonic()
    work = prepare_work(extract_dir, listing, params, retry_failed=retry_failed, timeout_s=timeout_s)
    say_work(output, work)
    write_absent(extract_dir, listing.absent)
    num_pairs = 0
    try:
        for report in _reports(output, extract_dir, work, grace, run_tasks):
            num_pairs += report.num_frames - report.num_done
    finally:  # also when interrupted: the views say what the marks say
        remove_leftovers(extract_dir)
        ledger = read_ledger(extract_dir)
        manifest = write_views(extract_dir, ledger)
    seconds = time.monotonic() - started
    num_frames = sum(video.num_frames for video in manifest.videos.values())
    num_done, num_failed = len(manifest.videos), len(manifest.failed)
    result = {
        "videos": num_done + num_failed,
        "done": num_done,
        "failed": num_failed,
        "skipped": manifest.num_skipped,
        "absent": manifest.num_absent,
        "frames": num_frames,
        "flow_pairs": num_frames - num_done,
        "shards": ledger.num_shards,
        "seconds": round(seconds, 3),
        "pairs_per_s": round(num_pairs / seconds, 2) if num_pairs else None,
        "flow_backend": params.flow_backend,
        "damaged": sum(bool(entry.outcome and entry.outcome.notes.get("damaged")) for entry in ledger.done),
        "failures": dict(Counter(video.reason for video in manifest.failed)),
    }
    say_result(output, extract_dir, manifest, result, seconds)
    num_deleted = count_deleted(ledger, listing)
    if num_deleted:
        output.say(f"the files of {num_deleted} failed videos were deleted; the failure rate leaves them out")
    num_counted = num_failed - num_deleted
    too_many = num_counted / max(1, num_done + num_counted) > max_failure_rate
    if too_many:
        output.warn(
            f"{num_counted} of {num_done + num_counted} videos failed, more than --max-failure-rate "
            f"{max_failure_rate:g} allows (hence exit code 3); the others can be trained on; see "
            f"{extract_dir / 'failures.jsonl'}"
        )
    code = 3 if too_many else 0
    output.result({**result, "exit_code": code})
    return code


def _reports(
    output: Output,
    extract_dir: Path,
    work: "Work",
    grace: Grace,
    run_tasks: Callable[[Sequence["ShardTask"]], Reports],
) -> Iterator["ShardReport"]:
    """Run the tasks and show progress by videos, counting those inside shards that are not finished."""
    from stin_pipe.pipeline.shard.make_shard import remove_leftovers, running_shards

    remove_leftovers(extract_dir)
    total = len(work.ledger.entries)
    done = total - len(work.ledger.not_yet)
    frames, started = 0, time.monotonic()
    if not work.tasks:
        return
    num_left = len(work.tasks)
    with grace, output.progress(output.command, total, unit="videos") as meter:
        for report in run_tasks(work.tasks):
            grace.check()
            num_left -= report is not None
            if report is not None:
                done += report.num_done + report.num_failed
                frames += report.num_frames
                yield report
            in_hand = running_shards(extract_dir)
            now_frames = frames + sum(shard.num_frames for shard in in_hand)
            rate = now_frames / (time.monotonic() - started)
            meter.update(done + sum(shard.num_videos for shard in in_hand), f"{rate:.1f} frames/s")
        if num_left and grace.asked:
            output.say(f"asked to end: the shards in hand are finished, {num_left} are left")
            raise Terminated
