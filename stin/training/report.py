"""Events and result of a training: what its caller sees of it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainStart:
    """A training begins or resumes."""

    stream: str
    num_parameters: int
    flops_per_sample: int
    """Floating point operations of one forward pass of one sample (K clips); a training step takes three."""
    first_step: int
    """Steps that were done before the training was interrupted; 0 at its start."""
    total_steps: int
    num_train: int
    num_held_out: int
    device: str
    num_ranks: int
    """Processes that train together."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A step is done."""

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
    """Share of the time since the start that went into waiting for samples, 0..1."""
    val_top1: float | None
    best_val_top1: float | None
    seconds_left: float
    memory_bytes: int
    """Peak memory: of the GPU, or of this process where it trains on the CPU."""


@dataclass(frozen=True, kw_only=True)
class TrainNotice:
    """A message that a person should read."""

    message: str


@dataclass(frozen=True, kw_only=True)
class AblationStep:
    """An ablation begins its next training."""

    variant: str
    seed: int
    number: int
    """1-based, of ``total``."""
    total: int


TrainEvent = TrainStart | TrainProgress | TrainNotice
OnProgress = Callable[[TrainEvent], None]


class Notices:
    """Passes notices on as events, and keeps their messages for the result."""

    def __init__(self, on_event: OnProgress) -> None:
        self.on_event = on_event
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Pass a message on."""
        self.messages.append(message)
        self.on_event(TrainNotice(message=message))


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training; ``result.json`` holds the same."""

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
    """Of one forward pass, see ``TrainStart``; 0 in results of versions that did not count them."""
    model_sha256: str = ""
    """Of the model file; empty in results of versions that did not store it."""
    model_step: int | None = None
    """Step whose weights are the model; None in results of versions that did not store it."""
    stopped_early: bool = False
    """Whether patience ended the training."""
    continued: tuple[Mapping[str, int], ...] = ()
    """The continuations of the training, as its configuration has them."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainResult":
        """Read what ``to_json`` wrote.

        Raises:
            KeyError, TypeError: it is no result.
        """
        return cls(
            **{**value, "notices": tuple(value["notices"]), "continued": tuple(value.get("continued", ()))}
        )

    device: str = ""
    """What it was trained on; empty in results of versions that did not store it."""
    was_complete: bool = False
    """Whether the training was finished before this call."""
    list_change: str = ""
    """How the run's training list has changed since this training; empty if it has not."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        return {**asdict(self), "notices": list(self.notices), "continued": list(self.continued)}


class Pace:
    """Counts samples and seconds since this process began to train, and the seconds it waited for the loader.

    Rates are for people to read; no decision about what is computed depends on them.
    """

    def __init__(self, *, seconds_before: float) -> None:
        self._seconds_before = seconds_before
        self._begun = self._saved = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0
        self.num_steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting, except for the first batch, for which workers start."""
        begun = time.monotonic()
        yield
        if self.num_steps:
            self._waited += time.monotonic() - begun
        else:
            self._begun = time.monotonic()

    def stepped(self, num_samples: int) -> None:
        """Count one step of this many samples."""
        self.num_steps += 1
        self._num_samples += num_samples

    def saved(self) -> None:
        """Note that a checkpoint has just been written."""
        self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of the whole training, with those before an interruption."""
        return self._seconds_before + time.monotonic() - self._begun

    @property
    def since_saved(self) -> float:
        """Seconds since this process last wrote a checkpoint, or since its start."""
        return time.monotonic() - self._saved

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self._num_samples / max(time.monotonic() - self._begun, 1e-9)

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for the loader, 0..1."""
        return self._waited / max(time.monotonic() - self._begun, 1e-9)
