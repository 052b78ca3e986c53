"""Batches in the order of a training, from any of its steps on.

A training item is asked for as (epoch, index): with the seed, these decide clips and crop, whichever process
answers. That makes one loader serve a whole training, over all its epochs, without a pause between them.
"""

import signal
from collections.abc import Generator, Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from stin_pipe.stin.clips.dataset import Batch, ScoringClips, TrainingClips, join_samples
from stin_pipe.stin.clips.sampling import epoch_order
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.ranks import Ranks

TERMINATION_GRACE_S = 15
"""Seconds that a loader worker goes on after SIGTERM."""


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of every step from ``first_step`` to ``total_steps``.

    The last samples of an epoch that do not fill a batch are left out (each epoch has another order), unless
    the list is shorter than one batch. Of each batch, a process that trains with others gets its part.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        batch_size: int,
        seed: int,
        first_step: int,
        total_steps: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.seed = seed
        self.first_step = first_step
        self.total_steps = total_steps
        self.ranks = ranks or Ranks()

    def __len__(self) -> int:
        return self.total_steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(num_samples=self.num_samples, batch_size=self.batch_size)
        order_epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.first_step, self.total_steps):
            epoch, place = divmod(step, per_epoch)
            if epoch != order_epoch:
                order_epoch, order = (
                    epoch,
                    epoch_order(num_samples=self.num_samples, seed=self.seed, epoch=epoch),
                )
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in self.ranks.part(chosen.tolist())]


def steps_per_epoch(*, num_samples: int, batch_size: int) -> int:
    """Return how many whole batches a list gives; one if it is shorter than a batch."""
    return max(1, num_samples // batch_size)


def training_loader(
    clips: TrainingClips, steps: StepSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Build the one loader of a training."""
    return DataLoader(
        clips,
        batch_sampler=steps,  # pyright: ignore[reportArgumentType] - items are asked for by (epoch, index)
        collate_fn=join_samples,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker,
        # Its own generator: creating a loader must not draw from the one that dropout uses.
        generator=torch.Generator(),
        prefetch_factor=4 if num_workers else None,
    )


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
        worker_init_fn=_begin_worker,
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


def _begin_worker(_worker: int) -> None:
    # A signal may go to the whole process group: the main process answers it, finishes its step and ends its
    # workers. They outlive SIGTERM by as long as that may take, and not for ever, because multiprocessing
    # ends what remains by SIGTERM and then waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signum, _frame: signal.alarm(TERMINATION_GRACE_S))
    cv2.setNumThreads(0)
