"""Several processes train one stream as one process would: same losses, same weights, same end on trouble."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

# What each process runs. Batch norms stay as they are and dropout is off: what then remains must not depend
# on how many processes share a batch.
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
if settings.pop("still_norms", True):
    torch.nn.BatchNorm2d.train = lambda self, mode=True: torch.nn.Module.train(self, False)
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Interrupted, Runtime, TrainProgress, train_stream
import stin_pipe.stin.training.step

run, out = Path(settings.pop("run")), Path(settings.pop("out"))
stream, poison = settings.pop("stream"), settings.pop("poison", None)
max_steps = settings.pop("pause_after", 0)
rank = int(os.environ.get("RANK", 0))
if poison == rank:
    honest = stin_pipe.stin.training.step.stream_loss
    def poisoned(*arguments, **more):
        loss = honest(*arguments, **more)
        return type(loss)(total=loss.total * float("nan"), main=loss.main, aux=loss.aux)
    stin_pipe.stin.training.step.stream_loss = poisoned
def show(event):
    if isinstance(event, TrainProgress):
        print("step", event.step, flush=True)
        if event.step == max_steps:
            sys.stdin.readline()
config = override(resolve_recipe("small", stream), **settings)
try:
    result = train_stream(config, manifest=Manifest.load(run / "extract" / "manifest.json"),
                          extract_dir=run / "extract", out_dir=out, split="1", on_progress=show,
                          runtime=Runtime(device="cpu", checkpoint_every_steps=1, tensorboard=False))
    print("done", result.steps)
except (StinPipeError, Interrupted) as error:
    print(type(error).__name__, error)
"""

SETTINGS = {
    "backbone": "resnet18-w8",
    "batch_size": 5,
    "epochs": 4,
    "flip": False,
    "val_share": 0.25,
    "val_every_epochs": 2,
    "dropout": 0.0,
    "log_every_steps": 1,
}


def free_port():
    import socket

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start(run, out, *, count, stream="spatial", **changes):
    """Start ``count`` processes as torchrun would."""
    given = json.dumps({"run": str(run), "out": str(out), "stream": stream, **SETTINGS, **changes})
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, given],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(count)
    ]


def ends(processes):
    return [process.communicate(timeout=120)[0] for process in processes]


def train(run, out, *, count, **changes):
    told = ends(start(run, out, count=count, **changes))
    assert all(text.splitlines()[-1].startswith("done") for text in told), told
    return told


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_equal_numbers(first, second):
    assert [sorted(line) for line in first] == [sorted(line) for line in second]
    for ours, theirs in zip(first, second, strict=True):
        for name, value in ours.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, theirs[name], rtol=1e-5, err_msg=f"{ours} {theirs}")
            else:
                assert value == theirs[name]


@pytest.mark.parametrize(
    ("stream", "changes"),
    [
        ("spatial", {}),  # batches of five: parts of two and three
        pytest.param(
            "temporal",
            {"aux_weight": 0.0, "accumulate": 2, "attention": "nonlocal"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_give_the_losses_of_one(tiny_run, tmp_path, stream, changes):
    train(tiny_run, tmp_path / "one", count=1, stream=stream, **changes)
    told = train(tiny_run, tmp_path / "two", count=2, stream=stream, **changes)
    assert "step" in told[0] and "step" not in told[1]  # the first process alone reports
    assert_equal_numbers(metrics(tmp_path / "one"), metrics(tmp_path / "two"))
    assert len(metrics(tmp_path / "two")) == 6
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_resume_exactly_after_a_signal_to_one_of_them(tiny_run, tmp_path):
    # With batch norm and dropout as they are in earnest.
    changes = {"still_norms": False, "dropout": 0.5, "flip": True}
    train(tiny_run, tmp_path / "whole", count=2, **changes)
    processes = start(tiny_run, tmp_path / "halved", count=2, pause_after=2, **changes)
    for line in processes[0].stdout:
        if line == "step 2\n":
            break
    processes[1].send_signal(signal.SIGTERM)
    time.sleep(0.5)
    told = ends(processes)
    assert all("interrupted by SIGTERM after step" in text for text in told), told
    train(tiny_run, tmp_path / "halved", count=2, **changes)
    assert metrics(tmp_path / "halved") == metrics(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("halved", "whole"))
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]), name


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_names_its_videos(tiny_run, tmp_path):
    first, second = ends(start(tiny_run, tmp_path, count=2, poison=1))
    for text in (first, second):
        assert "StinPipeError step 1: the loss is nan" in text.splitlines()[-1]
    named = second.splitlines()[-1].split("videos of this batch: ")[1].split(". The")[0].split(", ")
    assert len(named) == 3  # the second of two parts of five


def test_an_error_in_one_process_is_told_by_all(made_shards, tmp_path):
    made_shards.make_run(tmp_path / "run")
    (tmp_path / "run" / "extract" / "shards" / "00001.h5").unlink()
    first, second = ends(start(tmp_path / "run", tmp_path / "out", count=2))
    for text in (first, second):
        assert "00001.h5: the shard is missing" in text.splitlines()[-1]
        assert "Traceback" not in text


def test_more_processes_than_videos_in_a_batch_are_refused(tiny_run, tmp_path):
    told = ends(start(tiny_run, tmp_path, count=2, batch_size=1))
    assert all("a batch of 1 videos is too small for 2 train workers" in text for text in told)


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tiny_run, tmp_path):
    train(tiny_run, tmp_path / "one", count=1)
    processes = start(tiny_run, tmp_path / "other", count=1, pause_after=2)
    for line in processes[0].stdout:
        if line == "step 2\n":
            break
    processes[0].send_signal(signal.SIGKILL)
    ends(processes)
    train(tiny_run, tmp_path / "other", count=2)
    assert_equal_numbers(metrics(tmp_path / "one"), metrics(tmp_path / "other"))


# The command in a process of torchrun's, with a held-out video that the second process cannot read.
COMMAND = """
import os, sys
import stin_pipe.stin.training.validation
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.cli import main
def damaged(*arguments, **more):
    raise StinPipeError("00001.h5: sha256 differs")
if os.environ["RANK"] == "1":
    stin_pipe.stin.training.validation._count = damaged
main()
"""


@pytest.mark.slow
def test_an_error_of_all_processes_is_told_once(extracted_run, tmp_path):
    run = shutil.copytree(extracted_run, tmp_path / "run")
    given = ["train-spatial", "--run", str(run), "--recipe", "small", "--backbone", "resnet18-w8"]
    given += ["--epochs", "1", "--segments", "2", "--val-share", "0.4", "--loader-workers", "0", "--json"]
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *given],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "RANK": rank,
                "WORLD_SIZE": "2",
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in "01"
    ]
    (first_out, first_err), (second_out, second_err) = (
        process.communicate(timeout=120) for process in processes
    )
    assert [process.returncode for process in processes] == [1, 1]
    assert json.loads(first_out)["error"] == "00001.h5: sha256 differs (train worker 1)"
    assert "00001.h5" in first_err
    assert second_out == "" and "00001.h5" not in second_err and "Traceback" not in second_err
