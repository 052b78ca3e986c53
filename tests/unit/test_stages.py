"""How far the stages of a run are: read from its files, and handed on as fields."""

import json
import os
import socket
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest

from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.workflows.run.lock import Holder, run_lock
from stin_pipe.workflows.run.stages import TRAININGS, chain_stages, read_status, training_state

OLD_RUNS = Path(__file__).resolve().parents[1] / "golden" / "run-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD_RUNS) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_new_run_has_every_stage_before_it(tmp_path: Path) -> None:
    stages = chain_stages(RunDir(path=tmp_path), ["1", "2"])
    assert [stage.name for stage in stages] == [
        "extract",
        *(f"{command} split {split}" for split in "12" for command in TRAININGS),
        *(f"fuse-eval split {split}" for split in "12"),
    ]
    assert {stage.progress for stage in stages} == {"not started"}


def test_a_training_at_work_is_running_here_and_perhaps_elsewhere(tmp_path: Path) -> None:
    run = RunDir(path=tmp_path)
    folder = run.training("temporal", "1")
    folder.mkdir(parents=True)
    with run_lock(folder / "lock.json", activity="training"):
        assert training_state(run, "train-temporal", "1").progress == "running"
    assert training_state(run, "train-temporal", "1").progress == "unfinished"

    dead = Holder(host=socket.gethostname(), process_id=os.getpid(), start_ticks=-1, boot_id="x")
    elsewhere = Holder(host="node7", process_id=1, start_ticks=1, boot_id="x")
    for holder, progress in ((dead, "unfinished"), (elsewhere, "running")):
        (folder / "lock.json").write_text(json.dumps(asdict(holder)))
        assert training_state(run, "train-temporal", "1").progress == progress


def test_status_of_runs_made_by_the_first_release(old_runs: Path) -> None:
    """The values that the first release printed itself."""
    value = read_status(old_runs / "finished").to_json()
    report = str(old_runs / "finished/fuse-eval/split1/report.html")
    top1 = 0.3333333333333333
    (evaluation,) = value["fuse_eval"]
    assert {
        "stage": "fuse-eval/split1",
        "state": "done",
        "fused_top1": top1,
        "report": report,
    }.items() <= evaluation.items()
    assert evaluation["top1"] == {"spatial": top1, "temporal": 2 * top1, "fused": top1}
    assert [stage["progress"] for stage in value["chain"]] == ["done"] * 4

    value = read_status(old_runs / "unfinished").to_json()
    assert value["extract"] == {
        "state": "done",
        "videos": 12,
        "done": 12,
        "failed": 0,
        "not_yet": 0,
        "streams": "both",
        "in_hand": 0,
        "frames": 84,
        "shards": 12,
        "shards_done": 12,
        "failures": {},
        "damaged": 0,
        "unlisted": 0,
        "changed_sources": [],
        "broken": [],
    }
    loss = 0.6886049509048462
    (training,) = value["training"]
    assert training.pop("init").endswith("/init.safetensors")
    assert [training] == [
        {
            "stage": "train-temporal/split1",
            "state": "unfinished",
            "steps": 20,
            "loss": loss,
            "stream": "temporal",
            "name": "default",
            "split": "1",
            "recipe": "small",
            "seed": 0,
            "backbone": "resnet18-w8",
            "epochs": 60,
            "test_top1": None,
        }
    ]
    assert value["fuse_eval"] == []
    assert value["chain"] == [
        {"stage": "extract", "split": None, "progress": "done", "detail": "12 of 12 videos"},
        {"stage": "train-spatial", "split": "1", "progress": "not started", "detail": ""},
        {"stage": "train-temporal", "split": "1", "progress": "unfinished", "detail": "20 steps"},
        {"stage": "fuse-eval", "split": "1", "progress": "not started", "detail": ""},
    ]
