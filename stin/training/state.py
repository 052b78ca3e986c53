"""The folder of a training between its lives: configuration, checkpoints, result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stin_pipe.stin.network.model_file import MODEL_FILE, RESULT_FILE, is_as_trained
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.training.checkpoint import Checkpoint, load_latest, save_checkpoint
from stin_pipe.stin.training.config import json_differences
from stin_pipe.stin.training.holdout import tell_list_change
from stin_pipe.stin.training.optim import AveragedWeights

CONFIG_FILE = "config.json"
CHECKPOINT_FOLDER = "checkpoints"
INIT_DIGEST = "init_sha256"
"""Key of the digest of the weights that a training starts from."""
NUM_TRAIN = "num_train"
"""Key of the number of videos on the training list; told, and no part of what a training is known by."""
BEST_FILE = "best.safetensors"

_FLAGS = {
    "config.augment.flip": "--no-flip",
    "config.init": "--init",
    "config.num_segments": "--segments",
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
"""What a person gave, by its place in a training's identity."""


@dataclass(kw_only=True)
class LoopState:
    """Where the loop stands; what a checkpoint holds beside weights, optimiser and generator."""

    step: int = 0
    best_top1: float = -1.0
    """Best top-1 on the held-out part so far; -1 before the first validation."""
    best_step: int = 0
    last_top1: float = -1.0
    to_validate: bool = False
    """Whether the validation after this step failed, so that it comes before the next."""
    num_repeated: int = 0
    """Flow fields repeated so far because videos are shorter than a stack."""
    seconds: float = 0.0
    """Time spent in all lives; the one number here that a resumed training may end with differently."""


@dataclass(frozen=True, kw_only=True)
class TrainingFolder:
    """What was found in a training's folder."""

    checkpoint: Checkpoint | None
    result: Mapping[str, Any] | None
    """The result of a training that was finished already."""
    list_change: str = ""
    """How the run's training list differs from the one of this finished training; empty where it does not."""


def open_training(
    folder: Path, *, identity: Mapping[str, Any], num_train: int, claim: bool = True
) -> TrainingFolder:
    """Claim the folder for this training, or find what an earlier life of it left.

    A finished training whose settings are these is found also where the run has got another list since.

    Args:
        folder: made if absent.
        identity: everything that decides the result, as JSON values.
        num_train: videos on the training list.
        claim: whether this process writes the configuration; of several that train together, one does.

    Raises:
        StinPipeError: if the folder holds a training of another identity, with the differences; if it cannot
            be written; if its result, its configuration or every checkpoint in it is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StinPipeError(f"{folder}: cannot be made ({error.strerror}); give another --run") from error
    wanted = json.loads(json.dumps(identity))
    path = folder / CONFIG_FILE
    begun = (folder / RESULT_FILE).exists() or any((folder / CHECKPOINT_FOLDER).glob("step-*"))
    result_path, model_path = folder / RESULT_FILE, folder / MODEL_FILE
    is_finished = result_path.exists() and model_path.exists()
    list_change = ""
    if not begun:  # nothing to lose, so a first try with other settings does not stand in the way
        if claim:
            publish_json(path, {**wanted, NUM_TRAIN: num_train})
    else:
        list_change = _require_same(folder, wanted, num_train, is_finished=is_finished)
    if not is_finished:
        return TrainingFolder(checkpoint=load_latest(folder / CHECKPOINT_FOLDER), result=None)
    try:
        result = json.loads(result_path.read_text())
    except ValueError as error:
        raise StinPipeError(
            f"{result_path}: damaged ({error}); delete it to finish the training again"
        ) from error
    if is_as_trained(model_path, hashlib.sha256(model_path.read_bytes()).hexdigest()):
        return TrainingFolder(checkpoint=None, result=result, list_change=list_change)
    told = f"{model_path}: damaged (its sha256 is not that of {RESULT_FILE})"
    if list_change:
        raise StinPipeError(
            f"{told}, and the run has another training list since ({list_change}); "
            f"delete {folder} to train anew"
        )
    checkpoint = load_latest(folder / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise StinPipeError(f"{told}, and no checkpoint is left; delete {folder} to train anew")
    notices = (f"{told}; it is written again from the last checkpoint", *checkpoint.notices)
    return TrainingFolder(checkpoint=replace(checkpoint, notices=notices), result=None)


def _require_same(folder: Path, wanted: dict[str, Any], num_train: int, *, is_finished: bool) -> str:
    """Refuse a folder whose training has another identity; a finished one may have another list.

    Returns:
        How the list has changed since; empty where it has not.

    Raises:
        StinPipeError: with the differences; or if the folder's configuration is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text())
        num_before = found.pop(NUM_TRAIN, None)
        differences = json_differences(*(_by_content(item, found, wanted) for item in (found, wanted)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StinPipeError(f"{path}: damaged ({error}); delete {folder} to train anew") from error
    settings = [line for line in differences if not line.startswith("training_list: ")]
    if settings:  # another share of held-out videos also makes another list
        raise StinPipeError(
            f"{folder} holds a training with another configuration "
            f"({'; '.join(_in_flags(line) for line in settings)}); give the same settings to resume "
            f"it (the earlier ones are in {path}), or delete that folder to train anew"
        )
    if not differences:
        return ""
    if num_before is None and is_finished:  # earlier versions kept it in the result alone
        num_before = _stored_count(folder / RESULT_FILE)
    change = tell_list_change(num_before, num_train)
    if not is_finished:
        raise StinPipeError(
            f"{folder} holds an unfinished training on another list of videos ({change}), and one training "
            "has one list from its begin to its end; delete that folder to train anew"
        )
    return change


def _stored_count(path: Path) -> object:
    try:
        return json.loads(path.read_text()).get(NUM_TRAIN)
    except (OSError, ValueError, AttributeError):
        return None


def _by_content(item: Mapping[str, Any], *both: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity with the weights to start from told by their content, or else by their whole path:
    versions that did not keep the digest kept the path as it was typed."""
    init = item["config"].get("init", "")
    if all(other.get(INIT_DIGEST) for other in both):
        return {**item, "config": {**item["config"], "init": ""}}
    place = str(Path(init).resolve()) if init else ""
    return {**item, "config": {**item["config"], "init": place}, INIT_DIGEST: ""}


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
    """Write a checkpoint of everything the next step depends on."""
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


def restore(
    checkpoint: Checkpoint,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    scaler: torch.amp.GradScaler,
) -> LoopState:
    """Put a checkpoint's content back where it came from; return where the loop stood."""
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
    """Name the flag of a difference where one decides it."""
    place, _, change = difference.partition(": ")
    return f"{_FLAGS.get(place, place)}: {change}"
