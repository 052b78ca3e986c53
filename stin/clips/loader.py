"""Batches from loader workers: how the workers start, how they end, and what becomes of their errors."""

import signal
from collections.abc import Generator

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from stin_pipe.stin.clips.dataset import Batch, ScoringClips, join_samples
from stin_pipe.stin.shards.errors import StinPipeError

TERMINATION_GRACE_S = 15
"""Seconds that a loader worker goes on after SIGTERM."""


def scoring_loader(
    clips: ScoringClips, *, batch_size: int, num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Build a loader that visits the videos in order."""
    return DataLoader(
        clips,
        batch_size=batch_size,
        collate_fn=join_samples,
        num_workers=min(num_workers, len(clips)),
        pin_memory=pin_memory,
        worker_init_fn=begin_worker,
        generator=torch.Generator(),
    )


def batches_of(loader: DataLoader[Batch]) -> Generator[Batch, None, None]:
    """Yield a loader's batches, with errors of its worker processes told as if there were none.

    Raises:
        StinPipeError: what a worker raised, without the worker's traceback; or that a worker died.
    """
    iterator = iter(loader)
    try:
        yield from iterator
    except StinPipeError as error:
        # A worker's error arrives with its traceback in the text; the last line is "module.Name: message".
        raise type(error)(str(error).strip().rsplit(f"{type(error).__name__}: ", 1)[-1]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StinPipeError(
            f"a loader worker died ({str(error).strip().splitlines()[0]}); "
            "if memory is short, lower --loader-workers"
        ) from error
    finally:
        # Left to the garbage collector, an iterator that ends by an error finds its queues closed already: it
        # then cannot tell its workers to end, and waits for them.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


def begin_worker(_worker: int) -> None:
    """Prepare a loader worker, as the ``worker_init_fn`` of a loader."""
    # A signal may go to the whole process group: the main process answers it, finishes its step and ends its
    # workers. They outlive SIGTERM by as long as that may take, and not for ever, because multiprocessing
    # ends what remains by SIGTERM and then waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signum, _frame: signal.alarm(TERMINATION_GRACE_S))
    cv2.setNumThreads(0)
