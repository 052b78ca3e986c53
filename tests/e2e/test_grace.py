"""SIGTERM with time to finish: what is in hand is finished and marked, nothing else is begun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stin_pipe.stin.shards.schema import Manifest


def digests(run: Path) -> dict[str, str]:
    return {
        video.id: video.digest for video in Manifest.load(run / "extract" / "manifest.json").videos.values()
    }


def test_shards_in_hand_are_finished_and_the_rest_is_left(
    made_videos, extracted_run: Path, tmp_path: Path, call
) -> None:
    """The signal goes to every process of the group, as a batch system sends it."""
    run = tmp_path / "run"
    arguments = ["extract", "--run", run, "--videos", made_videos.videos, "--splits", made_videos.lists]
    arguments += ["--size", "48x32", "--runner", "local", "--workers", "2", "--flow", "reference"]
    arguments += ["--grace", "100", "--limit", "8", "--flow-set", "num_warps=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stin_pipe", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    marks = run / "extract" / "shards"
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(marks.glob("[0-9]*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(3):  # Slurm sends it more than once
        os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    num_done = len(list(marks.glob("[0-9]*.json")))
    assert f"the shards in hand are finished, {8 - num_done} are left" in stderr
    assert 2 <= num_done < 8
    assert not list(marks.glob(".*"))  # a worker that was killed would have left its progress file
    assert len(digests(run)) == num_done
    called = call(*arguments)
    assert called.code == 0, called.stderr
    assert f"resuming: {num_done} of 8 shards are done" in called.stderr
    assert len(digests(run)) == 8
    frames = {video.num_frames for video in Manifest.load(run / "extract" / "manifest.json").videos.values()}
    assert frames == {7}
