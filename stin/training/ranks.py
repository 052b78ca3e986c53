"""The processes that train one stream together, and how they agree.

Each process (a *rank*) takes its part of every batch; the gradient is the mean over the whole batch, whatever
the number of ranks. ``train_on_ray`` or torchrun starts them. A process that neither started is alone, and
nothing here costs it anything.
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
"""Gradients travel between GPUs by NCCL; the few numbers that ranks exchange need no GPU."""

_IN_EVERY_RANK = "stin_pipe_in_every_rank"
"""Attribute of an error that all ranks raise together."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of its training.

    Attributes:
        rank: number of this process, 0..count-1; the first one writes all files.
        count: number of processes.
        local_rank: number among those on this machine, and so of its GPU.
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
        """Return this process's part: consecutive items, and parts differ in length by at most one."""
        start, end = (len(items) * edge // self.count for edge in (self.rank, self.rank + 1))
        return items[start:end]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes; each process gets the same bits."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def largest(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.count == 1:
            return value
        most = torch.tensor(value)
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
        return int(most)

    def all_values(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def agree(self, error: Exception | None = None) -> None:
        """Wait for all processes; if any of them brings an error, all of them raise.

        Raises:
            Exception: this process's own error.
            StinPipeError: with the message of the first process that has one.
        """
        # The usual step exchanges one number; messages travel only when there is an error.
        if self.count > 1 and not self.largest(int(error is not None)):
            return

        messages = self.all_values(None if error is None else str(error))
        failed = [(rank, text) for rank, text in enumerate(messages) if text is not None]
        if error is None and failed:
            rank, text = failed[0]
            error = StinPipeError(f"{text} (train worker {rank})")

        if error is not None:
            if self.count > 1:
                setattr(error, _IN_EVERY_RANK, True)
            raise error

    def together(self, action: Callable[[], T]) -> T:
        """Run ``action`` in all processes; if it fails in one, it fails in all.

        Raises:
            Exception: what ``action`` raised here.
            StinPipeError: if it failed in another process alone.
        """
        if self.count == 1:
            return action()
        results: list[T] = []
        failure: Exception | None = None
        try:
            results.append(action())
        except Exception as error:  # noqa: BLE001 - the others would wait for ever; `agree` raises it
            failure = error
        self.agree(failure)
        return results[0]

    def mean_norms(self, network: nn.Module) -> None:
        """Replace the running statistics of batch norms by their mean over all processes.

        In training, each process normalises its part of the batch by itself.
        """
        if self.count == 1:
            return
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
        values = [v for norm in norms for v in (norm.running_mean, norm.running_var) if v is not None]
        if not values:
            return

        # One message for all layers: a ResNet-50 has 106 small tensors here.
        flat = torch.cat([value.flatten() for value in values])
        distributed.all_reduce(flat)
        flat /= self.count
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))


@contextmanager
def joined_ranks(*, on_gpu: bool) -> Iterator[Ranks]:
    """Join the processes that torchrun or Ray Train started together with this one.

    Args:
        on_gpu: whether the training runs on GPUs.

    Raises:
        StinPipeError: if they cannot reach each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1

    # Ray Train has joined its workers already.
    if distributed.is_available() and distributed.is_initialized():
        yield _ranks(distributed.get_rank(), distributed.get_world_size())
        return

    if count == 1:
        yield Ranks()
        return

    try:
        distributed.init_process_group(BACKEND_GPU if on_gpu else BACKEND_CPU)
    except (ValueError, RuntimeError) as error:
        raise StinPipeError(
            f"RANK={os.environ['RANK']} and WORLD_SIZE={count} are set, but the other processes cannot be "
            f"reached ({first_line(error)}); start all of them with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield _ranks(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def is_first_process() -> bool:
    """Tell whether this process writes files and speaks: it is alone, or the first that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or int(os.environ.get("RANK", "0")) == 0


def raised_in_every_rank(error: BaseException | None) -> bool:
    """Tell whether all processes raise this error, so that the first reports it for all."""
    return getattr(error, _IN_EVERY_RANK, False)


def _ranks(rank: int, count: int) -> Ranks:
    return Ranks(
        rank=rank,
        count=count,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", count)),
    )
