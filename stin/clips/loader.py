"""Batches from loader workers: how the workers start and end, and how their errors arrive."""

import os
import signal
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from stin_pipe.stin.clips.dataset import Batch, ScoringClips, TrainingClips, join_samples
from stin_pipe.stin.processes.lifeline import end_with, told_signals
from stin_pipe.stin.shards.errors import StinPipeError

TERMINATION_GRACE_S = 15
"""Time that a loader worker lives on after SIGTERM."""


class _Guarded(Dataset[Batch | StinPipeError]):
    """Clips that return an error in the place of a sample.

    An exception that a worker raises reaches us as its traceback in a text; a returned one arrives whole.
    """

    def __init__(self, clips: TrainingClips | ScoringClips) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: Any) -> Batch | StinPipeError:
        try:
            return self._clips[key]
        except StinPipeError as error:
            return error


def clip_loader(
    clips: TrainingClips | ScoringClips, *, num_workers: int, **options: Any
) -> DataLoader[Batch | StinPipeError]:
    """Build a loader for ``batches_of``, with torch's options for order and size of the batches."""
    return DataLoader(
        _Guarded(clips),
        collate_fn=_join,
        num_workers=num_workers,
        worker_init_fn=partial(_begin_worker, os.getpid()),
        # Its own generator: creating a loader must not draw from the one that dropout uses.
        generator=torch.Generator(),
        **options,
    )


def scoring_loader(
    clips: ScoringClips, *, batch_size: int, num_workers: int, pin_memory: bool
) -> DataLoader[Batch | StinPipeError]:
    """Build a loader that visits the videos in order."""
    num_workers = min(num_workers, len(clips))
    return clip_loader(clips, num_workers=num_workers, batch_size=batch_size, pin_memory=pin_memory)


def batches_of(loader: DataLoader[Batch | StinPipeError]) -> Generator[Batch, None, None]:
    """Yield a loader's batches; errors of its worker processes are raised here as they were raised there.

    Raises:
        StinPipeError: a sample cannot be read, or a worker died.
    """
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, StinPipeError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StinPipeError(
            f"a loader worker died{_deaths(iterator)}; if memory is short, lower --loader-workers"
        ) from error
    finally:
        # An iterator that ends by an error and is left to the garbage collector finds its queues closed: it
        # can no longer tell its workers to end, and waits for them.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


def _deaths(iterator: object) -> str:
    workers = iterator._workers if isinstance(iterator, _MultiProcessingDataLoaderIter) else []
    return told_signals(worker.exitcode for worker in workers)


def _join(samples: Sequence[Batch | StinPipeError]) -> Batch | StinPipeError:
    batches = [sample for sample in samples if not isinstance(sample, StinPipeError)]
    errors = [sample for sample in samples if isinstance(sample, StinPipeError)]
    return errors[0] if errors else join_samples(batches)


def _begin_worker(parent_id: int, _worker: int) -> None:
    end_with(parent_id)
    # A signal may go to the whole process group. The main process answers it: it finishes its step and ends
    # its workers, which must outlive SIGTERM for that long. But not for ever: at exit, multiprocessing sends
    # SIGTERM to the workers that are left and waits for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signum, _frame: signal.alarm(TERMINATION_GRACE_S))
    cv2.setNumThreads(0)
