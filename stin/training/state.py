"""The folder of a training: its configuration, checkpoints and result, from which it resumes."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stin_pipe.stin.network.model_file import MODEL, MODEL_FILE, RESULT_FILE, is_as_trained
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_bytes, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.run_dir import is_being_continued
from stin_pipe.stin.training.checkpoint import Checkpoint, load_latest, save_checkpoint
from stin_pipe.stin.training.config import TrainConfig, json_differences
from stin_pipe.stin.training.holdout import describe_list_change
from stin_pipe.stin.training.optim import AveragedWeights

CONFIG_FILE = "config.json"
CHECKPOINT_FOLDER = "checkpoints"
TRAINING_LIST = "training_list"
"""Key of the digest of the training list."""
INIT_DIGEST = "init_sha256"
"""Key of the digest of the weights file that a training starts from."""
NUM_TRAIN = "num_train"
"""Key of the number of videos on the training list; it is for messages, and does not identify a training."""
BEST_FILE = "best.safetensors"
_CONFIG = FileKind(name="configuration of the training")
_RESULT = FileKind(name="result of the training", next_step="delete it to finish the training again")

_FLAGS = {
    "config.augment.flip": "--no-flip",
    "config.init": "--init",
    "config.num_segments": "--segments",
    "config.patience": "--patience",
    "config.optim.accumulate": "--accumulate",
    "config.optim.batch_size": "--batch-size",
    "config.optim.length": "--epochs",
    "config.optim.lr": "--lr",
    "config.optim.unit": "--epochs",
    "config.recipe": "--recipe",
    "config.seed": "--seed",
    "config.stream.attention": "--plain",
    "config.stream.aux_weight": "--aux-weight",
    "config.stream.backbone": "--backbone",
    "config.stream.difference": "--plain",
    "config.val_share": "--val-share",
    INIT_DIGEST: "--init, sha256",
    "split": "--split",
}
"""The flags that decide values of a training's identity."""


@dataclass(kw_only=True)
class LoopState:
    """How far the loop is; a checkpoint holds it beside weights, optimiser and generator."""

    step: int = 0
    best_top1: float = -1.0
    """Top-1 on the held-out part of the best weights so far; -1 before the first validation."""
    best_step: int = 0
    best_loss: float = math.inf
    """Lowest loss on the held-out part so far."""
    num_worse: int = 0
    """Validations since then."""
    last_top1: float = -1.0
    to_validate: bool = False
    """Whether the validation after this step failed, and so must be repeated before the next step."""
    num_repeated: int = 0
    """Flow fields that were repeated so far, because videos are shorter than a stack."""
    seconds: float = 0.0
    """Training time, with that before interruptions; the only number here that resuming may change."""

    def has_stopped(self, config: TrainConfig) -> bool:
        """Tell whether patience has ended the training."""
        return 0 < config.patience <= self.num_worse


@dataclass(frozen=True, kw_only=True)
class TrainingFolder:
    """What a training's folder holds."""

    checkpoint: Checkpoint | None
    result: Mapping[str, Any] | None
    """The result, if the training is finished."""
    list_change: str = ""
    """How the run's training list has changed since this finished training; empty if it has not."""


