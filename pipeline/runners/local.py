"""Run shard tasks in processes of this machine, without ray."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from stin_pipe.pipeline.shard.make_shard import MAX_TRIES, ShardReport, ShardTask, make_shard
from stin_pipe.stin.shards.errors import StinPipeError

_PR_SET_PDEATHSIG = 1


def run_local(
    tasks: Sequence[ShardTask],
    *,
    num_workers: int,
    poll_s: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ShardReport | None]:
    """Yield a report for each shard as it is finished, and None every `poll_s` seconds in between.

    When `stop()` becomes true, no further shard is begun, and it ends with those in hand.

    Raises:
        StinPipeError: a worker process died again and again on the same shard.
    """
    waiting = list(tasks)
    tries = dict.fromkeys((task.shard.name for task in tasks), 0)
    while waiting:
        with worker_pool(num_workers) as pool:
            futures: dict[Future[ShardReport], ShardTask] = {}
            try:
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
                    if stop():
                        for future in [future for future in futures if future.cancel()]:
                            waiting.remove(futures.pop(future))
            except BrokenProcessPool:
                _count_tries(futures.values(), tries, num_workers)


def worker_environment() -> None:
    """Keep every library of this worker process at one thread: a worker is one CPU slot."""
    import cv2

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    cv2.setNumThreads(1)


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Hold processes of one thread each; work in hand is killed when the block is left."""
    pool = ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield pool
    finally:
        for process in list((pool._processes or {}).values()):  # no public way to stop work in hand
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # the driver decides; both may reach the whole group
        signal.signal(signum, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive a killed driver
    worker_environment()


def _count_tries(unfinished, tries: dict[str, int], num_workers: int) -> None:
    """Charge a try to the shards that may have been in hand when a worker died."""
    in_hand = sorted(task.shard.name for task in unfinished)[:num_workers]
    for name in in_hand:
        tries[name] += 1
        if tries[name] >= MAX_TRIES:
            raise StinPipeError(
                f"shard {name}: its worker process died {MAX_TRIES} times (out of memory?); "
                "try fewer --workers; what is finished is kept, the same command resumes"
            )
