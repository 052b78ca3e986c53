"""Train one stream from the shards of a run: a plain loop that can be killed at any instant and resumed
exactly.

What decides the result is the configuration, the training list and the number of threads. The state between
two steps is in the checkpoint; the clips and crops of a step follow from (seed, epoch, video) alone. So a
resumed training ends, on a CPU, with the same weights and the same metrics.jsonl, bit for bit.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from stin.checkpoint import Checkpoint
from stin.clips import ClipShape
from stin.config import TrainConfig, config_to_json
from stin.dataset import TrainingClips
from stin.device import Runtime, choose_device, loader_worker_count
from stin.holdout import list_digest
from stin.interrupt import Interrupted, StopSignal
from stin.loader import StepSampler, batches_of, training_loader
from stin.metrics_log import MetricsLog
from stin.model_file import save_model
from stin.pace import Pace
from stin.shards.errors import StinPipeError
from stin.shards.publish import publish_bytes, publish_json
from stin.shards.reader import ShardReader
from stin.shards.schema import Manifest
from stin.training_plan import TrainingPlan, notify_of_lists, plan_training
from stin.training_report import OnProgress, TrainNotice, TrainProgress, TrainResult
from stin.training_state import (
    BEST_FILE,
    MODEL_FILE,
    RESULT_FILE,
    LoopState,
    open_training,
    restore,
    snapshot,
)
from stin.training_step import Learner, StepReport, build_learner, train_step, validate

__all__ = ["Interrupted", "Runtime", "TrainNotice", "TrainProgress", "TrainResult", "train_stream"]

LOADER_WAIT_WARNING = 0.3
"""Share of the time spent waiting for the loader from which a person is told."""


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
        on_progress: called after every step, and with every notice.

    Raises:
        StinPipeError: if the data or the folder do not allow it; if the loss is no longer finite; out of GPU
        memory.
        Interrupted: after SIGTERM or SIGINT, when a checkpoint has been written.
    """
    runtime = runtime or Runtime()
    device = choose_device(runtime.device)
    job = plan_training(
        config, manifest=manifest, out_dir=Path(out_dir), split=split, extraction=extraction or {}
    )
    identity = {
        "config": config_to_json(job.config),
        "split": split,
        "training_list": list_digest(job.lists.train),
    }
    found = open_training(job.out_dir, identity=identity)
    if found.result is not None:
        return TrainResult(
            **{
                **found.result,
                "checkpoint": str(job.out_dir / MODEL_FILE),  # the run may have been moved since
                "notices": tuple(found.result["notices"]),
                "was_complete": True,
            }
        )
    notices: list[str] = []

    def notify(message: str) -> None:
        notices.append(message)
        on_progress(TrainNotice(message=message))

    notify_of_lists(job, notify)
    learner = build_learner(
        job.config,
        num_classes=len(manifest.classes),
        bound_px=manifest.bound_px,
        runtime=runtime,
        device=device,
        notify=notify,
        load_init=found.checkpoint is None,
    )
    state, metrics_bytes = _resume(found.checkpoint, learner, notify)
    reader = ShardReader(Path(extract_dir), manifest)
    with (
        StopSignal() as stop,
        MetricsLog(
            job.out_dir, num_bytes=metrics_bytes, step=state.step, tensorboard=runtime.tensorboard
        ) as log,
    ):
        for message in log.notices:
            notify(message)
        _run_steps(job, learner, state, reader, log, stop, runtime, notify, on_progress)
        return _finish(job, learner, state, notices)


