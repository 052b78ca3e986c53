"""`stin-pipe verify`: re-read every shard of a run."""

from dataclasses import asdict
from pathlib import Path

import click

from stin_pipe.workflows.terminal.exits import EXIT_FAILED
from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output, size

EXAMPLES = """\b
Example:
  stin-pipe verify --run runs/mine
  stin-pipe verify --run runs/mine --sources       # are the videos still those that were extracted?
  stin-pipe verify --run runs/mine --repair        # then the same extract command again
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option(
    "--repair", is_flag=True, help="Delete the marks of damaged shards, so that extract makes them again."
)
@click.option(
    "--sources", is_flag=True, help="Also read every video, and compare it with the one that was extracted."
)
@common_options
def verify(output: Output, run_path: Path, repair: bool, sources: bool) -> None:
    """Re-read every finished shard against its checksums, counts and digests.

    Each line names the shard, the video and what to do. The exit code is 1 if something is damaged, even with
    --repair: extract has yet to make those shards again.
    """
    from stin_pipe.pipeline.planning.verify import VerifyProgress
    from stin_pipe.workflows.run.verify import verify_run

    with output.progress("verify", 1, unit="shards") as meter:

        def show(event: VerifyProgress) -> None:
            meter.total = event.total
            meter.update(event.done, "" if event.unit == "shards" else event.unit)

        result, checked = verify_run(run_path, sources=sources, repair=repair, on_event=show)

    problems = (*result.problems, *(checked.problems if checked else ()))
    for problem in problems:
        output.show(problem)
    num_problems, num_damaged = len(problems), len(result.damaged_shards)
    output.show(
        f"{result.shards} shards, {result.videos} videos, {size(result.bytes)} read; "
        f"{num_problems} problem{'s' * (num_problems != 1)}, {result.pending_shards} shards not extracted yet"
    )
    if checked:
        output.show(
            f"{checked.num_compared} sources compared, {len(checked.differing)} differ, "
            f"{checked.num_missing} are no longer there"
        )
    if num_damaged and repair:
        output.show(
            f"marks of damaged shards deleted: {num_damaged}; exit code 1, since these shards are yet to be "
            "made: give the same extract command again, then verify once more"
        )
    elif num_damaged:
        output.show("--repair deletes the marks of these shards, so that extract makes them again")

    if checked and checked.differing and repair:
        output.show("the same extract command now looks at these sources anew")

    code = EXIT_FAILED if problems else 0
    counts = checked and {
        "compared": checked.num_compared,
        "missing": checked.num_missing,
        "differing": len(checked.differing),
    }
    output.result({**asdict(result), "problems": list(problems), "sources": counts, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)
