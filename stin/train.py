"""Train one stream from the shards of a run: a plain loop that can be killed at any time and resumes exactly.

The result depends only on the configuration, the training list and the number of threads. A checkpoint holds
all state between two steps, and the clips and crops of a step follow from (seed, epoch, video). So on a CPU a
resumed training ends with the same weights and the same metrics.jsonl, bit for bit.

Several processes may train together (``training.ranks``): each runs this same loop on its part of every
batch, and the first one writes.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from stin_pipe.stin.device import Runtime, choose_device
from stin_pipe.stin.network.model_file import MODEL, MODEL_FILE, RESULT_FILE
from stin_pipe.stin.shards.bounded import read_bytes
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, list_digest
from stin_pipe.stin.training.checkpoint import Checkpoint
from stin_pipe.stin.training.config import TrainConfig, config_to_json
from stin_pipe.stin.training.end import finish_training
from stin_pipe.stin.training.interrupt import Interrupted, StopSignal
from stin_pipe.stin.training.learner import Learner, build_learner, require_enough_values
from stin_pipe.stin.training.loop import TrainingLoop
from stin_pipe.stin.training.metrics_log import MetricsLog
from stin_pipe.stin.training.plan import TrainingPlan, notify_of_lists, plan_training
from stin_pipe.stin.training.ranks import Ranks, joined_ranks
from stin_pipe.stin.training.report import (
    Notices,
    OnProgress,
    Pace,
    TrainNotice,
    TrainProgress,
    TrainResult,
    TrainStart,
)
from stin_pipe.stin.training.state import (
    INIT_DIGEST,
    TRAINING_LIST,
    LoopState,
    TrainingFolder,
    forget_unbegun,
    open_training,
    restore,
)

__all__ = [
    "Interrupted",
    "Runtime",
    "TrainNotice",
    "TrainProgress",
    "TrainResult",
    "TrainStart",
    "train_stream",
]


def train_stream(
    config: TrainConfig,
    *,
    manifest: Manifest,
    extract_dir: Path,
    out_dir: Path,
    split: str,
    runtime: Runtime | None = None,
    extraction: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda _event: None,
    stop_file: Path | None = None,
    handle_signals: bool = True,
) -> TrainResult:
    """Train a stream, resume the training in ``out_dir``, or return its result if it is finished.

    Args:
        config: complete configuration; its crop is lowered to the stored size if that is smaller.
        manifest: the run's videos, classes and splits.
        extract_dir: folder with ``shards/``.
        out_dir: folder for config.json, metrics.jsonl, event files, checkpoints/, best.safetensors,
            model.safetensors and, written last, result.json.
        split: name of the split whose training list is used.
        runtime: device, loader workers and the like; may differ when resuming.
        extraction: JSON values for the model file: how frames and flow were made, so that others can be made
            alike.
        on_progress: called at the start, after every step, and with every notice; only in the first process.
        stop_file: stops the training when it appears, as a signal does; see ``StopSignal``.
        handle_signals: whether SIGTERM and SIGINT stop the training after a checkpoint.

    Raises:
        StinPipeError: if the data or the folder do not allow the training, the loss is no longer finite, or
            the GPU's memory does not suffice; the same error in all processes that train together.
        Interrupted: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    runtime = runtime or Runtime()
    with joined_ranks(on_gpu=runtime.device != "cpu" and torch.cuda.is_available()) as ranks:
        device = _choose_device(runtime, ranks)
        plan = ranks.together(
            lambda: plan_training(
                config, manifest=manifest, out_dir=Path(out_dir), split=split, extraction=extraction or {}
            )
        )
        ranks.together(lambda: _require_large_batches(plan, ranks))
        folder = _open(plan, ranks)
        if folder.result is not None:
            return _stored_result(folder.result, plan.out_dir, list_change=folder.list_change)

        notices = Notices(on_progress if ranks.is_first else lambda _event: None)
        notify_of_lists(plan, notices.add)
        learner = ranks.together(
            lambda: _build(plan, runtime, device, ranks, notices, load_init=folder.checkpoint is None)
        )
        reader = ShardReader(Path(extract_dir), manifest)
        with StopSignal(stop_file, handle_signals=handle_signals) as stop:
            state = _train(plan, learner, folder.checkpoint, reader, stop, notices)
            result = (
                finish_training(plan, learner, state, notices=notices.messages) if ranks.is_first else None
            )
            return next(item for item in ranks.all_values(result) if item is not None)


def _choose_device(runtime: Runtime, ranks: Ranks) -> torch.device:
    device = choose_device(runtime.device, local_rank=ranks.local_rank, local_count=ranks.local_count)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have one size, so trying kernels pays
    return device