def open_training(
    folder: Path, *, identity: Mapping[str, Any], num_train: int, claim: bool = True
) -> TrainingFolder:
    """Claim the folder for this training, or return what it holds of the training so far.

    A finished training with these settings is returned even if the run's training list has changed since.

    Args:
        folder: created if it does not exist.
        identity: everything that decides the result, as JSON values.
        num_train: videos on the training list.
        claim: whether this process writes the configuration; of several that train together, one does.

    Raises:
        StinPipeError: if the folder holds a training with another identity, or cannot be written; if its
            result, its configuration or each of its checkpoints is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StinPipeError(f"{folder}: cannot be made ({error.strerror}); give another --run") from error
    identity = json.loads(json.dumps(identity))
    result_path, model_path = folder / RESULT_FILE, folder / MODEL_FILE
    is_begun = result_path.exists() or any((folder / CHECKPOINT_FOLDER).glob("step-*"))
    is_finished = result_path.exists() and model_path.exists() and not is_being_continued(folder)
    list_change = ""
    if is_begun:
        list_change = _require_same(folder, identity, num_train, is_finished=is_finished)
    elif claim:  # a first try with other settings that took no step is replaced: nothing is lost
        publish_json(folder / CONFIG_FILE, {**identity, NUM_TRAIN: num_train})
    if not is_finished:
        return TrainingFolder(checkpoint=load_latest(folder / CHECKPOINT_FOLDER), result=None)

    result = read_json(result_path, _RESULT)
    if is_as_trained(model_path, hashlib.sha256(read_bytes(model_path, MODEL)).hexdigest()):
        return TrainingFolder(checkpoint=None, result=result, list_change=list_change)

    # The model can be written again from the last checkpoint, as long as the training list is the same.
    problem = f"{model_path}: damaged (its sha256 is not that of {RESULT_FILE})"
    if list_change:
        raise StinPipeError(
            f"{problem}, and the run's training list has changed since ({list_change}); "
            f"delete {folder} to train again"
        )
    checkpoint = load_latest(folder / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise StinPipeError(f"{problem}, and no checkpoint is left; delete {folder} to train again")
    notices = (f"{problem}; it is written again from the last checkpoint", *checkpoint.notices)
    return TrainingFolder(checkpoint=replace(checkpoint, notices=notices), result=None)


def _require_same(folder: Path, identity: Mapping[str, Any], num_train: int, *, is_finished: bool) -> str:
    """Refuse a folder whose training has another identity; a finished one may have another list.

    Returns:
        How the list has changed since; empty if it has not.

    Raises:
        StinPipeError: with the differences; or if the folder's configuration is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        stored = read_json(path, _CONFIG)
        num_before = stored.pop(NUM_TRAIN, None)
        same_list = stored.pop(TRAINING_LIST) == identity[TRAINING_LIST]
        settings = {name: value for name, value in identity.items() if name != TRAINING_LIST}
        differences = json_differences(*(_by_content(item, stored, settings) for item in (stored, settings)))
    except UnreadableFileError as error:
        raise StinPipeError(error.problem, next_step=f"delete {folder} to train again") from error
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StinPipeError(f"{path}: damaged ({error}); delete {folder} to train again") from error

    # Settings first: another share of held-out videos also makes another list.
    if differences:
        raise StinPipeError(
            f"{folder} holds a training with another configuration "
            f"({'; '.join(_in_flags(line) for line in differences)}); give the same settings to resume "
            f"it (the earlier ones are in {path}), or delete that folder to train again"
        )
    if same_list:
        return ""
    if num_before is None and is_finished:  # earlier versions stored it only in the result
        num_before = _stored_count(folder / RESULT_FILE)
    change = describe_list_change(num_before, num_train)
    if not is_finished:
        raise StinPipeError(
            f"{folder} holds an unfinished training on another list of videos ({change}); a training keeps "
            "the list it started with, so delete that folder to train again"
        )
    return change


def _stored_count(path: Path) -> object:
    try:
        return read_json(path, _RESULT).get(NUM_TRAIN)
    except (FileNotFoundError, UnreadableFileError):
        return None


def _by_content(item: Mapping[str, Any], *both: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity so that its ``init`` file can be compared: by content if both know its digest, else
    by its whole path."""
    init = item["config"].get("init", "")
    if all(other.get(INIT_DIGEST) for other in both):
        return {**item, "config": {**item["config"], "init": ""}}
    # Versions without the digest stored the path as it was typed.
    path = str(Path(init).resolve()) if init else ""
    return {**item, "config": {**item["config"], "init": path}, INIT_DIGEST: ""}


def snapshot(
    folder: Path,
    *,
    state: LoopState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    scaler: torch.amp.GradScaler,
    metrics_bytes: int,
) -> Path:
    """Write a checkpoint of everything that the next step depends on."""
    content = {
        "loop": asdict(state),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values if average else {},
        "scaler": scaler.state_dict(),
        "metrics_bytes": metrics_bytes,
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else torch.empty(0),
    }
    return save_checkpoint(folder / CHECKPOINT_FOLDER, step=state.step, state=content)


def forget_unbegun(folder: Path) -> None:
    """Undo ``open_training`` for a training that was refused before its first step."""
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        folder.rmdir()


def restore(
    checkpoint: Checkpoint,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    scaler: torch.amp.GradScaler,
) -> LoopState:
    """Load a checkpoint into these objects, and return how far the loop was."""
    content = checkpoint.state
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    if average is not None:
        for name, value in content["average"].items():
            average.values[name].copy_(value)
    if content["scaler"]:
        scaler.load_state_dict(content["scaler"])
    torch.set_rng_state(content["torch_rng"])
    if torch.cuda.is_initialized() and content["cuda_rng"].numel():
        torch.cuda.set_rng_state(content["cuda_rng"])
    return LoopState(**content["loop"])


def _in_flags(difference: str) -> str:
    """Name the flag that decides the differing value, if there is one."""
    key, _, change = difference.partition(": ")
    return f"{_FLAGS.get(key, key)}: {change}"
