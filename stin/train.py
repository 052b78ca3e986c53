"""Train one stream from the shards of a run: a plain loop that can be killed at any instant and resumed
exactly.

What decides the result is the configuration, the training list and the number of threads. The state between
two steps is in the checkpoint; the clips and crops of a step follow from (seed, epoch, video) alone. So a
resumed training ends, on a CPU, with the same weights and the same metrics.jsonl, bit for bit.

Several processes may train together (``ranks``): each runs this same loop on its part of every batch, and the
first of them writes.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from stin_pipe.stin.device import Runtime, choose_device
from stin_pipe.stin.network.model_file import MODEL_FILE, RESULT_FILE
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest, list_digest
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
    """Train a stream, or resume or merely report the training that ``out_dir`` holds.

    Args:
        config: complete configuration; its crop is lowered to the stored size where that is smaller.
        manifest: the run's videos, classes and splits.
        extract_dir: folder with ``shards/``.
        out_dir: gets config.json, metrics.jsonl, event files, checkpoints/, best.safetensors,
            model.safetensors and last of all result.json.
        split: name of the split whose training list is used.
        runtime: device, loader workers and the like; may differ when resuming.
        extraction: JSON values kept in the model file, for whoever must make frames and flow the same way.
        on_progress: called at the start, after every step, and with every notice; in the first process alone.
        stop_file: asks to stop when it appears, as a signal does; see ``StopSignal``.
        handle_signals: whether SIGTERM and SIGINT end the training after a checkpoint.

    Raises:
        StinPipeError: if the data or the folder do not allow it; if the loss is no longer finite; out of GPU
        memory; the same in all processes that train together.
        Interrupted: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    runtime = runtime or Runtime()
    with joined_ranks(on_gpu=runtime.device != "cpu" and torch.cuda.is_available()) as ranks:
        device = _choose_device(runtime, ranks)
        job = ranks.together(
            lambda: plan_training(
                config, manifest=manifest, out_dir=Path(out_dir), split=split, extraction=extraction or {}
            )
        )
        ranks.together(lambda: _require_large_batches(job, ranks))
        folder = _open(job, ranks)
        if folder.result is not None:
            return _stored_result(folder.result, job.out_dir, list_change=folder.list_change)

        notices = Notices(on_progress if ranks.is_first else lambda _event: None)
        notify_of_lists(job, notices.add)
        learner = ranks.together(
            lambda: _build(job, runtime, device, ranks, notices, load_init=folder.checkpoint is None)
        )
        reader = ShardReader(Path(extract_dir), manifest)
        with StopSignal(stop_file, handle_signals=handle_signals) as stop:
            state = _train(job, learner, folder.checkpoint, reader, stop, notices)
            result = (
                finish_training(job, learner, state, notices=notices.messages) if ranks.is_first else None
            )
            return next(item for item in ranks.all_values(result) if item is not None)


def _choose_device(runtime: Runtime, ranks: Ranks) -> torch.device:
    device = choose_device(runtime.device, local_rank=ranks.local_rank, local_count=ranks.local_count)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have one size, so trying kernels pays
    return device


def _build(
    job: TrainingPlan,
    runtime: Runtime,
    device: torch.device,
    ranks: Ranks,
    notices: Notices,
    *,
    load_init: bool,
) -> Learner:
    learner = build_learner(
        job.config,
        num_classes=len(job.info.classes),
        bound_px=job.info.bound_px,
        runtime=runtime,
        device=device,
        notify=notices.add,
        load_init=load_init,
        ranks=ranks,
    )
    own_samples = job.batch_size // ranks.count
    smallest = own_samples // min(own_samples, job.config.optim.accumulate)
    require_enough_values(learner, num_samples=smallest)
    return learner


def _train(
    job: TrainingPlan,
    learner: Learner,
    checkpoint: Checkpoint | None,
    reader: ShardReader,
    stop: StopSignal,
    notices: Notices,
) -> LoopState:
    """Train from the checkpoint, or from the start, to the end; return where the loop stands then."""
    state, metrics_bytes = _resume(checkpoint, learner, notices.add)
    notices.on_event(_start(job, learner, state))
    log = None
    if learner.ranks.is_first:
        log = MetricsLog(
            job.out_dir, num_bytes=metrics_bytes, step=state.step, tensorboard=learner.runtime.tensorboard
        )
    with log or nullcontext():
        for message in log.notices if log else ():
            notices.add(message)
        TrainingLoop(
            job=job,
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
        return TrainResult(**{**stored, **now, "notices": tuple(stored["notices"])})
    except (KeyError, TypeError) as error:
        raise StinPipeError(
            f"{out_dir / RESULT_FILE}: damaged ({error}); delete it to finish the training again"
        ) from error


def _require_large_batches(job: TrainingPlan, ranks: Ranks) -> None:
    if job.batch_size < ranks.count:
        raise StinPipeError(
            f"a batch of {job.batch_size} videos is too small for {ranks.count} train workers; "
            "raise --batch-size, or lower --train-workers"
        )


def _open(job: TrainingPlan, ranks: Ranks) -> TrainingFolder:
    identity = {
        "config": config_to_json(job.config),
        "split": job.split,
        TRAINING_LIST: list_digest(job.lists.train),
    }
    init = Path(job.config.init)
    if job.config.init and init.is_file():  # it may be gone once the training has begun
        identity[INIT_DIGEST] = hashlib.sha256(init.read_bytes()).hexdigest()
    count = len(job.lists.train)
    found = ranks.together(
        lambda: open_training(job.out_dir, identity=identity, num_train=count, claim=ranks.is_first)
    )
    seen = ranks.all_values(found.checkpoint.step if found.checkpoint else 0)
    if len(set(seen)) > 1:
        raise StinPipeError(
            f"{job.out_dir}: the train workers see checkpoints of different steps ({seen}); "
            "the run must be on a path that all nodes share"
        )
    return found


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


def _start(job: TrainingPlan, learner: Learner, state: LoopState) -> TrainStart:
    return TrainStart(
        stream=job.config.stream_name,
        num_parameters=learner.num_parameters,
        flops_per_sample=learner.flops_per_sample,
        first_step=state.step,
        total_steps=job.total_steps,
        num_train=len(job.lists.train),
        num_held_out=len(job.lists.held_out),
        device=str(learner.device),
        num_ranks=learner.ranks.count,
    )
