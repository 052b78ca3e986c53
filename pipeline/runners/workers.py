"""Worker processes of this machine: one thread each, and no code from the user's folder.

Only what every Python has is imported here: a worker imports its work inside of a `try`, so that a package
which is missing or broken becomes an error with its traceback, not a process that vanishes.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from stin_pipe.stin.processes.lifeline import end_with, told_signals
from stin_pipe.stin.processes.worker_start import cannot_start, worker_path
from stin_pipe.stin.shards.errors import StinPipeError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_SAFE_PATH = "PYTHONSAFEPATH"


def use_one_thread() -> None:
    """Keep every library of this process at one thread: a worker is one CPU slot."""
    import cv2

    os.environ.update(dict.fromkeys(_THREADS, "1"))
    cv2.setNumThreads(1)


class WorkerDied(Exception):
    """A worker process died at work; the text is its signal in brackets, empty where it is not known."""


@contextmanager
def worker_pool(num_workers: int, work: Callable[..., Any]) -> Iterator[ProcessPoolExecutor]:
    """Hold processes of one thread each that have imported `work`; leaving the block kills what is in hand.

    Raises:
        StinPipeError: the processes cannot start; it shows their traceback.
        WorkerDied: a process died at work.
    """
    with tempfile.TemporaryDirectory(prefix="stin-pipe-workers-") as folder:
        pool = _Pool(num_workers, work.__module__, Path(folder))
        try:
            yield pool
        except BrokenProcessPool as error:
            pool.raise_failed_start(error)
            # SIGTERM is the pool's own: it asks those that are left to end.
            codes = [process.exitcode for process in pool.processes.values()]
            raise WorkerDied(told_signals(code for code in codes if code != -signal.SIGTERM)) from error
        finally:
            for process in pool.processes.values():  # no public way to stop work in hand
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


class _Pool(ProcessPoolExecutor):
    """A pool whose processes import neither the caller's main module nor anything from its folder."""

    def __init__(self, num_workers: int, module: str, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[int, Any] = {}
        with _clean_start():  # the semaphores of its queues start a process too
            super().__init__(
                num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(module, folder, os.getpid()),
            )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call; processes start here, up to their number."""
        with _clean_start():
            future = super().submit(fn, *args, **kwargs)
        self.processes.update(self._processes or {})  # kept: a broken pool forgets them
        return future

    def raise_failed_start(self, error: BrokenProcessPool) -> None:
        """Raise what a worker wrote about its start; return if all had started."""
        for path in sorted(self._folder.iterdir()):
            raise cannot_start(path.read_text(encoding="utf-8")) from error
        # Python ends with 1 for an exception that nothing caught; a signal leaves a negative number.
        if any(process.exitcode == 1 for process in self.processes.values()):
            raise StinPipeError(
                "a worker process ended by an exception outside of its work; its traceback stands above"
            ) from error


@contextmanager
def _clean_start() -> Iterator[None]:
    """Let processes that start meanwhile take code from where it is installed.

    `multiprocessing` hands on `sys.path` with the current folder in it, and runs the main module once more:
    a user's script without `if __name__ == "__main__"` would start itself in every worker.
    """
    main, paths, safe_path = sys.modules["__main__"], sys.path, os.environ.get(_SAFE_PATH)
    sys.modules["__main__"], sys.path = ModuleType("__main__"), worker_path()
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path = main, paths
        if safe_path is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = safe_path


def _start_worker(module: str, folder: Path, driver_id: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # the driver decides; both may reach the whole group
        signal.signal(signum, signal.SIG_IGN)
    end_with(driver_id)

    try:
        import_module(module)
        use_one_thread()
    except BaseException:  # noqa: BLE001 - a stranger's module may raise anything
        # An initializer that raises has its traceback logged by every worker; one in the error is enough.
        (folder / f"{os.getpid()}").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)
