"""Disks that fill, folders that are closed, files that go, clocks that jump, two extracts at once."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.stin.shards.schema import Manifest

MAIN = [sys.executable, "-m", "stin_pipe"]
SMALL = ("--size", "48x32", "--runner", "local", "--workers", "1", "--json")
_PR_CAPBSET_DROP, _DAC_OVERRIDE, _DAC_READ_SEARCH = 24, 1, 2


def digests(run: Path) -> dict[str, str]:
    manifest = Manifest.load(run / "extract" / "manifest.json")
    assert manifest.num_pending == 0
    return {video.id: video.digest for video in manifest.videos.values()}


def arguments(run: Path, videos, *more: object) -> list[str]:
    found = ["extract", "--run", run, "--videos", videos.videos, "--splits", videos.lists, *SMALL, *more]
    return [str(item) for item in found]


def obey_permissions() -> None:
    """Take from root, in a child before it starts, the right to write where permissions say no."""
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def run_obeying(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAIN, *command],
        preexec_fn=obey_permissions,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def check_one_line(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    for text in texts:
        assert text in error, error


class Mounted:
    """A file system of its own, of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size: str, mode: str = "rw") -> None:
        subprocess.run(["mount", "-o", f"remount,{mode},size={size}", str(self.path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mounted]:
    """A tmpfs of 900 KB; only root may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield Mounted(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_with_more_room(
    small_disk: Mounted, made_videos, extracted_run: Path
) -> None:
    run = small_disk.path / "run"
    done = subprocess.run(
        [*MAIN, *arguments(run, made_videos)], capture_output=True, text=True, timeout=300, check=False
    )
    check_one_line(done, "the disk is full", str(small_disk.path), "free some room and give the same command")
    shards = run / "extract" / "shards"
    finished = {path.stem: path.stat().st_mtime_ns for path in shards.glob("*.h5")}
    assert 0 < len(finished) < 27
    assert {path.stem for path in shards.glob("[0-9]*.json")} <= set(finished)
    assert not list(shards.glob(".*.tmp"))
    small_disk.resize("50m")
    again = subprocess.run([*MAIN, *arguments(run, made_videos)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert digests(run) == digests(extracted_run)
    kept = [name for name, when in finished.items() if (shards / f"{name}.h5").stat().st_mtime_ns == when]
    assert len(kept) >= len(finished) - 1  # at most the one shard whose mark found no room was made again


def test_a_read_only_disk_is_named(small_disk: Mounted, made_videos) -> None:
    small_disk.resize("900k", "ro")
    done = subprocess.run(
        [*MAIN, *arguments(small_disk.path / "run", made_videos)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    check_one_line(done, "--run", str(small_disk.path), "Read-only file system")


def test_a_run_that_became_read_only_is_named(small_disk: Mounted, made_videos, extracted_run: Path) -> None:
    small_disk.resize("50m")
    run = small_disk.path / "run"
    shutil.copytree(extracted_run, run)
    (run / "extract" / "shards" / "00003.json").unlink()
    small_disk.resize("50m", "ro")
    done = subprocess.run(
        [*MAIN, *arguments(run, made_videos)], capture_output=True, text=True, timeout=300, check=False
    )
    check_one_line(done, f"{run / 'extract'}: on a read-only file system; choose another folder")
    status = subprocess.run(
        [*MAIN, "status", "--run", str(run), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(status.stdout.splitlines()[-1])["extract"]["done"] == 26


def test_a_folder_that_may_not_be_written(made_videos, extracted_run: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    check_one_line(run_obeying(arguments(closed / "run", made_videos)), "cannot be made: Permission denied")
    run = tmp_path / "run"
    shutil.copytree(extracted_run, run)
    (run / "extract" / "shards" / "00003.json").unlink()
    (run / "extract" / "shards").chmod(0o500)
    done = run_obeying(arguments(run, made_videos))
    (run / "extract" / "shards").chmod(0o700)
    check_one_line(done, "no permission for", "extract/shards;", "choose another folder or change its rights")
    assert not (run / "extract" / "lock.json").exists()


def test_videos_that_may_not_be_read(made_videos, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(made_videos.videos, videos)
    (videos / "red-up" / "v_red-up_01.avi").chmod(0)
    given = replace(made_videos, videos=videos)
    done = run_obeying(arguments(tmp_path / "run", given, "--max-failure-rate", "0.5"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["failures"] == {"unreadable": 1}
    assert "v_red-up_01.avi: cannot be read: Permission denied" in done.stderr
    (videos / "red-down").mkdir()
    (videos / "red-down").chmod(0)
    done = run_obeying(arguments(tmp_path / "other", given))
    (videos / "red-down").chmod(0o700)
    check_one_line(done, "red-down: the folder cannot be read: Permission denied")


def test_files_that_go_in_mid_run_are_failures_worth_a_retry(
    made_videos, extracted_run: Path, tmp_path: Path, call
) -> None:
    videos, run = tmp_path / "videos", tmp_path / "run"
    shutil.copytree(made_videos.videos, videos)
    given = replace(made_videos, videos=videos)
    with subprocess.Popen(
        [*MAIN, *arguments(run, given, "--max-failure-rate", "1")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        while not list((run / "extract").glob("shards/*.json")):
            assert process.poll() is None
            time.sleep(0.005)
        gone = sorted(videos.rglob("*.avi"))[-4:]
        for path in gone:
            path.unlink()
        assert process.stdout is not None
        result = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 0 and result["done"] + result["failed"] == 27
    assert result["failed"] > 0 and set(result["failures"]) == {"missing"}
    failures = (run / "extract" / "failures.jsonl").read_text().splitlines()
    assert all(json.loads(line)["retry"] for line in failures)
    for path in gone:
        shutil.copy(made_videos.videos / path.relative_to(videos), path)
    called = call(*arguments(run, given, "--retry-failed"))
    assert called.code == 0, called.stderr
    assert digests(run) == digests(extracted_run)


def test_a_file_that_goes_while_it_is_read_fails_alone(made_videos, tmp_path: Path, monkeypatch) -> None:
    from stin_pipe.pipeline.listing.listing import ListedVideo
    from stin_pipe.pipeline.shard import from_video as extract
    from stin_pipe.stin.shards.writer import ShardWriter

    shutil.copytree(made_videos.videos / "red-up", tmp_path / "red-up")
    params = ExtractParams(size=(48, 32), short_side=None, bound_px=2.5, flow_backend="cpu")
    whole = extract.prepared_frames

    def and_gone(video, root, *rest, **more):
        for number, frame in enumerate(whole(video, root, *rest, **more)):
            if number == 2 and "_00" in video.path:
                (root / video.path).unlink()
            yield frame

    monkeypatch.setattr(extract, "prepared_frames", and_gone)
    outcomes = []
    with ShardWriter(tmp_path / "00000.h5", attributes={}) as writer:
        for number in range(2):
            path = f"red-up/v_red-up_0{number}.avi"
            video = ListedVideo(id=path, path=path, label=0, class_name="red-up", splits={})
            outcomes.append(
                extract.extract_video(video, root=tmp_path, params=params, writer=writer, timeout_s=60)
            )
    assert [(item.state, item.reason, item.retry) for item in outcomes] == [
        ("failed", "missing", True),
        ("done", "", False),
    ]
    assert "went away while it was read" in outcomes[0].message


@pytest.mark.parametrize(("partial", "state"), [("keep", "done"), ("refuse", "failed")])
def test_a_video_cut_off_between_two_packets_is_damaged(
    partial, state: str, made_videos, tmp_path: Path
) -> None:
    from stin_pipe.pipeline.listing.listing import ListedVideo
    from stin_pipe.pipeline.shard.from_video import extract_video
    from stin_pipe.stin.shards.writer import ShardWriter

    content = (made_videos.videos / "red-up" / "v_red-up_00.avi").read_bytes()
    fourth = [match.start() for match in re.finditer(b"00dc", content)][3]
    (tmp_path / "a.avi").write_bytes(content[:fourth])
    params = ExtractParams(size=(48, 32), short_side=None, bound_px=2.5, flow_backend="cpu", partial=partial)
    video = ListedVideo(id="a/a.avi", path="a.avi", label=0, class_name="a", splits={})
    with ShardWriter(tmp_path / "00000.h5", attributes={}) as writer:
        outcome = extract_video(video, root=tmp_path, params=params, writer=writer, timeout_s=60)
    assert (outcome.state, outcome.notes["damaged"]) == (state, True)
    assert outcome.reason == ("damaged" if partial == "refuse" else "")


JUMPING_CLOCK = """
import datetime, random, time
_time, _real = time.time, datetime.datetime
_rng = random.Random(7)
def _jump(): return _rng.choice((-10 * 365, -1, 0, 1, 5 * 365)) * 86400.0
time.time = lambda: _time() + _jump()
time.time_ns = lambda: int(time.time() * 1e9)
class _Jumping(_real):
    @classmethod
    def now(cls, tz=None): return _real.now(tz) + datetime.timedelta(seconds=_jump())
datetime.datetime = _Jumping
"""


@pytest.mark.slow
def test_a_wall_clock_that_jumps_changes_nothing(
    made_videos, extracted_run: Path, tmp_path: Path, call
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING_CLOCK)
    jumping = {"PYTHONPATH": str(tmp_path / "site")}
    seen = subprocess.run(
        [sys.executable, "-c", "import time; print(len({round(time.time(), -4) for _ in range(50)}) > 2)"],
        env={**os.environ, **jumping}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.strip() == "True", "the clock does not jump, so that this test shows nothing"
    run = tmp_path / "run"
    called = call(*arguments(run, made_videos, "--limit", 9), env=jumping)
    assert called.code == 0, called.stderr
    for number, path in enumerate(sorted((run / "extract").rglob("*"))):
        os.utime(path, (number % 3 * 1e9, number % 2 * 2e9))  # files from 1970, 2033 and between
    (run / "extract" / "shards" / "00002.json").unlink()
    called = call(*arguments(run, made_videos), env=jumping)
    assert called.code == 0, called.stderr
    assert 0 <= called.json["seconds"] < 300  # measured by a clock that does not jump
    assert digests(run) == digests(extracted_run)
    assert call("status", "--run", run, "--json", env=jumping).json["extract"]["state"] == "done"
    assert call("verify", "--run", run, env=jumping).code == 0


def test_a_second_extract_is_refused_by_name_and_a_dead_one_makes_room(
    made_videos, extracted_run: Path, tmp_path: Path, call
) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen(
        [*MAIN, *arguments(run, made_videos)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list((run / "extract").glob("shards/*.json")):
            assert first.poll() is None
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        second = call(*arguments(run, made_videos))
        assert second.code == 1
        assert f"another extract works here: process {first.pid} on host" in second.json["error"]
        repair = call("verify", "--run", run, "--repair", "--json")
        assert repair.code == 1 and f"process {first.pid}" in repair.json["error"]
        assert (
            f"running (process {first.pid}" in call("status", "--run", run, "--json").json["extract"]["state"]
        )
    finally:
        first.kill()
        first.wait()
    assert (run / "extract" / "lock.json").exists(), "nobody was there to take the lock away"
    assert (
        "the same extract command resumes" in call("status", "--run", run, "--json").json["extract"]["state"]
    )
    called = call(*arguments(run, made_videos))
    assert called.code == 0 and "resuming" in called.stderr
    assert digests(run) == digests(extracted_run)
    assert not (run / "extract" / "lock.json").exists()
