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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from stin_pipe.stin.device import Runtime, choose_device
from stin_pipe.stin.network.flops import flops_per_sample
from stin_pipe.stin.network.model_file import MODEL_FILE, RESULT_FILE
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.checkpoint import Checkpoint
from stin_pipe.stin.training.config import TrainConfig, config_to_json
from stin_pipe.stin.training.end import finish_training
from stin_pipe.stin.training.holdout import list_digest
from stin_pipe.stin.training.interrupt import Interrupted, StopSignal
from stin_pipe.stin.training.learner import Learner, build_learner, require_enough_values
from stin_pipe.stin.training.loop import TrainingLoop
from stin_pipe.stin.training.metrics_log import MetricsLog
from stin_pipe.stin.training.pace import Pace
from stin_pipe.stin.training.plan import TrainingPlan, notify_of_lists, plan_training
from stin_pipe.stin.training.ranks import Ranks, joined_ranks
from stin_pipe.stin.training.report import OnProgress, TrainNotice, TrainProgress, TrainResult, TrainStart
from stin_pipe.stin.training.state import (
    INIT_DIGEST,
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
        device = choose_device(runtime.device, local_rank=ranks.local_rank, local_count=ranks.local_count)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = True  # all batches have one size, so trying kernels pays
        job = ranks.together(
            lambda: _plan(
                plan_training(
                    config, manifest=manifest, out_dir=Path(out_dir), split=split, extraction=extraction or {}
                ),
                ranks,
            )
        )
        found = _open(job, ranks)
        if found.result is not None:
            return _result_of(found.result, job.out_dir, list_change=found.list_change)
        tell = on_progress if ranks.is_first else lambda _event: None
        notices: list[str] = []

        def notify(message: str) -> None:
            notices.append(message)
            tell(TrainNotice(message=message))

        notify_of_lists(job, notify)
        learner = ranks.together(
            lambda: build_learner(
                job.config,
                num_classes=len(manifest.classes),
                bound_px=manifest.bound_px,
                runtime=runtime,
                device=device,
                notify=notify,
                load_init=found.checkpoint is None,
                ranks=ranks,
            )
        )
        state, metrics_bytes = _resume(found.checkpoint, learner, notify)
        flops = flops_per_sample(job.config, num_classes=len(manifest.classes))
        tell(_start(job, learner, state, flops))
        with ExitStack() as opened:
            stop = opened.enter_context(StopSignal(stop_file, handle_signals=handle_signals))
            log = None
            if ranks.is_first:
                log = opened.enter_context(
                    MetricsLog(
                        job.out_dir,
                        num_bytes=metrics_bytes,
                        step=state.step,
                        tensorboard=runtime.tensorboard,
                    )
                )
                for message in log.notices:
                    notify(message)
            loop = TrainingLoop(
                job=job,
                learner=learner,
                state=state,
                reader=ShardReader(Path(extract_dir), manifest),
                log=log,
                stop=stop,
                pace=Pace(seconds_before=state.seconds),
                notify=notify,
                on_progress=tell,
            )
            loop.run()
            result = None
            if ranks.is_first:
                result = finish_training(job, learner, state, flops=flops, notices=notices)
            return next(item for item in ranks.all_values(result) if item is not None)


def _result_of(stored: Mapping[str, Any], out_dir: Path, *, list_change: str) -> TrainResult:
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


def _plan(job: TrainingPlan, ranks: Ranks) -> TrainingPlan:
    """Return the plan if its batches suffice for these processes and for the network."""
    if job.batch_size < ranks.count:
        raise StinPipeError(
            f"a batch of {job.batch_size} videos is too small for {ranks.count} train workers; "
            "raise --batch-size, or lower --train-workers"
        )
    own_samples = job.batch_size // ranks.count
    require_enough_values(
        job.config,
        num_classes=len(job.info.classes),
        num_samples=own_samples // min(own_samples, job.config.optim.accumulate),
    )
    return job


def _open(job: TrainingPlan, ranks: Ranks) -> TrainingFolder:
    identity = {
        "config": config_to_json(job.config),
        "split": job.split,
        "training_list": list_digest(job.lists.train),
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


def _start(job: TrainingPlan, learner: Learner, state: LoopState, flops: int) -> TrainStart:
    return TrainStart(
        stream=job.config.stream_name,
        num_parameters=learner.num_parameters,
        flops_per_sample=flops,
        first_step=state.step,
        total_steps=job.total_steps,
        num_train=len(job.lists.train),
        num_held_out=len(job.lists.held_out),
        device=str(learner.device),
        num_ranks=learner.ranks.count,
    )
