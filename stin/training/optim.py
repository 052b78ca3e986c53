"""The loss, the optimiser, the learning rate of each step, and averaged weights.

The rate is a pure function of the step, so a resumed training needs no scheduler state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from stin_pipe.stin.network.streams import StreamOutput
from stin_pipe.stin.training.config import OptimConfig

RATE_DROP = 0.1


@dataclass(frozen=True, kw_only=True)
class StreamLoss:
    """A stream's loss and its parts; ``total`` is minimised."""

    total: torch.Tensor
    main: torch.Tensor
    aux: torch.Tensor | None


def stream_loss(
    output: StreamOutput, labels_B: torch.Tensor, *, aux_weight: float, label_smoothing: float = 0.0
) -> StreamLoss:
    """Return L = CE(main, y) + aux_weight * CE(aux, y), each the mean over the samples.

    Source: our reconstruction of STIN's "auxiliary losses"; weight 0.5 lies between OFF (1) and GoogLeNet
    (0.3).
    """
    main = functional.cross_entropy(output.logits.float(), labels_B, label_smoothing=label_smoothing)
    if output.aux_logits is None:
        return StreamLoss(total=main, main=main, aux=None)
    aux = functional.cross_entropy(output.aux_logits.float(), labels_B, label_smoothing=label_smoothing)
    # At weight zero the auxiliary loss is left out, not multiplied: a NaN there must not reach the main head.
    total = main if aux_weight == 0 else main + aux_weight * aux
    return StreamLoss(total=total, main=main, aux=aux)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of the trainable parameters; biases, norms and gamma have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: OptimConfig, *, step: int, total_steps: int) -> float:
    """Return the learning rate of step ``step`` (0-based) of ``total_steps``.

    It rises linearly during the warm-up. After that, the schedule ``step`` divides it by 10 at each milestone
    (a share of the whole length), and ``cosine`` lets it fall to zero at the end.
    """
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "step":
        passed = sum(step >= round(share * total_steps) for share in config.milestones)
        return config.lr * RATE_DROP**passed
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps under one schedule: the training as it was planned, or one continuation of it."""

    first_step: int
    num_steps: int


def continued_rate(config: OptimConfig, phases: Sequence[Phase], *, step: int) -> float:
    """Return the learning rate of step ``step`` (0-based) of a training and its continuations.

    A continuation restarts ``cosine`` without warm-up: the rate falls from its largest value to zero again.
    Under ``step`` it stays what it was in the last step before.

    Args:
        config: of the training.
        phases: the training, then each continuation, in order.
        step: of the whole training.

    Source: warm restarts: Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    number = max(index for index, phase in enumerate(phases) if phase.first_step <= step)
    phase = phases[number]
    if number == 0:
        return learning_rate(config, step=step, total_steps=phase.num_steps)
    if config.schedule == "step":
        return continued_rate(config, phases[:number], step=phase.first_step - 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - phase.first_step) / phase.num_steps))


class AveragedWeights:
    """An exponential moving average of a model's weights and batch statistics."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Add the weights after step ``step`` (0-based)."""
        # A lower decay at first lets the random start be forgotten.
        decay = min(self.decay, (step + 1) / (step + 10))
        for name, value in model.state_dict().items():
            average = self.values[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