def _build(
    plan: TrainingPlan,
    runtime: Runtime,
    device: torch.device,
    ranks: Ranks,
    notices: Notices,
    *,
    load_init: bool,
) -> Learner:
    learner = build_learner(
        plan.config,
        num_classes=len(plan.info.classes),
        bound_px=plan.info.bound_px,
        runtime=runtime,
        device=device,
        notify=notices.add,
        load_init=load_init,
        ranks=ranks,
    )
    own_samples = plan.batch_size // ranks.count
    smallest = own_samples // min(own_samples, plan.config.optim.accumulate)
    try:
        require_enough_values(learner, num_samples=smallest)
    except StinPipeError:
        if load_init and ranks.is_first:
            forget_unbegun(plan.out_dir)
        raise
    return learner


def _train(
    plan: TrainingPlan,
    learner: Learner,
    checkpoint: Checkpoint | None,
    reader: ShardReader,
    stop: StopSignal,
    notices: Notices,
) -> LoopState:
    """Train from the checkpoint, or from the start, to the end; return where the loop stands then."""
    state, metrics_bytes = _resume(checkpoint, learner, notices.add)
    notices.on_event(_start(plan, learner, state))
    log = None
    if learner.ranks.is_first:
        log = MetricsLog(
            plan.out_dir, num_bytes=metrics_bytes, step=state.step, tensorboard=learner.runtime.tensorboard
        )
    with log or nullcontext():
        for message in log.notices if log else ():
            notices.add(message)
        TrainingLoop(
            plan=plan,
            learner=learner,
            state=state,
            reader=reader,
            log=log,
            stop=stop,
            pace=Pace(seconds_before=state.seconds),
            notices=notices,
        ).run()
    return state


def _stored_result(stored: Mapping[str, Any], out_dir: Path, *, list_change: str) -> TrainResult:
    now: dict[str, Any] = {
        "checkpoint": str(out_dir / MODEL_FILE),
        "was_complete": True,
    }  # the run may have been moved since
    now["list_change"] = list_change
    try:
        return TrainResult.from_json({**stored, **now})
    except (KeyError, TypeError) as error:
        raise StinPipeError(
            f"{out_dir / RESULT_FILE}: damaged ({error}); delete it to finish the training again"
        ) from error


def _require_large_batches(plan: TrainingPlan, ranks: Ranks) -> None:
    if plan.batch_size < ranks.count:
        raise StinPipeError(
            f"a batch of {plan.batch_size} videos is too small for {ranks.count} train workers; "
            "raise --batch-size, or lower --train-workers"
        )


def _open(plan: TrainingPlan, ranks: Ranks) -> TrainingFolder:
    identity = {
        "config": config_to_json(plan.config),
        "split": plan.split,
        TRAINING_LIST: list_digest(plan.lists.train, STORED_OF[plan.config.stream.name]),
    }
    init = Path(plan.config.init)
    if plan.config.init and init.is_file():  # it may be gone once the training has begun
        identity[INIT_DIGEST] = hashlib.sha256(read_bytes(init, MODEL)).hexdigest()
    count = len(plan.lists.train)
    folder = ranks.together(
        lambda: open_training(plan.out_dir, identity=identity, num_train=count, claim=ranks.is_first)
    )
    if plan.config.continued and folder.checkpoint is None and folder.result is None:
        raise StinPipeError(
            f"{plan.out_dir}: the state that this training is to be continued from is not there; give the "
            "command with --more-epochs again, or delete that folder to train again"
        )
    steps = ranks.all_values(folder.checkpoint.step if folder.checkpoint else 0)
    if len(set(steps)) > 1:
        raise StinPipeError(
            f"{plan.out_dir}: the train workers see checkpoints of different steps ({steps}); "
            "the run must be on a path that all nodes share"
        )
    return folder


def _resume(
    checkpoint: Checkpoint | None, learner: Learner, notify: Callable[[str], None]
) -> tuple[LoopState, int]:
    if checkpoint is None:
        return LoopState(), 0
    for message in checkpoint.notices:
        notify(message)
    state = restore(
        checkpoint,
        model=learner.network,
        optimizer=learner.optimizer,
        average=learner.average,
        scaler=learner.scaler,
    )
    return state, int(checkpoint.state["metrics_bytes"])


def _start(plan: TrainingPlan, learner: Learner, state: LoopState) -> TrainStart:
    return TrainStart(
        stream=plan.config.stream_name,
        num_parameters=learner.num_parameters,
        flops_per_sample=learner.flops_per_sample,
        first_step=state.step,
        total_steps=plan.total_steps,
        num_train=len(plan.lists.train),
        num_held_out=len(plan.lists.held_out),
        device=str(learner.device),
        num_ranks=learner.ranks.count,
    )
