"""Whoever kills a driver, by whatever signal and when, leaves no process of it behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.stin.processes.at_work import at_work, wait_until_alone
from stin_pipe.stin.shards.errors import StinPipeError

ROOT = Path(__file__).resolve().parents[2]
MARK = "STIN_PIPE_TEST_MARK"


def start(code: str, mark: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Run a script; every process that descends from it carries the mark in its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, MARK: mark, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kill_and_look(process: subprocess.Popen[str], mark: str, wait_s: float = 10.0) -> list[psutil.Process]:
    """Kill a driver and return what is left of it a little later."""
    process.kill()
    process.wait()
    deadline = time.monotonic() + wait_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for orphan in left:
        orphan.kill()
    return left


DECODER = """
import sys
from pathlib import Path
from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
print("begun", flush=True)
list(decode_frames(Path(sys.argv[1]), DecodeNotes(), interlaced=None))
"""

POOL = """
import time
from stin_pipe.pipeline.runners.workers import worker_pool
with worker_pool(2, time.sleep) as pool:
    futures = [pool.submit(time.sleep, 600) for _ in range(2)]
    print("begun", flush=True)
    [future.result() for future in futures]
"""

LOADER = """
import time
from stin_pipe.stin.clips.loader import batches_of, scoring_loader
class Slow:
    def __len__(self):
        return 2
    def __getitem__(self, key):
        time.sleep(600)
loader = scoring_loader(Slow(), batch_size=1, num_workers=2, pin_memory=False)
print("begun", flush=True)
next(batches_of(loader))
"""


def test_a_decoder_that_gives_no_frame_ends_with_its_worker(tmp_path: Path) -> None:
    silent = tmp_path / "ffmpeg"
    silent.write_text(
        f'#!/bin/sh\nif [ "$2" = -version ]; then exec {find_ffmpeg().path} "$@"; fi\nexec sleep 600\n'
    )
    silent.chmod(0o755)
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    process = start(DECODER, "decoder", tmp_path / "a.avi", STIN_PIPE_FFMPEG=str(silent))
    assert process.stdout and process.stdout.readline() == "begun\n"
    deadline = time.monotonic() + 60
    while len(marked("decoder")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marked("decoder")) == 2
    assert kill_and_look(process, "decoder") == []


@pytest.mark.parametrize(
    ("name", "code", "wait_s"), [("pool", POOL, 0.0), ("pool", POOL, 1.0), ("loader", LOADER, 1.0)]
)
def test_workers_end_with_their_driver(name: str, code: str, wait_s: float) -> None:
    """While they start, and while they work."""
    process = start(code, name)
    assert process.stdout and process.stdout.readline() == "begun\n"
    time.sleep(wait_s)
    assert kill_and_look(process, name) == []


@pytest.mark.slow
def test_forty_killed_extracts_leave_nothing_and_the_next_one_goes_on(
    tmp_path: Path, made_videos: Path
) -> None:
    rng = random.Random(1)
    command = (
        "import sys; from stin_pipe.workflows.cli import main; sys.exit(main())",
        "extract", "--run", tmp_path / "run", "--videos", made_videos, "--size", "48x32", "--runner", "local",
        "--workers", 2,
    )  # fmt: skip
    for number in range(40):
        process = start(command[0], f"extract{number}", *command[1:])
        time.sleep(rng.uniform(0.2, 6.0))
        assert kill_and_look(process, f"extract{number}") == []
    last = start(command[0], "last", *command[1:])
    assert last.wait(timeout=300) == 0


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    code = "from stin_pipe.stin.processes.lifeline import end_with; end_with(1 << 22); print('went on')"
    child = start(code, "late")
    assert child.communicate()[0] == "" and child.returncode == -signal.SIGKILL


def test_who_is_still_at_work_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from stin_pipe.stin.processes.at_work import at_work\n"
        "with at_work(Path(sys.argv[1])):\n    print('begun', flush=True)\n    time.sleep(600)"
    )
    worker = start(code, "worker", tmp_path)
    assert worker.stdout and worker.stdout.readline() == "begun\n"
    with at_work(tmp_path), pytest.raises(StinPipeError, match="still work here"):
        wait_until_alone(tmp_path, wait_s=0.1)
    worker.kill()
    worker.wait()
    wait_until_alone(tmp_path, wait_s=1.0)
