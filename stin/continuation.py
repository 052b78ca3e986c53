"""Continue a finished training: what is added to its configuration, and the folder it goes on in.

The state after the last step of a training stays in its checkpoints. A continuation goes on from there, as a
training that was interrupted does, either in the same folder, where model and result stay those of before
until the new ones are written, or in a new one, which begins as a copy.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from stin_pipe.stin.network.model_file import MODEL_FILE
from stin_pipe.stin.results.stored import read_result
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_json
from stin_pipe.stin.shards.run_dir import is_being_continued, stored_config
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, list_digest
from stin_pipe.stin.training.checkpoint import Checkpoint, load_latest
from stin_pipe.stin.training.config import Continuation, TrainConfig, config_from_json, config_to_json
from stin_pipe.stin.training.holdout import divide_training_list
from stin_pipe.stin.training.metrics_log import METRICS_FILE
from stin_pipe.stin.training.state import (
    BEST_FILE,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    TRAINING_LIST,
)


def with_continuations(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return the configuration with the continuations of the training in this folder, if it has any."""
    try:
        return replace(config, continued=_stored(folder).continued)
    except StinPipeError:
        return config  # not begun, or damaged: whoever opens the folder says so


def continued_config(source: Path, target: Path, *, epochs: int) -> TrainConfig:
    """Return the configuration of a training that is continued, or whose continuation goes on.

    Args:
        source: folder of the finished training.
        target: folder that it is continued in; the same, or one of another name.
        epochs: how many are added.

    Raises:
        StinPipeError: the training is not finished, or another continuation is under way; the target is
            another training.
    """
    config = _stored(source)
    if target != source and (target / CHECKPOINT_FOLDER).exists():
        begun = _stored(target)
        *before, last = begun.continued or (None,)
        is_ours = (
            last is not None
            and last.epochs == epochs
            and replace(begun, continued=()) == replace(config, continued=())
            and config.continued[: len(before)] == tuple(before)
        )
        if not is_ours:
            raise StinPipeError(
                f"{target}: holds a training that is not {source} continued by {epochs} epochs; give another "
                "--name"
            )
        return begun

    if is_being_continued(source):
        wanted = config.continued[-1].epochs if config.continued else 0
        if target != source or wanted != epochs:
            raise StinPipeError(
                f"{source}: is being continued by {wanted} epochs; let that come to its end first, with "
                f"--more-epochs {wanted}"
            )
        return config

    result = read_result(source)
    if not result:
        raise StinPipeError(
            f"{source}: this training is not finished; train it to its end first, with the command that "
            "began it"
        )
    added = Continuation(from_step=result["steps"], epochs=epochs)
    return replace(config, continued=(*config.continued, added))


def begin_continuation(source: Path, target: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Make the target a training that is to go on where the source ended; nothing if it is one already.

    Args:
        source: see ``continued_config``, which returned the configuration.
        target: likewise; nobody else may be at work in it.
        config: with the continuation.
        manifest: of the run.

    Raises:
        StinPipeError: the state after the last step is gone or damaged, or the run's training list has
            changed since.
    """
    has_begun = any((target / CHECKPOINT_FOLDER).glob("step-*.json"))
    if has_begun and stored_config(target).get("config") == config_to_json(config):
        return
    value = stored_config(source)
    checkpoint = _last_state(source, config.continued[-1].from_step)
    stored = STORED_OF[config.stream_name]
    lists = divide_training_list(manifest, split=value["split"], share=config.val_share, stream=stored)
    if list_digest(lists.train, stored) != value.get(TRAINING_LIST):
        raise StinPipeError(
            f"{source}: the run's training list has changed since this training, so it cannot go on as it "
            f"was; a new training can start from its weights: --init {source / MODEL_FILE} --name NEW"
        )

    if target != source:
        _copy_logs(source, target, num_bytes=int(checkpoint.state["metrics_bytes"]))
    publish_json(target / CONFIG_FILE, {**value, "config": config_to_json(config)})
    if target != source:
        # The mark last: without it the copy counts as not begun, and is made again.
        folder = target / CHECKPOINT_FOLDER
        folder.mkdir(exist_ok=True)
        for path in (checkpoint.path, checkpoint.path.with_suffix(".json")):
            publish_bytes(folder / path.name, path.read_bytes())


def _stored(folder: Path) -> TrainConfig:
    value = stored_config(folder)
    if "config" not in value:
        raise StinPipeError(f"{folder}: there is no such training; `stin-pipe status` lists those of a run")
    return config_from_json(value["config"])


def _last_state(source: Path, step: int) -> Checkpoint:
    """Return the state after a training's last step.

    Raises:
        StinPipeError: it is gone or damaged.
    """
    checkpoint = load_latest(source / CHECKPOINT_FOLDER)
    if checkpoint is None or checkpoint.step != step:
        raise StinPipeError(
            f"{source / CHECKPOINT_FOLDER}: the state after step {step}, with which the training ended, is "
            "gone or damaged, so the training cannot be continued; a new one can start from its weights: "
            f"--init {source / MODEL_FILE} --name NEW"
        )
    return checkpoint


def _copy_logs(source: Path, target: Path, *, num_bytes: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if (source / METRICS_FILE).exists():
        publish_bytes(target / METRICS_FILE, (source / METRICS_FILE).read_bytes()[:num_bytes])
    if (source / BEST_FILE).exists():
        shutil.copyfile(source / BEST_FILE, target / BEST_FILE)
