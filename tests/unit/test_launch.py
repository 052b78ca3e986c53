"""What a launch and its workers tell each other, and what is refused before Ray starts."""

import importlib.util
import json
import signal

import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime
from stin_pipe.stin.train_on_ray import WorkerCount, train_on_ray
from stin_pipe.stin.training.interrupt import Interrupted, StopSignal
from stin_pipe.stin.training.launch_files import EventReader, EventWriter, LaunchFolder
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.stin.training.report import TrainNotice, TrainProgress, TrainResult, TrainStart


def progress(step, total=9):
    return TrainProgress(
        stream="spatial",
        step=step,
        total_steps=total,
        epoch=1,
        epochs=2,
        loss=1.5,
        main_loss=1.0,
        aux_loss=None,
        lr=0.1,
        samples_per_s=3.0,
        loader_wait=0.0,
        val_top1=None,
        best_val_top1=None,
        seconds_left=1.0,
        memory_bytes=7,
    )


START = TrainStart(
    stream="spatial",
    num_parameters=1,
    flops_per_sample=2,
    first_step=0,
    total_steps=9,
    num_train=3,
    num_held_out=1,
    device="cpu",
    num_ranks=2,
)


def test_events_arrive_whole_and_in_order(tmp_path):
    folder, seen = LaunchFolder(path=tmp_path), []
    writer, reader = EventWriter(folder), EventReader(folder, seen.append)
    reader.pump()
    assert seen == []
    writer.write(START)
    writer.write(TrainNotice(message="ä\nb"))
    writer.write(progress(1))
    writer.write(progress(2))  # within a second of the last: left out
    writer.write(progress(9))  # the last step never is
    with folder.events.open("a") as file:
        file.write('{"event": "TrainNo')  # a line that is being written
    reader.pump()
    assert seen == [START, TrainNotice(message="ä\nb"), progress(1), progress(9)]
    assert reader.last_step == 9
    with folder.events.open("a") as file:
        file.write('tice", "message": "x"}\n')
    reader.pump()
    assert seen[4:] == [TrainNotice(message="x")]


def test_a_second_start_is_told_as_a_lost_worker(tmp_path):
    folder, seen = LaunchFolder(path=tmp_path), []
    writer = EventWriter(folder)
    writer.write(START)
    writer.write(TrainStart(**{**vars(START), "first_step": 4}))
    EventReader(folder, seen.append).pump()
    assert seen[1] == TrainNotice(message="a train worker was lost; continuing after step 4")


def test_the_outcome_is_that_of_the_first_who_knows_it(tmp_path):
    folder = LaunchFolder(path=tmp_path)
    folder.leave_outcome(StinPipeError("out of GPU memory"))
    folder.leave_outcome(Interrupted(signal.SIGTERM, step=3))
    with pytest.raises(StinPipeError, match="out of GPU memory"):
        folder.read_outcome()
    folder.outcome.unlink()
    folder.leave_outcome(Interrupted(signal.SIGTERM, step=3))
    with pytest.raises(Interrupted, match="interrupted by SIGTERM after step 3"):
        folder.read_outcome()
    folder.outcome.unlink()
    folder.leave_outcome(ValueError("device must be"))
    with pytest.raises(ValueError, match="device must be"):
        folder.read_outcome()
    folder.outcome.unlink()
    numbers = {"epochs": 1, "steps": 2, "seconds": 1.0, "samples_per_s": 2.0}
    result = TrainResult(
        stream="spatial",
        recipe="small",
        split="1",
        **numbers,
        best_val_top1=0.5,
        last_val_top1=None,
        checkpoint="m",
        num_train=1,
        num_held_out=0,
        num_parameters=3,
        num_repeated_fields=0,
        notices=("n",),
    )
    folder.leave_outcome(result)
    assert folder.read_outcome() == result


def test_a_stop_file_asks_as_a_signal_does(tmp_path):
    folder = LaunchFolder(path=tmp_path)
    with StopSignal(folder.stop) as stop:
        assert stop.received == 0
        folder.ask_to_stop(signal.SIGINT)
        assert stop.received == signal.SIGINT


def test_worker_counts_outside_their_range_are_refused():
    assert str(WorkerCount(least=4, most=4)) == "4"
    assert str(WorkerCount(least=4, most=8)) == "4-8"
    with pytest.raises(ValueError, match="train workers must be N or MIN-MAX"):
        WorkerCount(least=0, most=1)
    with pytest.raises(ValueError, match="train workers must be N or MIN-MAX"):
        WorkerCount(least=3, most=2)


def test_without_ray_train_one_line_says_what_to_install(tiny_run, tmp_path, monkeypatch):
    honest = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pandas" else honest(name, *more)
    )
    with pytest.raises(
        StinPipeError, match=r"needs Ray Train, and pandas is not .* \"stin-pipe\[cluster\]\".*torchrun"
    ):
        train_on_ray(
            resolve_recipe("small", "spatial"),
            num_workers=WorkerCount(least=2, most=2),
            address=None,
            manifest=Manifest.load(tiny_run / "extract" / "manifest.json"),
            extract_dir=tiny_run / "extract",
            out_dir=tmp_path / "out",
            split="1",
            runtime=Runtime(device="cpu"),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--train-workers", "0"), "expected a number such as 8 or a range such as 4-8, got '0'"),
        (("--train-workers", "8-4"), "expected a number"),
        (("--address", "auto"), "--address: needs --train-workers N"),
        (("--set", "dropout"), "expected name=value such as ema_decay=0.99, got 'dropout'"),
        (("--set", "loudness=1"), "the spatial stream has no setting 'loudness'"),
        (("--set", "dropout=2"), "dropout must be in [0, 1), got 2"),
    ],
)
def test_wrong_options_are_refused(call, tiny_run, tmp_path, given, message):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"format_version": 1, "commands": []}))
    (run / "extract").symlink_to(tiny_run / "extract")
    called = call("train-spatial", "--run", run, *given)
    assert called.code == 2
    assert message in called.stderr
