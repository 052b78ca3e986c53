"""One step of training."""

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from stin_pipe.stin.clips.dataset import Batch, network_input
from stin_pipe.stin.device import autocast, resolve_amp
from stin_pipe.stin.network.streams import stream_scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.learner import Learner, training_mode
from stin_pipe.stin.training.optim import stream_loss
from stin_pipe.stin.training.ranks import Ranks

MAX_LISTED_VIDEOS = 8


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The numbers of one step; the losses are those before it."""

    loss: float
    main_loss: float
    aux_loss: float | None
    top1: float
    """Share of the batch's samples that the stream got right before the step, augmented as they are."""
    grad_norm: float
    lr: float

    def metrics(self) -> dict[str, float | None]:
        """Return the values of a line of metrics.jsonl."""
        return {
            "loss": self.loss,
            "main_loss": self.main_loss,
            "aux_loss": self.aux_loss,
            "top1": self.top1,
            "grad_norm": self.grad_norm,
            "lr": self.lr,
        }


def train_step(learner: Learner, batch: Batch, *, num_samples: int, step: int, rate: float) -> StepReport:
    """Take one step of gradient descent on a batch.

    Args:
        learner: the network and its optimiser, which change.
        batch: this process's part of the batch.
        num_samples: samples of the whole batch, over all processes.
        step: 0-based.
        rate: learning rate.

    Raises:
        StinPipeError: if the loss or its gradient is not finite (before any weight is touched), naming the
            step and the batch's videos; if the GPU's memory does not suffice.
    """
    ranks, optimizer = learner.ranks, learner.optimizer
    if ranks.count > 1:
        # Dropout follows from step and rank, so the checkpoint need not hold a generator for each process.
        torch.manual_seed(_step_seed(learner.config.seed, step, ranks.rank))
    for group in optimizer.param_groups:
        group["lr"] = rate

    training_mode(learner)
    optimizer.zero_grad(set_to_none=True)
    try:
        sums_4 = _backward(learner, batch, num_samples)
    except torch.OutOfMemoryError as error:
        raise StinPipeError(
            f"out of GPU memory at step {step + 1} with {len(batch.ids)} samples of "
            f"{learner.config.num_segments} clips of {learner.config.augment.crop_px} px; "
            "lower --batch-size or raise --accumulate"
        ) from error
    learner.scaler.unscale_(optimizer)
    limit = learner.config.optim.clip_norm or float("inf")
    norm_tensor = nn.utils.clip_grad_norm_(learner.network.parameters(), limit)

    # The only place in a step that waits for the device.
    *own, norm = torch.cat([sums_4, norm_tensor.reshape(1).double()]).tolist()
    total, main, aux, top1 = ranks.sums(own)
    # With fp16, gradients overflow now and then; the scaler expects that and skips the step itself.
    if not (math.isfinite(total) and (learner.scaler.is_enabled() or math.isfinite(norm))):
        raise StinPipeError(
            f"step {step + 1}: the loss is {total} and its gradient's norm {norm}, which must be "
            f"finite; videos of this batch: {_listed(_suspects(batch, own[0], ranks))}. "
            "The last checkpoint is kept; lower --lr, or look at these videos"
        )

    learner.scaler.step(optimizer)
    learner.scaler.update()
    ranks.mean_norms(learner.network)
    if learner.average is not None:
        learner.average.update(learner.network, step=step)
    has_aux = not learner.config.stream.is_plain
    return StepReport(
        loss=total, main_loss=main, aux_loss=aux if has_aux else None, top1=top1, grad_norm=norm, lr=rate
    )


def _backward(learner: Learner, batch: Batch, num_samples: int) -> torch.Tensor:
    """Add up the gradients of this process's samples; return its part of the losses and of
    the share that is right."""
    config, ranks = learner.config, learner.ranks
    clips = network_input(batch, stream=config.stream, bound_px=learner.bound_px, device=learner.device)
    labels = batch.labels.to(learner.device, non_blocking=True)
    num_parts = min(config.optim.accumulate, len(labels))
    parts = zip(clips.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)

    # Total, main and auxiliary loss, and top-1; in float64, as Python would add them, but without waiting
    # for the device.
    sums_4 = torch.zeros(4, dtype=torch.float64, device=learner.device)
    for number, (part_clips, part_labels) in enumerate(parts, start=1):
        share = len(part_labels) / num_samples
        # The processes' gradients are joined once, in the last part.
        apart = learner.joined.no_sync() if learner.joined and number < num_parts else nullcontext()
        with apart:
            with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
                output = learner.forward(part_clips)
            loss = stream_loss(
                output,
                part_labels,
                aux_weight=config.stream.aux_weight,
                label_smoothing=config.optim.label_smoothing,
            )
            # Joining averages over the processes, whereas the shares are of the whole batch.
            learner.scaler.scale(loss.total * (share * ranks.count)).backward()

        aux = loss.main.new_zeros(()) if loss.aux is None else loss.aux
        scores = stream_scores(output, aux_at_test=config.stream.aux_at_test).detach()
        top1 = (scores.argmax(1) == part_labels).float().mean()
        sums_4 += share * torch.stack([loss.total, loss.main, aux, top1]).detach().double()
    return sums_4


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{step}\n{rank}".encode(), digest_size=7).digest(), "big")


def _suspects(batch: Batch, own_loss: float, ranks: Ranks) -> list[str]:
    """Return the videos of the processes whose own loss is not finite; if there is none, those of all."""
    parts = ranks.all_values((math.isfinite(own_loss), batch.ids))
    bad = [ids for finite, ids in parts if not finite]
    return [video for ids in bad or [ids for _, ids in parts] for video in ids]


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - MAX_LISTED_VIDEOS
    return ", ".join(ids[:MAX_LISTED_VIDEOS]) + (f" and {more} more" if more > 0 else "")