def _run_steps(
    job: TrainingPlan,
    learner: Learner,
    state: LoopState,
    reader: ShardReader,
    log: MetricsLog,
    stop: StopSignal,
    runtime: Runtime,
    notify: Callable[[str], None],
    on_progress: OnProgress,
) -> None:
    config = job.config
    num_workers = loader_worker_count(runtime.loader_workers, learner.device)
    clips = TrainingClips(
        [ClipShape.of(video) for video in job.lists.train],
        reader,
        stream=config.stream,
        augment=config.augment,
        num_segments=config.num_segments,
        seed=config.seed,
    )
    steps = StepSampler(
        num_samples=len(clips),
        batch_size=job.batch_size,
        seed=config.seed,
        first_step=state.step,
        total_steps=job.total_steps,
    )
    loader = training_loader(clips, steps, num_workers=num_workers, pin_memory=learner.device.type == "cuda")
    held_out = [ClipShape.of(video) for video in job.lists.held_out]
    pace = Pace(seconds_before=state.seconds)

    def write_checkpoint() -> None:
        state.seconds = pace.seconds
        log.flush()
        snapshot(
            job.out_dir,
            state=state,
            model=learner.network,
            optimizer=learner.optimizer,
            average=learner.average,
            scaler=learner.scaler,
            metrics_bytes=log.num_bytes,
        )
        pace.saved()

    with closing(batches_of(loader)) as batches:
        while state.step < job.total_steps:
            with pace.waiting():
                batch = next(batches)
            report = train_step(learner, batch, step=state.step, total_steps=job.total_steps)
            state.step += 1
            state.num_repeated += batch.num_repeated
            at_end = state.step == job.total_steps
            if at_end or state.step % config.log_every_steps == 0:
                log.write("train", step=state.step, values=report.metrics())
                log.curve(
                    "speed",
                    step=state.step,
                    values={"samples_per_s": pace.rate, "loader_wait": pace.wait_share},
                )
            if held_out and (at_end or state.step % (config.val_every_epochs * job.per_epoch) == 0):
                _validate(job, learner, state, reader, log, held_out, num_workers)
            pace.stepped(len(batch.ids))
            on_progress(_progress(job, state, report, pace))
            # On a CPU reading and computing share the cores, so more reading would not help.
            on_gpu = learner.device.type != "cpu"
            if on_gpu and pace.num_steps == 50 and pace.wait_share > LOADER_WAIT_WARNING:
                notify(
                    f"the loader is the bottleneck: {pace.wait_share:.0%} of the time is spent waiting for "
                    f"it at {pace.rate:.1f} samples/s with {num_workers} loader workers; "
                    "raise --loader-workers"
                )
            every = runtime.checkpoint_every_steps
            due = pace.since_saved >= runtime.checkpoint_every_s or (every and state.step % every == 0)
            if stop.received or due or at_end:
                write_checkpoint()
            if stop.received and not at_end:
                raise Interrupted(stop.received, step=state.step)


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


def _validate(
    job: TrainingPlan,
    learner: Learner,
    state: LoopState,
    reader: ShardReader,
    log: MetricsLog,
    held_out: list[ClipShape],
    num_workers: int,
) -> None:
    found = validate(learner, held_out, reader, batch_size=job.batch_size, num_workers=num_workers)
    state.last_top1 = found.top1
    log.write("val", step=state.step, values=found.metrics())
    if found.top1 >= state.best_top1:  # of equals the later: it has seen more
        state.best_top1, state.best_step = found.top1, state.step
        _export(job, learner, job.out_dir / BEST_FILE, step=state.step, top1=found.top1)


def _export(job: TrainingPlan, learner: Learner, path: Path, *, step: int, top1: float | None) -> None:
    training = {**job.info.training, "step": step, "val_top1": top1}
    info = replace(job.info, training=training)
    save_model(path, weights=learner.final_weights(), info=info)


def _finish(job: TrainingPlan, learner: Learner, state: LoopState, notices: list[str]) -> TrainResult:
    validated = state.best_top1 >= 0
    path = job.out_dir / MODEL_FILE
    if job.config.select == "best" and validated:
        best = job.out_dir / BEST_FILE
        if not best.exists():
            raise StinPipeError(
                f"{best} is gone; delete {job.out_dir} to train anew, or select the last weights"
            )
        publish_bytes(path, best.read_bytes())
    else:
        _export(job, learner, path, step=state.step, top1=state.last_top1 if validated else None)
    result = TrainResult(
        stream=job.config.stream_name,
        recipe=job.config.recipe,
        split=job.split,
        epochs=-(-state.step // job.per_epoch),
        steps=state.step,
        seconds=round(state.seconds, 3),
        samples_per_s=round(state.step * job.batch_size / max(state.seconds, 1e-9), 3),
        best_val_top1=state.best_top1 if validated else None,
        last_val_top1=state.last_top1 if validated else None,
        checkpoint=str(path),
        num_train=len(job.lists.train),
        num_held_out=len(job.lists.held_out),
        num_parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        num_repeated_fields=state.num_repeated,
        notices=tuple(notices),
    )
    publish_json(job.out_dir / RESULT_FILE, result.to_json())
    return result


def _progress(job: TrainingPlan, state: LoopState, report: StepReport, pace: Pace) -> TrainProgress:
    left = (job.total_steps - state.step) * job.batch_size / max(pace.rate, 1e-9)
    return TrainProgress(
        stream=job.config.stream_name,
        step=state.step,
        total_steps=job.total_steps,
        epoch=-(-state.step // job.per_epoch),
        epochs=-(-job.total_steps // job.per_epoch),
        loss=report.loss,
        main_loss=report.main_loss,
        aux_loss=report.aux_loss,
        lr=report.lr,
        samples_per_s=pace.rate,
        loader_wait=pace.wait_share,
        val_top1=state.last_top1 if state.last_top1 >= 0 else None,
        best_val_top1=state.best_top1 if state.best_top1 >= 0 else None,
        seconds_left=left,
    )
