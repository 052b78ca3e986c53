"""The complete configuration of one training, and its life as JSON.

Everything in ``TrainConfig`` changes the weights that come out; what changes only where and how fast they
come is in ``train.Runtime``. Recipes (``recipes``) make complete configurations; ``override`` changes what
flags change.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from stin_pipe.stin.clips.transforms import TEST_CROP_SHARE
from stin_pipe.stin.network.streams import SpatialConfig, StreamConfig, StreamName, TemporalConfig
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest

MIN_CROP_PX, MAX_CROP_PX = 16, 4096

_NO_SINGLE_SETTINGS = ("recipe", "stream", "augment", "optim")
"""Fields that stand for many settings."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How a training clip is cut.

    Attributes:
        crop_px: side of the square the network sees; lowered to the stored size by ``fit_to_manifest``.
        scales: crop sides as shares of the stored short side.
        flip: mirror half of the samples; off where left and right are the label.
        jitter: strength of random brightness, contrast and colour of RGB clips (0 none, 0.4 strong).
    """

    crop_px: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not MIN_CROP_PX <= self.crop_px <= MAX_CROP_PX:
            raise ValueError(f"crop_px must be in {MIN_CROP_PX}..{MAX_CROP_PX}, got {self.crop_px}")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be shares in (0, 1], got {self.scales}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be in [0, 1], got {self.jitter}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are descended.

    Attributes:
        kind: ``sgd`` (momentum, as TSN) or ``adamw``.
        length: length of the training in units of ``unit``.
        schedule: ``step`` divides the rate by 10 at each milestone, ``cosine`` falls to zero at the end.
        milestones: shares of the length, for ``step``.
        warmup: share of the length over which the rate rises linearly from near zero.
        clip_norm: largest gradient norm; 0 does not clip.
        batch_size: samples a step (a sample is K clips).
        accumulate: number of equal parts a batch is run in; saves memory. Batch norm sees the parts.
        ema_decay: decay of the averaged weights that are validated and exported; 0 exports the weights
            themselves.
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
class TrainConfig:
    """One training from start to end.

    Attributes:
        recipe: name of the recipe it came from.
        num_segments: K, clips of one training sample.
        init: weights file to start from, or empty to start from scratch.
        partial_bn: with ``init``, keep the backbone's batch norms but the first as they were (TSN).
        val_share: part of the training list held out for validation; the test list is never used.
        val_every_epochs: epochs between validations; the last step is always validated.
        select: which weights the training hands on, the ``last`` or the ``best`` on the held-out part.
        log_every_steps: steps between lines of metrics.jsonl.
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

    @property
    def stream_name(self) -> StreamName:
        """Which of the two streams this trains."""
        return "spatial" if isinstance(self.stream, SpatialConfig) else "temporal"


