"""Re-read the shards of a run, and let the next extract make the damaged ones again."""

from collections.abc import Callable
from pathlib import Path

from stin_pipe.pipeline.planning.ledger import read_ledger
from stin_pipe.pipeline.planning.verify import VerifyProgress, VerifyResult, verify
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import open_run


def verify_run(
    run_path: Path,
    *,
    repair: bool = False,
    on_event: Callable[[VerifyProgress], None] = lambda _event: None,
) -> VerifyResult:
    """Re-read every finished shard of a run against its checksums, counts and digests.

    Args:
        run_path: the run directory.
        repair: delete the marks of damaged shards, so that the next extract makes these shards again.
        on_event: called after each shard.

    Raises:
        StinPipeError: nothing is planned, a plan is damaged, or an extract works here.
    """
    run = open_run(run_path)
    ledger = read_ledger(run.extract)
    result = verify(ledger, on_event)
    if repair:
        with run_lock(run.extract / "lock.json"):
            for shard in result.damaged_shards:
                (run.extract / "shards" / f"{shard}.json").unlink(missing_ok=True)
    return result
