"""A finished model as one safetensors file: weights, classes, preprocessing and the stream's configuration.

Everything beside the weights is one JSON text in the file's metadata, so other programs can read it, and the
run that the model came from is not needed.
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
from stin_pipe.stin.network.config import MAX_CROP_PX, MIN_CROP_PX, StreamConfig, StreamName
from stin_pipe.stin.network.streams import Stream, build_stream
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, json_object, read_bytes, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.from_json import from_json
from stin_pipe.stin.shards.publish import publish_bytes

MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.json"
"""What a training writes beside its model: among other things the sha256 of the model file."""
MODEL_FORMAT = 1
_MODEL_KEY = "stin_model"
OTHER_MODEL = "give another model, or train the stream again"
MODEL = FileKind(name="model", max_bytes=16 << 30, next_step=OTHER_MODEL)
_RESULT = FileKind(name="result")


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
        return self.stream.name


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A loaded model in evaluation mode."""

    network: Stream
    info: ModelInfo
    digest: str
    """sha256 of the file."""
    device: torch.device


def save_model(path: Path, *, weights: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    """Write a model file; a reader sees the old one or the new one, never a part."""
    text = json.dumps({**asdict(info), "format": MODEL_FORMAT}, sort_keys=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    publish_bytes(path, save(tensors, metadata={_MODEL_KEY: text}))


def read_model_info(path: Path) -> ModelInfo:
    """Read a model file's description without its weights; ``load_model`` returns it with them.

    Raises:
        StinPipeError: if it is missing, damaged, or no model of this program.
    """
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _not_a_model(path, error) from error
    return _info_of(path, metadata)


def _info_of(path: Path, metadata: Mapping[str, str]) -> ModelInfo:
    """Parse and check the description in a file's metadata."""
    text = metadata.get(_MODEL_KEY)
    if text is None:
        raise StinPipeError(
            f"{path}: holds weights but no stin-pipe model; a backbone's weights go to --init of a training"
        )

    try:
        value = json_object(text)
        # The version before the fields: those of another version need not be known here.
        version = value.pop("format")
        if version != MODEL_FORMAT:
            raise StinPipeError(f"{path}: model format {version}, but this program reads {MODEL_FORMAT}")
        info: ModelInfo = from_json(ModelInfo, value)
        _check_info(info)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise StinPipeError(f"{path}: damaged model description: {reason}; {OTHER_MODEL}") from error
    return info


def _check_info(info: ModelInfo) -> None:
    """Refuse values that no training writes.

    Raises:
        ValueError: names the value.
    """
    check_backbone_name(info.stream.backbone)
    if len(info.classes) < 2 or len(set(info.classes)) < len(info.classes):
        raise ValueError(f"classes must be two or more different names, got {info.classes[:5]}")
    if not MIN_CROP_PX <= info.crop_px <= MAX_CROP_PX:
        raise ValueError(f"crop_px must be in {MIN_CROP_PX}..{MAX_CROP_PX}, got {info.crop_px}")
    if info.num_segments < 1:
        raise ValueError(f"num_segments must be >= 1, got {info.num_segments}")
    if not info.bound_px > 0:
        raise ValueError(f"bound_px must be > 0, got {info.bound_px}")


def load_model(path: Path, *, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a model for scoring; the file is read and hashed once.

    Raises:
        StinPipeError: if it is missing, damaged, or no model of this program.
    """
    _require_file(path)
    content = read_bytes(path, MODEL)
    digest = hashlib.sha256(content).hexdigest()
    if not is_as_trained(path, digest):
        raise StinPipeError(
            f"{path}: damaged since the training wrote it; run the train command again, which rewrites it"
        )

    try:
        weights = load(content)
    except (SafetensorError, ValueError) as error:
        raise _not_a_model(path, error) from error
    info = _info_of(path, _metadata_of(content))

    # Before the network is built: a damaged description may ask for any amount of memory.
    try:
        _check_fit(weights, info)
    except (RuntimeError, ValueError) as error:
        raise StinPipeError(
            f"{path}: the weights do not fit their description: {error}; {OTHER_MODEL}"
        ) from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise StinPipeError(f"{path}: the weights {name} are not finite; train again with a lower --lr")

    # The random initial weights are overwritten; drawing them must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        network = build_stream(info.stream, num_classes=len(info.classes))
    network.load_state_dict(weights)
    device = torch.device(device)
    network.eval().requires_grad_(False).to(device)
    return TrainedModel(network=network, info=info, digest=digest, device=device)


def is_as_trained(path: Path, digest: str) -> bool:
    """Tell whether a training's model file still is what the training wrote.

    Args:
        path: of the model file. The name decides: only ``model.safetensors`` has a result beside it that
            says its sha256; any other file counts as whole.
        digest: sha256 of its content.
    """
    if path.name != MODEL_FILE:
        return True
    try:
        expected = read_json(path.parent / RESULT_FILE, _RESULT).get("model_sha256")
    except (FileNotFoundError, UnreadableFileError):
        return True  # a model on its own
    return not expected or digest == expected


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise StinPipeError(f"{path}: no such model file; train the stream first, or give another path")


def _not_a_model(path: Path, error: Exception) -> StinPipeError:
    return StinPipeError(
        f"{path}: no model file ({error}); a training writes RUN/train-STREAM/splitN/{MODEL_FILE}: "
        "give one of these, or the train command again if this one is damaged"
    )


def _metadata_of(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file in memory; `load` has checked that its header is whole.

    The package hands out metadata only for a path, which would mean to open the file a second time.
    """
    length = int.from_bytes(content[:8], "little")
    return json_object(content[8 : 8 + length]).get("__metadata__") or {}


def _check_fit(weights: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    """Compare names and shapes with a network that has no memory: a description may ask for any amount of it.

    Raises:
        ValueError: names the first weights that differ.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        expected = build_stream(info.stream, num_classes=len(info.classes)).state_dict()
    for name in sorted({*weights, *expected}):
        actual_shape, expected_shape = (
            tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (weights, expected)
        )
        if actual_shape != expected_shape:
            raise ValueError(f"{name} is {actual_shape}, expected {expected_shape}")
