"""Training through Ray Train: a worker that is killed, a signal, a shard that is missing."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime, TrainProgress, TrainStart
from stin_pipe.stin.train_on_ray import WorkerCount, train_on_ray
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe

pytest.importorskip("pandas", reason="Ray Train needs pandas and pyarrow")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
sys.path.insert(0, "tests/robustness")
from pathlib import Path
from test_train_workers_ray import train
from stin_pipe.stin.train import Interrupted
try:
    print(train(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=lambda e: print(e, flush=True)))
except Interrupted as stop:
    print(stop)
"""


def train(run, out, *, least=2, address=None, **more):
    settings = {"backbone": "resnet18-w8", "batch_size": 5, "epochs": 150, "flip": False, "val_share": 0.25}
    return train_on_ray(
        override(resolve_recipe("small", "spatial"), **settings, val_every_epochs=50),
        num_workers=WorkerCount(least=least, most=2),
        address=address,
        manifest=Manifest.load(run / "extract" / "manifest.json"),
        extract_dir=run / "extract",
        out_dir=out,
        split="1",
        runtime=Runtime(device="cpu", checkpoint_every_steps=1, tensorboard=False),
        **more,
    )


def start(run, out):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run), str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process):
    for line in process.stdout:
        if line.startswith("TrainProgress"):
            return
    pytest.fail("no step was taken")


def workers_of(process):
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if child.cmdline()[:1] == ["ray::RayTrainWorker"]]


def assert_same(first, second):
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    ours, theirs = (load_file(out / "model.safetensors") for out in (first, second))
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]), name


def test_killed_worker_and_signalled_launch_end_as_if_undisturbed(tiny_run, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "disturbed"
    assert train(tiny_run, whole).steps == 150
    assert not (whole / "launch").exists()
    process = start(tiny_run, out)
    wait_for_step(process)
    found = workers_of(process)
    assert len(found) == 2
    found[1].kill()
    for line in process.stdout:
        if "a train worker was lost; continuing after step" in line:
            break
    wait_for_step(process)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=120)[0]
    assert "interrupted by SIGTERM after step" in told.splitlines()[-1], told
    assert train(tiny_run, out).steps == 150
    assert_same(whole, out)


def test_an_error_is_told_once_without_waiting_for_retries(made_shards, tmp_path):
    made_shards.make_run(tmp_path / "run")
    (tmp_path / "run" / "extract" / "shards" / "00001.h5").unlink()
    with pytest.raises(StinPipeError, match=r"00001\.h5: the shard is missing"):
        train(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out" / "launch").exists()


def test_a_lost_node_leaves_a_smaller_training(tiny_run, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    starts = []

    def watch(event):
        if isinstance(event, TrainStart):
            starts.append(event)
        if isinstance(event, TrainProgress) and event.step > 20 and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        cluster.wait_for_nodes()
        result = train(tiny_run, tmp_path / "out", least=1, address=cluster.address, on_progress=watch)
    finally:
        cluster.shutdown()
    assert result.steps == 150
    assert [start.num_ranks for start in starts] == [2, 1]
    assert 0 < starts[1].first_step < 150
