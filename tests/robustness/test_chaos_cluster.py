"""A Ray cluster of three nodes on this machine, and something killed in every round."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stin_pipe.stin.shards.schema import Manifest

ROUNDS = int(os.environ.get("STIN_CHAOS_ROUNDS", "20"))
VICTIMS = ("driver", "worker", "decoder", "node")


def digests(run: Path) -> dict[str, str]:
    manifest = Manifest.load(run / "extract" / "manifest.json")
    assert manifest.num_pending == 0 and not manifest.failed
    return {video.id: video.digest for video in manifest.videos.values()}


class ThreeNodes:
    """A head and two more nodes, one CPU each; a node that is taken away is replaced for the next round."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()

    def kill_a_node(self, rng: random.Random) -> None:
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)

    def refill(self) -> None:
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        self.cluster.wait_for_nodes()


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.shared_data
def test_whatever_dies_the_content_is_the_same(shared_data: Path, tmp_path: Path, call) -> None:
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    videos = tmp_path / "videos"
    for source in sorted((shared_data / "egogestar" / "videos").glob("[ul]*/*_1?.mp4"))[:12]:
        target = videos / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    what = ["--videos", str(videos), "--short-side", "64"]
    called = call("extract", "--run", tmp_path / "calm", *what, "--runner", "local")
    assert called.code == 0, called.stderr
    expected = digests(tmp_path / "calm")
    rng = random.Random(5)
    nodes = ThreeNodes()
    try:
        for number in range(ROUNDS):
            run = tmp_path / f"run{number}"
            victim = VICTIMS[number % len(VICTIMS)]
            command = ["extract", "--run", str(run), *what, "--address", nodes.cluster.address]
            _disturbed(command, run, victim, rng, nodes)
            nodes.refill()
            called = call(*command)
            assert called.code == 0, f"round {number}, {victim}: {called.stderr}"
            assert digests(run) == expected, f"round {number}, {victim}"
            assert not list((run / "extract" / "shards").glob(".*")), f"round {number}, {victim}: leftovers"
    finally:
        nodes.cluster.shutdown()


def _disturbed(command: list[str], run: Path, victim: str, rng: random.Random, nodes: ThreeNodes) -> None:
    """Start an extract, kill the victim at a random moment of its work, and see the extract end."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "stin_pipe", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shards = run / "extract" / "shards"
    wanted = rng.randrange(0, 8)
    deadline = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < deadline:
        if len(list(shards.glob("*.json"))) >= wanted and list(shards.glob(".*.progress")):
            break
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    if victim == "driver":
        driver.kill()
    elif victim == "node":
        nodes.kill_a_node(rng)
    else:
        _kill_one("ray::_Slot" if victim == "worker" else "ffmpeg", rng)
    try:
        driver.wait(timeout=180)
    finally:
        driver.kill()
        driver.wait()


def _kill_one(name: str, rng: random.Random) -> None:
    """Kill -9 one process whose command line holds `name`; a decoder may be gone before it is hit."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if name in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid():
            found.append(process.pid)
    if found:
        try:
            os.kill(rng.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return
