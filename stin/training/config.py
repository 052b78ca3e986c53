"""The complete configuration of one training, and its form as JSON.

``TrainConfig`` holds everything that decides the resulting weights; where and how fast they are computed is
in ``device.Runtime``. Recipes (``recipes``) return complete configurations, in which ``override`` changes
single values.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_type_hints

from stin_pipe.stin.clips.transforms import AugmentConfig, fitting_crop_px
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig, StreamName
from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError
from stin_pipe.stin.shards.from_json import from_json
from stin_pipe.stin.shards.schema import Manifest

_NO_SINGLE_SETTINGS = ("recipe", "name", "stream", "augment", "optim", "continued")
"""Fields that stand for many settings, or that a recipe decides."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are optimised.

    Attributes:
        kind: ``sgd`` (momentum, as TSN) or ``adamw``.
        length: length of the training in units of ``unit``.
        schedule: ``step`` divides the learning rate by 10 at each milestone, ``cosine`` lets it fall to zero.
        milestones: for ``step``, as shares of the length.
        warmup: share of the length over which the rate rises linearly from near zero.
        clip_norm: largest gradient norm; 0 does not clip.
        batch_size: samples of one step; a sample is K clips of one video.
        accumulate: number of parts in which a batch is computed, to save memory. Batch norm sees the parts.
        ema_decay: decay of the moving average of the weights, which is validated and exported; 0 exports the
            weights themselves.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    length: int = 80
    unit: Literal["steps", "epochs"] = "epochs"
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    clip_norm: float = 0.0
    batch_size: int = 128
    accumulate: int = 1
    label_smoothing: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "length", "batch_size", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not all(0 <= share <= 1 for share in self.milestones):
            raise ValueError(f"milestones must be shares in [0, 1], got {self.milestones}")
        for name in ("momentum", "ema_decay", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Epochs that were added to a finished training.

    Attributes:
        from_step: steps that the training had taken.
        epochs: epochs that were added; see ``optim.continued_rate`` for their learning rate.
    """

    from_step: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the result of one training.

    Attributes:
        recipe: name of the recipe that it started from.
        num_segments: K, clips of one training sample.
        init: weights file to start from; empty starts from scratch.
        partial_bn: with ``init``, freeze the backbone's batch norms except the first (TSN).
        val_share: share of the training list held out for validation; the test list is never used.
        val_every_epochs: epochs between validations; the last step is always validated.
        select: which weights become the model: the ``last``, or the ``best`` on the held-out part.
        log_every_steps: steps between lines of metrics.jsonl.
        patience: end once the held-out loss has not improved for so many validations, and make the weights
            with the lowest one the model; 0 trains to the end.
        continued: what was added to the training once it had finished.
    """

    recipe: str
    stream: StreamConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    num_segments: int = 3
    seed: int = 0
    init: str = ""
    partial_bn: bool = True
    val_share: float = 0.05
    val_every_epochs: int = 1
    select: Literal["last", "best"] = "last"
    log_every_steps: int = 20
    patience: int = 0
    continued: tuple[Continuation, ...] = ()

    def __post_init__(self) -> None:
        if self.num_segments < 1:
            raise ValueError(f"num_segments must be >= 1, got {self.num_segments}")
        if isinstance(self.stream, SpatialConfig) and not self.stream.is_plain and self.num_segments < 2:
            raise ValueError("differences need num_segments >= 2, got 1")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must be in -2**63..2**63 - 1, got {self.seed}")
        if not 0 <= self.val_share < 0.9:
            raise ValueError(f"val_share must be in [0, 0.9), got {self.val_share}")
        for name in ("val_every_epochs", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.patience < 0:
            raise ValueError(f"patience must be >= 0, got {self.patience}")
        if self.patience and self.val_share == 0:
            raise ArgumentError(
                f"--patience {self.patience}: it watches the loss on held-out videos, but nothing is "
                "held out (val_share = 0); give --val-share 0.1, or leave --patience out",
                "patience",
            )

    @property
    def stream_name(self) -> StreamName:
        """The stream that is trained."""
        return self.stream.name


def override(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Return the configuration with these fields changed, in whichever of its parts they are.

    A value of None changes nothing, so that unset flags can be passed on. ``epochs=N`` sets the length in
    epochs. ``injection=False`` makes either stream plain.

    Raises:
        ValueError: if no part of the configuration has such a field, or the field refuses the value.
    """
    changes = {name: value for name, value in changes.items() if value is not None}

    # Two names that stand for fields of other names.
    if (epochs := changes.pop("epochs", None)) is not None:
        changes |= {"length": epochs, "unit": "epochs"}
    if (injection := changes.pop("injection", None)) is not None:
        from_json(bool, injection, name="injection")
        form = "difference" if config.stream_name == "spatial" else "attention"
        if not injection and changes.setdefault(form, "none") != "none":
            raise ValueError(f"injection = false and {form} = {changes[form]!r} exclude each other; give one")

    parts: dict[str, dict[str, Any]] = {"stream": {}, "augment": {}, "optim": {}, "": {}}
    for name, value in changes.items():
        if name in _NO_SINGLE_SETTINGS:
            raise ValueError(
                f"{name!r} cannot be set by itself; choose a recipe with --recipe, and give each setting by "
                "its own name"
            )
        for part, values in parts.items():
            owner = getattr(config, part) if part else config
            if name in {item.name for item in fields(owner)}:
                values[name] = from_json(get_type_hints(type(owner))[name], value, name=name)
                break
        else:
            names = sorted(
                item.name
                for owner in (config, config.stream, config.augment, config.optim)
                for item in fields(owner)
                if item.name not in _NO_SINGLE_SETTINGS
            )
            near = get_close_matches(name, names)
            advice = f"did you mean {' or '.join(near)}?" if near else f"its settings are {', '.join(names)}"
            raise ValueError(f"the {config.stream_name} stream has no setting {name!r}; {advice}")

    # The parts first, so that the rules of the whole see the new parts.
    whole = parts.pop("")
    return replace(
        config, **{part: replace(getattr(config, part), **values) for part, values in parts.items()}, **whole
    )


def fit_to_manifest(config: TrainConfig, manifest: Manifest) -> TrainConfig:
    """Lower ``crop_px`` to what the smallest stored video holds; pictures are never enlarged."""
    crop_px = fitting_crop_px(config.augment.crop_px, manifest)
    return replace(config, augment=replace(config.augment, crop_px=crop_px))


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """Return JSON values that ``config_from_json`` reads back."""
    value = asdict(config)
    value["augment"]["scales"] = list(config.augment.scales)
    value["optim"]["milestones"] = list(config.optim.milestones)
    value["continued"] = list(value["continued"])
    # Trainings are known by these values: those that earlier versions began have neither of the two.
    return {name: item for name, item in value.items() if item or name not in ("patience", "continued")}


def config_from_json(value: Mapping[str, Any]) -> TrainConfig:
    """Read a configuration that ``config_to_json`` wrote.

    Raises:
        StinPipeError: if a field is missing, unknown or wrong, as after a change of the format.
    """
    try:
        return from_json(TrainConfig, value)
    except ValueError as error:
        raise StinPipeError(f"not a training configuration of this version: {error}") from error


def json_differences(old: Any, new: Any, *, at: str = "") -> list[str]:
    """List the differences of two JSON values, as lines ``key.key: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in json_differences(
                old.get(name, "(absent)"), new.get(name, "(absent)"), at=f"{at}.{name}" if at else name
            )
        ]
    return [] if old == new else [f"{at}: {old!r} -> {new!r}"]