def override(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Return the configuration with single fields changed by name, wherever in it they live.

    A value of None changes nothing, so that unset flags can be passed on. ``epochs=N`` sets the length in
    epochs. ``injection=False`` makes the stream plain, whichever stream it is.

    Raises:
        ValueError: for a name that no part of this configuration has, or a value that its rule refuses.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if (epochs := changes.pop("epochs", None)) is not None:
        changes |= {"length": epochs, "unit": "epochs"}
    if (injection := changes.pop("injection", None)) is not None:
        _require_kind("injection", injection, bool)
        form = "difference" if config.stream_name == "spatial" else "attention"
        if not injection and changes.setdefault(form, "none") != "none":
            raise ValueError(f"injection = false and {form} = {changes[form]!r} exclude each other; give one")
    parts: dict[str, dict[str, Any]] = {"stream": {}, "augment": {}, "optim": {}, "": {}}
    for name, value in changes.items():
        if name in _NO_SINGLE_SETTINGS:
            raise ValueError(
                f"{name!r} is no single setting; choose a recipe with --recipe, and give other settings by "
                "their own names"
            )
        for part, chosen in parts.items():
            owner = getattr(config, part) if part else config
            if name in {item.name for item in fields(owner)}:
                _require_kind(name, value, get_type_hints(type(owner))[name])
                chosen[name] = value
                break
        else:
            known = sorted(
                item.name
                for owner in (config, config.stream, config.augment, config.optim)
                for item in fields(owner)
                if item.name not in _NO_SINGLE_SETTINGS
            )
            near = get_close_matches(name, known) or known
            raise ValueError(
                f"the {config.stream_name} stream has no setting {name!r}; "
                f"{'known' if near is known else 'near it'}: {', '.join(near)}"
            )
    whole = parts.pop("")
    return replace(
        config, **{part: replace(getattr(config, part), **values) for part, values in parts.items()}, **whole
    )


def require_kinds(owner: Any) -> None:
    """Refuse a configuration that holds a value of a wrong kind, as one that was read from a file may.

    Raises:
        ValueError: names the field, what it must be and what it is.
    """
    hints = get_type_hints(type(owner))
    for item in fields(owner):
        _require_kind(item.name, getattr(owner, item.name), hints[item.name])


def _require_kind(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that the field cannot hold, before a comparison or a step stumbles over it."""
    literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    if literals:
        known = [choice for part in literals for choice in get_args(part)]
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        return
    kinds: dict[Any, tuple[Any, str]] = {
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
        str: (str, "text"),
        tuple: (tuple, "a list"),
    }
    kind, wanted = kinds.get(get_origin(hint) or hint, (object, ""))
    if not isinstance(value, kind) or (isinstance(value, bool) and hint in (int, float)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    for element in value if isinstance(value, tuple) else ():
        _require_kind(f"each of {name}", element, get_args(hint)[0])


def fit_to_manifest(config: TrainConfig, manifest: Manifest) -> TrainConfig:
    """Lower ``crop_px`` to what the smallest stored video holds (a multiple of 8 pixels), never enlarging
    pictures."""
    if not manifest.videos:
        raise StinPipeError(
            "this run has no extracted video; see extract/failures.jsonl and run extract again"
        )
    short_px = min(min(video.height, video.width) for video in manifest.videos.values())
    held_px = max(16, int(short_px * TEST_CROP_SHARE) // 8 * 8)
    if config.augment.crop_px <= held_px:
        return config
    return replace(config, augment=replace(config.augment, crop_px=held_px))


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """Return plain JSON values that ``config_from_json`` turns back into an equal configuration."""
    value = asdict(config)
    value["stream"] = stream_to_json(config.stream)
    value["augment"]["scales"] = list(config.augment.scales)
    value["optim"]["milestones"] = list(config.optim.milestones)
    return value


def config_from_json(value: Mapping[str, Any]) -> TrainConfig:
    """Read back what ``config_to_json`` made.

    Raises:
        StinPipeError: if a field is missing or unknown (written by another version).
    """
    try:
        augment = AugmentConfig(**{**value["augment"], "scales": tuple(value["augment"]["scales"])})
        optim = OptimConfig(**{**value["optim"], "milestones": tuple(value["optim"]["milestones"])})
        parts = {"stream": stream_from_json(value["stream"]), "augment": augment, "optim": optim}
        return TrainConfig(**{**value, **parts})
    except (KeyError, TypeError, ValueError) as error:
        raise StinPipeError(f"not a training configuration of this version: {error}") from error


def stream_to_json(config: StreamConfig) -> dict[str, Any]:
    """Return a stream's configuration as JSON values, with its name."""
    return {"name": "spatial" if isinstance(config, SpatialConfig) else "temporal", **asdict(config)}


def stream_from_json(value: Mapping[str, Any]) -> StreamConfig:
    """Read back what ``stream_to_json`` made.

    Raises:
        KeyError, TypeError, ValueError: it made no such thing.
    """
    kinds = {"spatial": SpatialConfig, "temporal": TemporalConfig}
    found = kinds[value["name"]](**{name: item for name, item in value.items() if name != "name"})
    require_kinds(found)
    return found


def json_differences(old: Any, new: Any, *, at: str = "") -> list[str]:
    """List where two JSON values differ, one line ``place: old -> new`` each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in json_differences(
                old.get(name, "(absent)"), new.get(name, "(absent)"), at=f"{at}.{name}" if at else name
            )
        ]
    return [] if old == new else [f"{at}: {old!r} -> {new!r}"]
