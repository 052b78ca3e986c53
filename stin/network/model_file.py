"""A finished model as one safetensors file: weights, classes, preprocessing and the stream's configuration.

Everything beside the weights is one JSON text in the file's metadata, so a reader needs neither this
program's classes nor the run the model came from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from stin_pipe.stin.network.backbones import check_backbone_name
from stin_pipe.stin.network.streams import Stream, StreamConfig, StreamName, build_stream
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes
from stin_pipe.stin.training.config import (
    MAX_CROP_PX,
    MIN_CROP_PX,
    require_kinds,
    stream_from_json,
    stream_to_json,
)
from stin_pipe.stin.training.state import is_as_trained

MODEL_FORMAT = 1
OTHER_MODEL = "give another model, or train the stream again"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model needs beside its weights.

    Attributes:
        stream: configuration of the network.
        classes: class names by label.
        num_segments: K of the training.
        crop_px: side of the square it sees.
        flip: whether it was trained on mirrored clips, and so may be tested on them.
        bound_px: motion that the normalised flow calls 2.21 (see ``transforms``).
        training: recipe, split, step, validation result: for people.
        extraction: how its frames and flow were made, as the caller of the training gave it.
    """

    stream: StreamConfig
    classes: tuple[str, ...]
    num_segments: int
    crop_px: int
    flip: bool
    bound_px: float
    training: Mapping[str, Any] = field(default_factory=dict)
    extraction: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stream_name(self) -> StreamName:
        """Which of the two streams the model is."""
        return stream_to_json(self.stream)["name"]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A loaded model in evaluation mode."""

    network: Stream
    info: ModelInfo
    digest: str
    """sha256 of the file."""
    device: torch.device


def save_model(path: Path, *, weights: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    """Publish a model file whole."""
    text = json.dumps(
        {**asdict(info), "format": MODEL_FORMAT, "stream": stream_to_json(info.stream)}, sort_keys=True
    )
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    publish_bytes(path, save(tensors, metadata={"stin_model": text}))


def read_model_info(path: Path) -> ModelInfo:
    """Read what a model file says of itself, without its weights.

    Raises:
        StinPipeError: if it is missing, damaged, or no model of this program.
    """
    if not path.is_file():
        raise StinPipeError(f"{path}: no such model file; train the stream first, or give another path")
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get("stin_model")
    except (SafetensorError, OSError) as error:
        raise StinPipeError(
            f"{path}: no model file ({error}); a training writes RUN/train-STREAM/splitN/model.safetensors: "
            "give one of these, or the train command again if this one is damaged"
        ) from error
    if text is None:
        raise StinPipeError(
            f"{path}: holds weights but no stin-pipe model; a backbone's weights go to --init of a training"
        )
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"it must be an object, got {type(value).__name__}")
        found = value.pop("format")
        if found != MODEL_FORMAT:
            raise StinPipeError(f"{path}: model format {found}, but this program reads {MODEL_FORMAT}")
        info = ModelInfo(
            **{**value, "stream": stream_from_json(value["stream"]), "classes": tuple(value["classes"])}
        )
        _check_info(info)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StinPipeError(f"{path}: damaged model description: {_said(error)}; {OTHER_MODEL}") from error
    return info


def _check_info(info: ModelInfo) -> None:
    """Refuse values that no training writes.

    Raises:
        ValueError: names the value.
    """
    require_kinds(info)
    check_backbone_name(info.stream.backbone)
    if len(info.classes) < 2 or len(set(info.classes)) < len(info.classes):
        raise ValueError(f"classes must be two or more different names, got {info.classes[:5]}")
    if not MIN_CROP_PX <= info.crop_px <= MAX_CROP_PX:
        raise ValueError(f"crop_px must be in {MIN_CROP_PX}..{MAX_CROP_PX}, got {info.crop_px}")
    if info.num_segments < 1:
        raise ValueError(f"num_segments must be >= 1, got {info.num_segments}")
    if not info.bound_px > 0:
        raise ValueError(f"bound_px must be > 0, got {info.bound_px}")
    for name in ("training", "extraction"):
        if not isinstance(getattr(info, name), dict):
            raise ValueError(f"{name} must be an object, got {getattr(info, name)!r}")


def load_model(path: Path, *, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a model for scoring.

    Raises:
        StinPipeError: if it is missing, damaged, or no model of this program.
    """
    if path.is_file() and not is_as_trained(path, path.read_bytes()):
        raise StinPipeError(
            f"{path}: damaged since the training wrote it; give the train command again, which writes it anew"
        )
    info = read_model_info(path)
    content = path.read_bytes()
    device = torch.device(device)
    try:
        weights = load(content)
        _check_fit(weights, info)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise StinPipeError(
            f"{path}: the weights do not fit their description: {error}; {OTHER_MODEL}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        network = build_stream(info.stream, num_classes=len(info.classes))
    network.load_state_dict(weights)
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise StinPipeError(f"{path}: the weights {name} are not finite; train anew with a lower --lr")
    network.eval().requires_grad_(False).to(device)
    return TrainedModel(network=network, info=info, digest=hashlib.sha256(content).hexdigest(), device=device)


def _check_fit(weights: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    """Compare names and shapes with a network that has no memory: a description may ask for any amount of it.

    Raises:
        ValueError: names the first weights that differ.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        wanted = build_stream(info.stream, num_classes=len(info.classes)).state_dict()
    for name in sorted({*weights, *wanted}):
        there, expected = (
            tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (weights, wanted)
        )
        if there != expected:
            raise ValueError(f"{name} is {there}, wanted {expected}")


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
