"""What a training tells while it runs, and what it comes to."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainStart:
    """What is about to be trained."""

    stream: str
    num_parameters: int
    flops_per_sample: int
    """Floating point operations of one forward pass of one sample (K clips); a training step takes three."""
    first_step: int
    """Steps that earlier lives of this training have done."""
    total_steps: int
    num_train: int
    num_held_out: int
    device: str
    num_ranks: int
    """Processes that train together."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """How a training stands after a step."""

    stream: str
    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    main_loss: float
    aux_loss: float | None
    lr: float
    samples_per_s: float
    loader_wait: float
    """Share of the time since the start that was spent waiting for samples, 0..1."""
    val_top1: float | None
    best_val_top1: float | None
    seconds_left: float
    memory_bytes: int
    """Most memory used so far: of the GPU, or of this process where it trains on the CPU."""


@dataclass(frozen=True, kw_only=True)
class TrainNotice:
    """Something a person should read."""

    message: str


@dataclass(frozen=True, kw_only=True)
class AblationStep:
    """What is trained now, for whoever watches."""

    variant: str
    seed: int
    number: int
    """1-based, of ``total``."""
    total: int


TrainEvent = TrainStart | TrainProgress | TrainNotice
OnProgress = Callable[[TrainEvent], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training came to; ``result.json`` holds the same."""

    stream: str
    recipe: str
    split: str
    epochs: int
    steps: int
    seconds: float
    samples_per_s: float
    best_val_top1: float | None
    last_val_top1: float | None
    checkpoint: str
    num_train: int
    num_held_out: int
    num_parameters: int
    num_repeated_fields: int
    notices: tuple[str, ...]
    flops_per_sample: int = 0
    """Of one forward pass; see ``TrainStart``. 0 in results of versions that did not count them."""
    model_sha256: str = ""
    """Of the model file; empty in results of versions that did not keep it."""
    was_complete: bool = False
    """Whether an earlier run of the same command had finished it."""
    list_change: str = ""
    """How the run's training list differs by now from the one it was trained on; empty where it does not."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "notices": list(self.notices)}
