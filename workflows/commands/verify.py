"""`stin-pipe verify`: re-read every shard of a run."""

from pathlib import Path

import click

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
    "--repair", is_flag=True, help="Delete the marks of damaged shards; the next extract makes them again."
)
@common_options
def verify(output: Output, run_path: Path, repair: bool) -> None:
    """Re-read every finished shard against its checksums, counts and digests.

    Each line names the shard, the video and what to do. Exit code 1 when something is damaged, also with
    --repair: extract has yet to make those shards anew.
    """
    from stin_pipe.pipeline.planning.ledger import read_ledger
    from stin_pipe.pipeline.planning.verify import verify_manifest, verify_shards
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.run.run_dir import open_run

    run = open_run(run_path)
    ledger = read_ledger(run.extract)
    problems: list[str] = []
    damaged: list[str] = []
    num_shards = num_videos = num_bytes = 0
    with output.progress("verify", ledger.num_shards, unit="shards") as meter:
        for check in verify_shards(ledger):
            num_shards += 1
            num_videos += check.num_videos
            num_bytes += check.num_bytes
            problems += check.problems
            damaged += [check.shard] if check.problems else []
            meter.update(num_shards)
    problems += verify_manifest(ledger)
    for problem in problems:
        output.show(problem)
    if repair:
        with run_lock(run.extract / "lock.json"):
            for shard in damaged:
                (run.extract / "shards" / f"{shard}.json").unlink(missing_ok=True)
    num_pending = len([shard for shard in ledger.pending if shard.name not in ledger.broken])
    output.show(
        f"{num_shards} shards, {num_videos} videos, {size(num_bytes)} read; "
        f"{len(problems)} problem{'s' * (len(problems) != 1)}, {num_pending} shards not extracted yet"
    )
    if damaged and repair:
        output.show(
            f"marks of damaged shards deleted: {len(damaged)}; exit code 1 as these are still to be made; "
            "now give the same extract command again (it makes these shards anew), then verify once more"
        )
    elif damaged:
        output.show("--repair deletes the marks of these shards, so that extract makes them again")
    output.result(
        {
            "shards": num_shards,
            "videos": num_videos,
            "bytes": num_bytes,
            "pending_shards": num_pending,
            "problems": problems,
            "damaged_shards": damaged,
            "exit_code": 1 if problems else 0,
        }
    )
    if problems:
        raise click.exceptions.Exit(1)
