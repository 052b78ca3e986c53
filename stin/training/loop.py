"""The loop of a training: steps, and between them logs, validation and checkpoints."""

import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from stin_pipe.stin.clips.dataset import Batch, TrainingClips
from stin_pipe.stin.clips.loader import batches_of
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.device import loader_worker_count, peak_memory_bytes
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.training.batches import StepSampler, training_loader
from stin_pipe.stin.training.end import export_weights
from stin_pipe.stin.training.interrupt import Interrupted, StopSignal
from stin_pipe.stin.training.learner import Learner
from stin_pipe.stin.training.metrics_log import MetricsLog
from stin_pipe.stin.training.pictures import training_pictures
from stin_pipe.stin.training.plan import TrainingPlan
from stin_pipe.stin.training.report import Notices, Pace, TrainProgress
from stin_pipe.stin.training.state import BEST_FILE, LoopState, snapshot
from stin_pipe.stin.training.step import StepReport, train_step
from stin_pipe.stin.training.validation import validate

NUM_PICTURES = 10
"""Pictures that a training sends to TensorBoard, beside those of its first step."""
LOADER_WAIT_WARNING = 0.3
"""Share of the time spent waiting for the loader above which the training says so."""
LOADER_WAIT_STEPS = 50
"""Steps after which that share is checked."""


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """The steps of a training that one process takes, from its start or its checkpoint to the end."""

    plan: TrainingPlan
    learner: Learner
    state: LoopState
    reader: ShardReader
    log: MetricsLog | None
    """None in all processes but the first."""
    stop: StopSignal
    pace: Pace
    notices: Notices

    def run(self) -> None:
        """Take the remaining steps.

        Raises:
            Interrupted: after a signal, when the checkpoint is written.
        """
        plan, state, ranks = self.plan, self.state, self.learner.ranks
        if state.step == plan.phases[-1].first_step:
            state.num_worse = 0  # a continuation of a training that patience has ended
        if state.to_validate:
            self._validate()

        with closing(batches_of(self._loader())) as batches:
            while not self._is_over:
                batch = self._next_of(batches)
                report = train_step(
                    self.learner,
                    batch,
                    num_samples=plan.batch_size,
                    step=state.step,
                    rate=plan.rate(state.step),
                )
                state.step += 1
                state.num_repeated += int(ranks.sums([batch.num_repeated])[0])
                at_end = state.step == plan.total_steps

                self._log_step(report, at_end=at_end)
                self._log_pictures(batch)
                if plan.lists.held_out and (
                    at_end or state.step % (plan.config.val_every_epochs * plan.per_epoch) == 0
                ):
                    self._validate()
                self.pace.stepped(plan.batch_size)
                self.notices.on_event(_progress(plan, state, report, self.pace, self.learner.device))
                self._warn_of_loader()

                # One process may have received a signal that the others have not; they must all agree.
                signum = ranks.largest(self.stop.received)
                if signum or self._is_over or self._is_checkpoint_due():
                    self._save()
                if signum and not self._is_over:
                    ranks.agree()  # no process ends before the first one has written the checkpoint
                    raise Interrupted(signum, step=state.step)

    @property
    def _is_over(self) -> bool:
        return self.state.step >= self.plan.total_steps or self.state.has_stopped(self.plan.config)

    def _loader(self) -> DataLoader[Batch | StinPipeError]:
        plan, config = self.plan, self.plan.config
        clips = TrainingClips(
            [ClipShape.of(video) for video in plan.lists.train],
            self.reader,
            stream=config.stream,
            augment=config.augment,
            num_segments=config.num_segments,
            seed=config.seed,
        )
        steps = StepSampler(
            num_samples=len(clips),
            batch_size=plan.batch_size,
            seed=config.seed,
            first_step=self.state.step,
            total_steps=plan.total_steps,
            ranks=self.learner.ranks,
        )
        on_gpu = self.learner.device.type == "cuda"
        return training_loader(clips, steps, num_workers=self.num_workers, pin_memory=on_gpu)

    def _is_checkpoint_due(self) -> bool:
        every = self.learner.runtime.checkpoint_every_steps
        by_steps = every > 0 and self.state.step % every == 0
        return by_steps or self.pace.since_saved >= self.learner.runtime.checkpoint_every_s

    @property
    def num_workers(self) -> int:
        """Loader workers of this process."""
        learner = self.learner
        return loader_worker_count(
            learner.runtime.loader_workers, learner.device, local_count=learner.ranks.local_count
        )

    def _next_of(self, batches: Generator[Batch, None, None]) -> Batch:
        with self.pace.waiting():
            return self.learner.ranks.together(lambda: next(batches))

    def _log_step(self, report: StepReport, *, at_end: bool) -> None:
        step = self.state.step
        if self.log is None or not (at_end or step % self.plan.config.log_every_steps == 0):
            return
        self.log.write("train", step=step, values=report.metrics())
        speed = {
            "samples_per_s": self.pace.rate,
            "loader_wait": self.pace.wait_share,
            "memory_gib": peak_memory_bytes(self.learner.device) / 2**30,
        }
        self.log.curve("speed", step=step, values=speed)

    def _log_pictures(self, batch: Batch) -> None:
        step, every = self.state.step, max(1, self.plan.total_steps // NUM_PICTURES)
        if self.log is None or not self.log.has_pictures or not (step == 1 or step % every == 0):
            return
        for name, image_HWC in training_pictures(self.learner, batch).items():
            self.log.picture(f"pictures/{name}", step=step, image_HWC=image_HWC)

    def _validate(self) -> None:
        plan, state = self.plan, self.state
        held_out = [ClipShape.of(video) for video in plan.lists.held_out]

        # Until it succeeds, a checkpoint says that this validation is still to be done.
        state.to_validate = True
        try:
            result = validate(
                self.learner, held_out, self.reader, batch_size=plan.batch_size, num_workers=self.num_workers
            )
        except Exception:  # a damaged video, for instance: the steps so far are good
            self._save()
            raise
        if not math.isfinite(result.loss):
            advice = ", or resume with --amp off" if self.learner.scaler.is_enabled() else ""
            raise StinPipeError(
                f"step {state.step}: the loss on the held-out videos is {result.loss}, which must be finite. "
                f"The last checkpoint is kept; lower --lr{advice}"
            )

        state.to_validate = False
        state.last_top1 = result.top1
        if self.log is not None:
            self.log.write("val", step=state.step, values=result.metrics())
        # Patience judges by the loss, which moves before the accuracy of a few videos does.
        has_improved = result.loss < state.best_loss
        state.best_loss = min(result.loss, state.best_loss)
        state.num_worse = 0 if has_improved else state.num_worse + 1
        # By accuracy, of equals the later one, which has seen more.
        if has_improved if plan.config.patience else result.top1 >= state.best_top1:
            state.best_top1, state.best_step = result.top1, state.step
            if self.log is not None:
                path = plan.out_dir / BEST_FILE
                export_weights(plan, self.learner, path, step=state.step, top1=result.top1)

    def _save(self) -> None:
        self.learner.require_finite_weights(step=self.state.step)
        self.state.seconds = self.pace.seconds
        if self.log is not None:
            self.log.flush()
            snapshot(
                self.plan.out_dir,
                state=self.state,
                model=self.learner.network,
                optimizer=self.learner.optimizer,
                average=self.learner.average,
                scaler=self.learner.scaler,
                metrics_bytes=self.log.num_bytes,
            )
        self.pace.saved()

    def _warn_of_loader(self) -> None:
        # On a CPU, reading and computing share the cores: more loader workers would not help.
        on_gpu = self.learner.device.type != "cpu"
        if on_gpu and self.pace.num_steps == LOADER_WAIT_STEPS and self.pace.wait_share > LOADER_WAIT_WARNING:
            self.notices.add(
                f"the loader is the bottleneck: {self.pace.wait_share:.0%} of the time is spent waiting for "
                f"it at {self.pace.rate:.1f} samples/s with {self.num_workers} loader workers; "
                "raise --loader-workers"
            )


def _progress(
    plan: TrainingPlan, state: LoopState, report: StepReport, pace: Pace, device: torch.device
) -> TrainProgress:
    left = (plan.total_steps - state.step) * plan.batch_size / max(pace.rate, 1e-9)
    return TrainProgress(
        stream=plan.config.stream_name,
        step=state.step,
        total_steps=plan.total_steps,
        epoch=-(-state.step // plan.per_epoch),
        epochs=-(-plan.total_steps // plan.per_epoch),
        loss=report.loss,
        main_loss=report.main_loss,
        aux_loss=report.aux_loss,
        lr=report.lr,
        samples_per_s=pace.rate,
        loader_wait=pace.wait_share,
        val_top1=state.last_top1 if state.last_top1 >= 0 else None,
        best_val_top1=state.best_top1 if state.best_top1 >= 0 else None,
        seconds_left=left,
        memory_bytes=peak_memory_bytes(device),
    )
