"""The optimiser, the learning rate of each step, and averaged weights.

The rate is a pure function of the step, so a resumed training needs no scheduler state.
"""

import math

import torch
from torch import nn

from stin_pipe.stin.training.config import OptimConfig

RATE_DROP = 0.1


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of the trainable parameters; biases, norms and gamma get no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: OptimConfig, *, step: int, total_steps: int) -> float:
    """Return the rate of step ``step`` (0-based) of ``total_steps``.

    Warm-up rises linearly to the full rate; after it, ``step`` divides by 10 at each milestone (a share of
    the whole length) and ``cosine`` falls from the full rate to zero at the end.
    """
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "step":
        passed = sum(step >= round(share * total_steps) for share in config.milestones)
        return config.lr * RATE_DROP**passed
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


class AveragedWeights:
    """An exponential moving average of a model's weights and batch statistics."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Take in the weights after step ``step`` (0-based); early steps weigh more, so the start is
        forgotten."""
        decay = min(self.decay, (step + 1) / (step + 10))
        for name, value in model.state_dict().items():
            average = self.values[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
