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
  stin-pipe verify --run runs/mine --repair        # then the same extract command again
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option(
    "--repair", is_flag=True, help="Delete the marks of damaged shards, so that extract makes them again."
)
@common_options
def verify(output: Output, run_path: Path, repair: bool) -> None:
    """Re-read every finished shard against its checksums, counts and digests.

    Each line names the shard, the video and what to do. The exit code is 1 if something is damaged, even with
    --repair: extract has yet to make those shards again.
    """
    from stin_pipe.pipeline.planning.verify import VerifyProgress
    from stin_pipe.workflows.run.verify import verify_run

    with output.progress("verify", 1, unit="shards") as meter:

        def show(event: VerifyProgress) -> None:
            meter.total = event.total_shards
            meter.update(event.num_shards)

        result = verify_run(run_path, repair=repair, on_event=show)

    for problem in result.problems:
        output.show(problem)
    num_problems, num_damaged = len(result.problems), len(result.damaged_shards)
    output.show(
        f"{result.shards} shards, {result.videos} videos, {size(result.bytes)} read; "
        f"{num_problems} problem{'s' * (num_problems != 1)}, {result.pending_shards} shards not extracted yet"
    )
    if num_damaged and repair:
        output.show(
            f"marks of damaged shards deleted: {num_damaged}; exit code 1, since these shards are yet to be "
            "made: give the same extract command again, then verify once more"
        )
    elif num_damaged:
        output.show("--repair deletes the marks of these shards, so that extract makes them again")

    code = EXIT_FAILED if result.problems else 0
    output.result({**asdict(result), "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)
