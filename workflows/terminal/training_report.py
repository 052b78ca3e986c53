"""What a person sees of a training while it runs."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stin_pipe.stin.training.interrupt import Interrupted
from stin_pipe.stin.training.report import TrainEvent, TrainNotice, TrainProgress, TrainResult, TrainStart
from stin_pipe.workflows.terminal.exits import Terminated
from stin_pipe.workflows.terminal.output import Output, duration, size


@contextmanager
def shown_training(output: Output, label: str) -> Iterator[Callable[[TrainEvent], None]]:
    """Show the events of a training under this label; a signal ends the program as it ends other commands."""
    with output.progress(label, 1, unit="steps") as meter, ended_by_signal():

        def show(event: TrainEvent) -> None:
            match event:
                case TrainNotice():
                    output.warn(event.message)
                case TrainStart():
                    output.say(_start_line(event))
                case TrainProgress():
                    meter.total = event.total_steps
                    meter.update(event.step, _progress_line(event))

        yield show


def show_training_result(output: Output, stream: str, split: str, result: TrainResult) -> None:
    """Show what a training came to."""
    if result.list_change:
        output.warn(
            f"the run's training list has changed since this training ({result.list_change}); it is finished "
            f"and stays as it is; delete {Path(result.checkpoint).parent} to train again on the list of now"
        )
    if result.stopped_early:
        output.show(
            f"stopped after step {result.steps}, because the held-out loss had not improved for as many "
            f"validations as --patience allows; the model is that of step {result.model_step}"
        )
    if result.best_val_top1 is not None:
        best, last = result.best_val_top1, result.last_val_top1
        output.show(f"top-1 on held-out training videos: best {best:.3f}, last {last:.3f}")
    output.show(f"{stream} stream of split {split} trained on {result.num_train} videos: {result.checkpoint}")
    output.result(result.to_json())


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Turn the orderly end of a training by a signal into what ends every command on that signal."""
    try:
        yield
    except Interrupted as stop:
        raise (Terminated if stop.signum == signal.SIGTERM else KeyboardInterrupt) from stop


def _start_line(event: TrainStart) -> str:
    resumed = f", resumed after step {event.first_step}" if event.first_step else ""
    workers = f" with {event.num_ranks} train workers" if event.num_ranks > 1 else ""
    return (
        f"{event.stream} stream: {event.num_parameters / 1e6:.2f} M parameters, "
        f"{event.flops_per_sample / 1e9:.2f} GFLOP a sample forward; {event.num_train} videos to train on, "
        f"{event.num_held_out} held out; {event.total_steps} steps on {event.device}{workers}{resumed}"
    )


def _progress_line(event: TrainProgress) -> str:
    parts = [
        f"epoch {event.epoch}/{event.epochs}",
        f"loss {event.loss:.3f}",
        f"{event.samples_per_s:.1f} videos/s",
    ]
    if event.val_top1 is not None:
        parts.append(f"held-out top-1 {event.val_top1:.3f}")
    parts.append(size(event.memory_bytes))
    if event.seconds_left:
        parts.append(f"{duration(event.seconds_left)} left")
    return ", ".join(parts)
