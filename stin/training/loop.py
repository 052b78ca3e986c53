"""The steps of a training, from where it stands to its end, with what is logged and saved on the way."""

import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import torch

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
"""How often, over a training, pictures go to TensorBoard, beside the first step."""
LOADER_WAIT_WARNING = 0.3
"""Share of the time spent waiting for the loader from which a person is told."""
LOADER_WAIT_STEPS = 50
"""Steps after which that share is looked at."""


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """The steps of one life of a training, in one process."""

    job: TrainingPlan
    learner: Learner
    state: LoopState
    reader: ShardReader
    log: MetricsLog | None
    """None in all processes but the first."""
    stop: StopSignal
    pace: Pace
    notices: Notices

    def run(self) -> None:
        """Take the steps that are left."""
        job, state, ranks = self.job, self.state, self.learner.ranks
        config = job.config
        if state.to_validate:
            self._validate()
        clips = TrainingClips(
            [ClipShape.of(video) for video in job.lists.train],
            self.reader,
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
            ranks=ranks,
        )
        on_gpu = self.learner.device.type == "cuda"
        loader = training_loader(clips, steps, num_workers=self.num_workers, pin_memory=on_gpu)
        every = self.learner.runtime.checkpoint_every_steps
        with closing(batches_of(loader)) as batches:
            while state.step < job.total_steps:
                batch = self._next_of(batches)
                report = train_step(
                    self.learner,
                    batch,
                    num_samples=job.batch_size,
                    step=state.step,
                    total_steps=job.total_steps,
                )
                state.step += 1
                state.num_repeated += int(ranks.sums([batch.num_repeated])[0])
                at_end = state.step == job.total_steps
                self._log_step(report, at_end=at_end)
                self._log_pictures(batch)
                if job.lists.held_out and (
                    at_end or state.step % (config.val_every_epochs * job.per_epoch) == 0
                ):
                    self._validate()
                self.pace.stepped(job.batch_size)
                self.notices.on_event(_progress(job, state, report, self.pace, self.learner.device))
                self._warn_of_loader()
                stopped = ranks.largest(self.stop.received)
                due = self.pace.since_saved >= self.learner.runtime.checkpoint_every_s
                if stopped or due or at_end or (every and state.step % every == 0):
                    self._save()
                if stopped and not at_end:
                    ranks.agree()  # nobody ends before the checkpoint is there
                    raise Interrupted(stopped, step=state.step)

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
        if self.log is None or not (at_end or step % self.job.config.log_every_steps == 0):
            return
        self.log.write("train", step=step, values=report.metrics())
        speed = {
            "samples_per_s": self.pace.rate,
            "loader_wait": self.pace.wait_share,
            "memory_gib": peak_memory_bytes(self.learner.device) / 2**30,
        }
        self.log.curve("speed", step=step, values=speed)

    def _log_pictures(self, batch: Batch) -> None:
        step, every = self.state.step, max(1, self.job.total_steps // NUM_PICTURES)
        if self.log is None or not self.log.has_pictures or not (step == 1 or step % every == 0):
            return
        for name, image_HWC in training_pictures(self.learner, batch).items():
            self.log.picture(f"pictures/{name}", step=step, image_HWC=image_HWC)

    def _validate(self) -> None:
        job, state = self.job, self.state
        held_out = [ClipShape.of(video) for video in job.lists.held_out]
        state.to_validate = True
        try:
            found = validate(
                self.learner, held_out, self.reader, batch_size=job.batch_size, num_workers=self.num_workers
            )
        except Exception:  # such as a damaged video, which is not the steps' fault
            self._save()
            raise
        if not math.isfinite(found.loss):
            advice = " or train on with --amp off" if self.learner.scaler.is_enabled() else ""
            raise StinPipeError(
                f"step {state.step}: the loss on the held-out videos is {found.loss}, which must be finite. "
                f"The last checkpoint is kept; lower --lr{advice}"
            )
        state.to_validate = False
        state.last_top1 = found.top1
        if self.log is not None:
            self.log.write("val", step=state.step, values=found.metrics())
        if found.top1 >= state.best_top1:  # of equals the later: it has seen more
            state.best_top1, state.best_step = found.top1, state.step
            if self.log is not None:
                path = job.out_dir / BEST_FILE
                export_weights(job, self.learner, path, step=state.step, top1=found.top1)

    def _save(self) -> None:
        self.learner.require_finite_weights(step=self.state.step)
        self.state.seconds = self.pace.seconds
        if self.log is not None:
            self.log.flush()
            snapshot(
                self.job.out_dir,
                state=self.state,
                model=self.learner.network,
                optimizer=self.learner.optimizer,
                average=self.learner.average,
                scaler=self.learner.scaler,
                metrics_bytes=self.log.num_bytes,
            )
        self.pace.saved()

    def _warn_of_loader(self) -> None:
        # On a CPU reading and computing share the cores, so more reading would not help.
        on_gpu = self.learner.device.type != "cpu"
        if on_gpu and self.pace.num_steps == LOADER_WAIT_STEPS and self.pace.wait_share > LOADER_WAIT_WARNING:
            self.notices.add(
                f"the loader is the bottleneck: {self.pace.wait_share:.0%} of the time is spent waiting for "
                f"it at {self.pace.rate:.1f} samples/s with {self.num_workers} loader workers; "
                "raise --loader-workers"
            )


def _progress(
    job: TrainingPlan, state: LoopState, report: StepReport, pace: Pace, device: torch.device
) -> TrainProgress:
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
        memory_bytes=peak_memory_bytes(device),
    )
