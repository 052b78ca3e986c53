"""Make shards in processes of this machine, without Ray."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.runners.workers import WorkerDied, worker_pool
from stin_pipe.pipeline.shard.make_shard import MAX_TRIES, ShardReport, make_shard
from stin_pipe.stin.shards.errors import StinPipeError


def run_local(
    tasks: Sequence[ShardTask],
    *,
    num_workers: int,
    poll_s: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ShardReport | None]:
    """Yield a report for each finished shard, and None every `poll_s` seconds in between.

    Once `stop()` is true, no further shard starts; the iterator ends with those in progress.

    Raises:
        StinPipeError: the workers cannot start, or a worker died again and again on the same shard.
    """
    waiting = list(tasks)
    tries = dict.fromkeys((task.shard.name for task in tasks), 0)
    while waiting:
        futures: dict[Future[ShardReport], ShardTask] = {}
        try:
            with worker_pool(num_workers, make_shard) as pool:
                for task in waiting:
                    futures[pool.submit(make_shard, task)] = task

                while futures:
                    finished, _ = wait(futures, timeout=poll_s, return_when=FIRST_COMPLETED)
                    for future in finished:
                        report = future.result()
                        waiting.remove(futures.pop(future))
                        yield report
                    if not finished:
                        yield None

                    # A future that a process has taken cannot be cancelled; its shard is finished.
                    if stop():
                        for future in [future for future in futures if future.cancel()]:
                            waiting.remove(futures.pop(future))
        except WorkerDied as death:
            # One dead process breaks the whole pool: what is left goes to a new one.
            _count_tries(futures.values(), tries, num_workers, str(death))


def _count_tries(unfinished: Iterable[ShardTask], tries: dict[str, int], num_workers: int, how: str) -> None:
    """Count a try for the shards that may have been in progress when a worker died."""
    # The pool does not say which worker died; it works on the first futures in their order.
    suspects = sorted(task.shard.name for task in unfinished)[:num_workers]
    for name in suspects:
        tries[name] += 1
        if tries[name] >= MAX_TRIES:
            raise StinPipeError(
                f"shard {name}: its worker process died {MAX_TRIES} times{how}; "
                "try fewer --workers; what is finished is kept, the same command resumes"
            )
