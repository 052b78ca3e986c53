"""What a training tells while it runs, and what it comes to."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


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


@dataclass(frozen=True, kw_only=True)
class TrainNotice:
    """Something a person should read."""

    message: str


OnProgress = Callable[[TrainProgress | TrainNotice], None]


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
    was_complete: bool = False
    """Whether an earlier run of the same command had finished it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "notices": list(self.notices)}
