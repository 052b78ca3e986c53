"""The batches of a training, from any of its steps on.

A sample is requested as (epoch, index): with the seed, these decide clips and crop, whichever process
answers. So one loader serves a whole training, over all its epochs, without a pause between them.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from stin_pipe.stin.clips.dataset import Batch, TrainingClips
from stin_pipe.stin.clips.loader import clip_loader
from stin_pipe.stin.clips.sampling import epoch_order
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.ranks import Ranks


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of every step from ``first_step`` to ``total_steps``.

    The last samples of an epoch that do not fill a batch are left out, unless the list is shorter than one
    batch; each epoch has another order. A process that trains with others gets its part of each batch.
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
            epoch, number = divmod(step, per_epoch)
            if epoch != order_epoch:
                order_epoch, order = (
                    epoch,
                    epoch_order(num_samples=self.num_samples, seed=self.seed, epoch=epoch),
                )
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in self.ranks.part(batch.tolist())]


def steps_per_epoch(*, num_samples: int, batch_size: int) -> int:
    """Return the number of whole batches in a list; 1 if it is shorter than a batch."""
    return max(1, num_samples // batch_size)


def training_loader(
    clips: TrainingClips, steps: StepSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader[Batch | StinPipeError]:
    """Build the one loader of a training."""
    return clip_loader(
        clips,
        num_workers=num_workers,
        batch_sampler=steps,  # its indices are (epoch, video)
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
    )
