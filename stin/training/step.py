"""One step of training."""

import hashlib
import math
import operator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from stin_pipe.stin.clips.dataset import Batch, network_input
from stin_pipe.stin.device import autocast, resolve_amp
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.learner import Learner, training_mode
from stin_pipe.stin.training.losses import stream_loss
from stin_pipe.stin.training.optim import learning_rate
from stin_pipe.stin.training.ranks import Ranks

MAX_LISTED_VIDEOS = 8


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The numbers of one step, as the loss was before it."""

    loss: float
    main_loss: float
    aux_loss: float | None
    grad_norm: float
    lr: float

    def metrics(self) -> dict[str, float | None]:
        """Return what metrics.jsonl keeps."""
        return {
            "loss": self.loss,
            "main_loss": self.main_loss,
            "aux_loss": self.aux_loss,
            "grad_norm": self.grad_norm,
            "lr": self.lr,
        }


def train_step(
    learner: Learner, batch: Batch, *, num_samples: int, step: int, total_steps: int
) -> StepReport:
    """Descend the loss of one batch.

    Args:
        learner: what learns.
        batch: this process's part of the batch.
        num_samples: samples of the whole batch, over all processes.
        step: 0-based.
        total_steps: length of the training.

    Raises:
        StinPipeError: if the loss or its gradient is not finite (before any weight is touched), naming the
            step and the batch's videos; if the GPU's memory does not suffice.
    """
    config, optimizer, scaler = learner.config.optim, learner.optimizer, learner.scaler
    ranks = learner.ranks
    if ranks.count > 1:
        # What dropout draws follows from the step and the rank, so a checkpoint need not hold it for each.
        torch.manual_seed(_step_seed(learner.config.seed, step, ranks.rank))
    rate = learning_rate(config, step=step, total_steps=total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    training_mode(learner)
    optimizer.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    shares: list[float] = []
    has_aux = False
    try:
        clips = network_input(
            batch, stream=learner.config.stream, bound_px=learner.bound_px, device=learner.device
        )
        labels = batch.labels.to(learner.device, non_blocking=True)
        parts = min(config.accumulate, len(labels))
        for number, (part_clips, part_labels) in enumerate(
            zip(clips.tensor_split(parts), labels.tensor_split(parts), strict=True), start=1
        ):
            share = len(part_labels) / num_samples
            apart = learner.joined is not None and number < parts  # gradients are joined once, at the end
            with learner.joined.no_sync() if learner.joined and apart else nullcontext():
                with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
                    output = learner.forward(part_clips)
                loss = stream_loss(
                    output,
                    part_labels,
                    aux_weight=learner.config.stream.aux_weight,
                    label_smoothing=config.label_smoothing,
                )
                # Joining takes the mean over the processes; the shares are of the whole batch.
                scaler.scale(loss.total * (share * ranks.count)).backward()
            has_aux = loss.aux is not None
            aux = loss.main.new_zeros(()) if loss.aux is None else loss.aux
            losses.append(torch.stack([loss.total, loss.main, aux]).detach())
            shares.append(share)
    except torch.OutOfMemoryError as error:
        raise StinPipeError(
            f"out of GPU memory at step {step + 1} with {len(batch.ids)} samples of "
            f"{learner.config.num_segments} clips of {learner.config.augment.crop_px} px; "
            "lower --batch-size or raise --accumulate"
        ) from error
    scaler.unscale_(optimizer)
    limit = config.clip_norm if config.clip_norm > 0 else float("inf")
    norm_tensor = nn.utils.clip_grad_norm_(learner.network.parameters(), limit)
    # The one time in a step that the device is waited for.
    *numbers, norm = torch.cat([*losses, norm_tensor.reshape(1).float()]).tolist()
    own = [sum(map(operator.mul, numbers[place::3], shares)) for place in range(3)]
    total, main, aux = ranks.sums(own)
    # A scaler of fp16 expects gradients to overflow now and then, and skips that step itself.
    if not (math.isfinite(total) and (scaler.is_enabled() or math.isfinite(norm))):
        raise StinPipeError(
            f"step {step + 1}: the loss is {total} and its gradient's norm {norm}, which must be "
            f"finite; videos of this batch: {_listed(_suspects(batch, own[0], ranks))}. "
            "The last checkpoint is kept; lower --lr, or look at these videos"
        )
    scaler.step(optimizer)
    scaler.update()
    ranks.mean_norms(learner.network)
    if learner.average is not None:
        learner.average.update(learner.network, step=step)
    return StepReport(
        loss=total,
        main_loss=main,
        aux_loss=aux if has_aux else None,
        grad_norm=norm,
        lr=rate,
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{step}\n{rank}".encode(), digest_size=7).digest(), "big")


def _suspects(batch: Batch, own_loss: float, ranks: Ranks) -> list[str]:
    """Return the videos of those processes whose own loss is not finite, or else of all."""
    told = ranks.all_values((math.isfinite(own_loss), batch.ids))
    bad = [ids for finite, ids in told if not finite]
    return [video for ids in bad or [ids for _, ids in told] for video in ids]


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - MAX_LISTED_VIDEOS
    return ", ".join(ids[:MAX_LISTED_VIDEOS]) + (f" and {more} more" if more > 0 else "")
