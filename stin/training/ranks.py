"""The processes that train one stream together, and what they tell each other.

Each process (a *rank*) takes its part of every batch; the gradient is the mean over the whole batch whatever
the number of ranks. They are started by ``launch`` (Ray Train) or by torchrun; a process that neither of them
started is alone, and nothing here costs it anything.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from stin_pipe.stin.shards.errors import StinPipeError, first_line

T = TypeVar("T")

BACKEND_CPU = "gloo"
BACKEND_GPU = "cpu:gloo,cuda:nccl"
"""Gradients travel between GPUs by NCCL; the few numbers that ranks tell each other need no GPU."""

IN_ALL_PROCESSES = "all processes of this training end with this error"
"""Note on an error that the first process tells for all."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The place of this process among those of its training.

    Attributes:
        rank: number of this process, 0..count-1; the first one writes all files.
        count: processes in all.
        local_rank: number among those on this machine, hence of its GPU.
        local_count: processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part: neighbours, and parts differ by at most one item."""
        start, end = (len(items) * edge // self.count for edge in (self.rank, self.rank + 1))
        return items[start:end]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, equal in each of them."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def largest(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.count == 1:
            return value
        found = torch.tensor(value)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return int(found)

    def all_values(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order of their ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def agree(self, error: Exception | None = None) -> None:
        """Wait for all; if any of them comes with an error, all of them raise.

        Raises:
            Exception: this process's own error.
            StinPipeError: with the message of the first process that has one.
        """
        if self.count > 1 and not self.largest(int(error is not None)):
            return
        messages = self.all_values(None if error is None else str(error))
        told = [(rank, text) for rank, text in enumerate(messages) if text is not None]
        if error is None and told:
            error = StinPipeError(f"{told[0][1]} (train worker {told[0][0]})")
        if error is not None:
            if self.count > 1:
                error.add_note(IN_ALL_PROCESSES)
            raise error

    def together(self, action: Callable[[], T]) -> T:
        """Act in all processes; if it fails in one, it fails in all.

        Raises:
            Exception: what ``action`` raised here.
            StinPipeError: if it failed in another process alone.
        """
        if self.count == 1:
            return action()
        value: list[T] = []
        failed: Exception | None = None
        try:
            value.append(action())
        except Exception as error:  # noqa: BLE001 - the others would wait for ever; `agree` raises it
            failed = error
        self.agree(failed)
        return value[0]

    def mean_norms(self, network: nn.Module) -> None:
        """Give all processes the mean of their batch norms' running statistics.

        In training each process normalises its part of the batch by itself.
        """
        if self.count == 1:
            return
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
        values = [v for norm in norms for v in (norm.running_mean, norm.running_var) if v is not None]
        if not values:
            return
        flat = torch.cat([value.flatten() for value in values])
        distributed.all_reduce(flat)
        flat /= self.count
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))


@contextmanager
def joined_ranks(*, on_gpu: bool) -> Iterator[Ranks]:
    """Join the processes that torchrun or Ray Train started together with this one.

    Args:
        on_gpu: whether the training will run on GPUs.

    Raises:
        StinPipeError: if they cannot find each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if distributed.is_available() and distributed.is_initialized():
        yield _own_place(distributed.get_rank(), distributed.get_world_size())
        return
    if count == 1:
        yield Ranks()
        return
    try:
        distributed.init_process_group(BACKEND_GPU if on_gpu else BACKEND_CPU)
    except (ValueError, RuntimeError) as error:
        raise StinPipeError(
            f"RANK={os.environ['RANK']} and WORLD_SIZE={count} are set, but the other processes cannot be "
            f"joined ({first_line(error)}); start all of them with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield _own_place(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def is_first_process() -> bool:
    """Tell whether this process, alone or started by torchrun, is the one that writes and speaks."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or int(os.environ.get("RANK", "0")) == 0


def _own_place(rank: int, count: int) -> Ranks:
    return Ranks(
        rank=rank,
        count=count,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", count)),
    )
