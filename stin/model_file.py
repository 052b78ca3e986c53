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

from stin.config import stream_from_json, stream_to_json
from stin.shards.errors import StinPipeError
from stin.shards.publish import publish_bytes
from stin.streams import Stream, StreamConfig, StreamName, build_stream
from stin.training.state import is_as_trained

MODEL_FORMAT = 1


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
            f"{path}: not a readable safetensors file: {error}; if a training wrote it, delete it and "
            "give the train command again"
        ) from error
    if text is None:
        raise StinPipeError(
            f"{path}: holds weights but no stin-pipe model; a backbone's weights go to --init of a training"
        )
    try:
        value = json.loads(text)
        found = value.pop("format")
        if found != MODEL_FORMAT:
            raise StinPipeError(f"{path}: model format {found}, but this program reads {MODEL_FORMAT}")
        return ModelInfo(
            **{**value, "stream": stream_from_json(value["stream"]), "classes": tuple(value["classes"])}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StinPipeError(f"{path}: damaged model description: {error}") from error


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
    with torch.random.fork_rng(devices=[]):
        network = build_stream(info.stream, num_classes=len(info.classes))
    try:
        weights = load(content)
        network.load_state_dict(weights)
    except (RuntimeError, SafetensorError) as error:
        raise StinPipeError(f"{path}: the weights do not fit their description: {error}") from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise StinPipeError(f"{path}: the weights {name} are not finite; train anew with a lower --lr")
    network.eval().requires_grad_(False).to(device)
    return TrainedModel(network=network, info=info, digest=hashlib.sha256(content).hexdigest(), device=device)
