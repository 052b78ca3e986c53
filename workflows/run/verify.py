"""Re-read the shards of a run, and let the next extract make the damaged ones again."""

from collections.abc import Callable
from pathlib import Path

from stin_pipe.pipeline.extraction import source_digest
from stin_pipe.pipeline.planning.ledger import read_ledger
from stin_pipe.pipeline.planning.plan import joined_params
from stin_pipe.pipeline.planning.sources import SourceCheck, check_sources
from stin_pipe.pipeline.planning.verify import VerifyProgress, VerifyResult, verify
from stin_pipe.stin.shards.names import make_inside
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import open_run


def verify_run(
    run_path: Path,
    *,
    sources: bool = False,
    repair: bool = False,
    on_event: Callable[[VerifyProgress], None] = lambda _event: None,
) -> tuple[VerifyResult, SourceCheck | None]:
    """Re-read every finished shard of a run against its checksums, counts and digests.

    Args:
        run_path: the run directory.
        sources: also read the videos, and compare them with what was extracted.
        repair: let the next extract make damaged shards again, and extract videos whose source differs.
        on_event: called after each shard, and after each source.

    Returns:
        What the shards hold, and what the sources do if these were asked for.

    Raises:
        StinPipeError: nothing is planned, a plan is damaged, or an extract works here.
    """
    run = open_run(run_path)
    ledger = read_ledger(run.extract)
    result = verify(ledger, on_event)
    checked = None
    if sources:
        checked = check_sources(
            ledger,
            source_digest(Path((ledger.listing or ledger.plans[-1]).root), joined_params(ledger.plans)),
            lambda done, total: on_event(VerifyProgress(unit="sources", done=done, total=total)),
        )
    if repair:
        make_inside(run.extract / "shards", run.path)
        with run_lock(run.extract / "lock.json"):
            for shard in result.damaged_shards:
                (run.extract / "shards" / f"{shard}.json").unlink(missing_ok=True)
            if checked and checked.differing and ledger.listing:
                ledger.listing.without_states(checked.differing).save(run.extract)
    return result, checked
