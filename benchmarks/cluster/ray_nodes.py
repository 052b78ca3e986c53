"""Claim: `stin-pipe job ray` on three Ray nodes ends right when a node is taken away and another joins.

By hand, with the extra `cluster` installed (its Ray has the job server):

    python benchmarks/cluster/ray_nodes.py [--videos DIR --splits DIR]

Three nodes run on this machine, one CPU each. The chain is submitted with `ray job submit`; when some
shards are done, one node is killed with all of its processes, and a new one joins. The content digests
and the weights must equal those of an undisturbed local run. Prints one JSON object.
"""

import argparse
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
CONFIG = """
run = "{run}"
[extract]
videos = "{videos}"
splits = "{splits}"
classes = ["up", "down", "left"]
limit = 21
short_side = 48
[train]
recipe = "small"
no_flip = true
epochs = 2
segments = 2
batch_size = 8
loader_workers = 0
[fuse-eval]
segments = 2
crops = "1"
loader_workers = 0
"""
SHARDS_BEFORE = 4


class Node:
    """`ray start --block` and everything that it starts."""

    def __init__(self, *arguments: str, environment: dict[str, str], folder: Path) -> None:
        command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats", *arguments]
        command += [f"--temp-dir={folder}"]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def take_away(self) -> int:
        """Kill the node as a lost machine would be: all at once, nothing in order."""
        family = [psutil.Process(self._process.pid)]
        family += family[0].children(recursive=True)
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        return len(family)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def digests(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "extract" / "manifest.json").read_text())
    return {video["id"]: video["digest"] for video in manifest["videos"]}


def wait_for(what: str, condition, process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise SystemExit(f"never: {what}")
        time.sleep(0.05)


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("STIN_SHARED_DATA", root.parent / "shared" / "data")) / "egogestar"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, default=data / "videos")
    parser.add_argument("--splits", type=Path, default=data / "lists")
    given = parser.parse_args()
    if importlib.util.find_spec("aiohttp_cors") is None:
        parser.error('this Ray has no job server; pip install -e ".[cluster]"')
    work = Path(tempfile.mkdtemp(prefix="stin-ray-"))
    port, jobs = free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    texts = {"videos": given.videos, "splits": given.splits}
    for name in ("calm", "job"):
        (work / f"{name}.toml").write_text(CONFIG.format(run=work / name, **texts))
    calm = ["run", "--config", str(work / "calm.toml")]
    subprocess.run(
        [BIN / "stin-pipe", *calm],
        env=environment | {"STIN_PIPE_EXTRACT_RUNNER": "local"},
        check=True,
        stdout=sys.stderr,
    )
    head = ["--head", f"--port={port}", "--include-dashboard=true", f"--dashboard-port={jobs}"]
    nodes = [Node(*head, environment=environment, folder=work / "n0")]
    try:
        wait_for("the job server", lambda: socket.socket().connect_ex(("127.0.0.1", jobs)) == 0)
        join = f"--address=127.0.0.1:{port}"
        nodes += [Node(join, environment=environment, folder=work / f"n{number}") for number in (1, 2)]
        time.sleep(10)
        command = [BIN / "stin-pipe", "job", "ray", "--config", work / "job.toml", "--submit"]
        started = time.monotonic()
        job = subprocess.Popen(
            [*command, "--address", f"http://127.0.0.1:{jobs}"], env=environment, stdout=sys.stderr
        )
        shards = work / "job" / "extract" / "shards"

        def marks() -> int:
            return len(list(shards.glob("[0-9]*.json")))

        wait_for("some shards", lambda: marks() >= SHARDS_BEFORE, job)
        shards_before = marks()
        num_killed = nodes.pop(1).take_away()
        nodes.append(Node(join, environment=environment, folder=work / "n3"))
        code = job.wait(timeout=1200)
        seconds = time.monotonic() - started
    finally:
        for node in nodes:
            node.take_away()
    value = {"exit_code": code, "seconds": round(seconds, 1)}
    value |= {"shards_before": shards_before, "processes_of_the_lost_node": num_killed}
    if code == 0:
        weights = [f"train-{stream}/split1/model.safetensors" for stream in ("spatial", "temporal")]
        value |= {
            "videos": len(digests(work / "job")),
            "equal_digests": digests(work / "calm") == digests(work / "job"),
            "equal_weights": all(
                (work / "calm" / name).read_bytes() == (work / "job" / name).read_bytes() for name in weights
            ),
        }
    ok = code == 0 and value["equal_digests"] and value["equal_weights"]
    print(json.dumps(value | {"ok": ok}))
    shutil.rmtree(work)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
