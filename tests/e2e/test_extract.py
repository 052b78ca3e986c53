"""Extraction as a user runs it: both runners, resume after kill -9, the same content whatever happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from stin_pipe.stin.shards.codec import dequantise_flow
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest


def digests(run: Path) -> dict[str, str]:
    manifest = Manifest.load(run / "extract" / "manifest.json")
    return {video.id: video.digest for video in manifest.videos.values()}


def extract_arguments(run: Path, videos, *more: object) -> list[str]:
    arguments = ["extract", "--run", run, "--videos", videos.videos, "--splits", videos.lists]
    return [str(item) for item in (*arguments, "--size", "48x32", "--workers", 2, "--json", *more)]


def test_local_run_holds_every_frame_and_field(extracted_run: Path) -> None:
    manifest = Manifest.load(extracted_run / "extract" / "manifest.json")
    assert (len(manifest.videos), manifest.num_pending, manifest.failed) == (27, 0, ())
    assert (len(manifest.subset("1", "train")), len(manifest.subset("1", "test"))) == (18, 9)
    reader = ShardReader(extracted_run / "extract", manifest)
    for name in ("red-right/v_red-right_00.avi", "blue-left/v_blue-left_02.avi"):
        assert manifest.videos[name].num_frames == 7
        assert reader.read_rgb(name, range(7)).shape == (7, 32, 48, 3)
        coding = reader.flow_coding(name)
        flow = dequantise_flow(reader.read_flow(name, range(6)), coding)
        moving = np.hypot(flow[:, 0], flow[:, 1]) > 1.0
        mean_x = flow[:, 0][moving].mean()
        assert mean_x > 1 if "right" in name else mean_x < -1


def test_the_same_command_does_nothing_more(extracted_run: Path, made_videos, call) -> None:
    before = digests(extracted_run)
    called = call(*extract_arguments(extracted_run, made_videos, "--runner", "local"))
    assert called.code == 0 and "everything is extracted already" in called.stderr
    assert called.json["done"] == 27 and called.json["pairs_per_s"] is None
    assert digests(extracted_run) == before


def test_ray_gives_the_same_content(extracted_run: Path, made_videos, tmp_path: Path, call) -> None:
    pytest.importorskip("ray")
    called = call(*extract_arguments(tmp_path / "run", made_videos))
    assert called.code == 0, called.stderr
    assert called.json["done"] == 27
    assert digests(tmp_path / "run") == digests(extracted_run)


def test_kill_9_at_several_moments_then_the_same_command(
    extracted_run: Path, made_videos, tmp_path: Path, call
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "stin_pipe"]
    command += extract_arguments(run, made_videos, "--runner", "local")
    rng = np.random.default_rng(11)
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shards = run / "extract" / "shards"
        seen = len(list(shards.glob("*.json"))) if shards.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if shards.exists() and len(list(shards.glob("*.json"))) > seen:
                break  # it is at work
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.1)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    called = call(*extract_arguments(run, made_videos, "--runner", "local"))
    assert called.code == 0, called.stderr
    assert digests(run) == digests(extracted_run)
    leftovers = [path.name for path in (run / "extract" / "shards").iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_sigterm_leaves_a_resumable_run(made_videos, extracted_run: Path, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "stin_pipe"]
    process = subprocess.Popen(
        [*command, *extract_arguments(run, made_videos, "--runner", "local")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((run / "extract").glob("shards/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command resumes" in stderr and "Traceback" not in stderr
    assert json.loads(stdout.splitlines()[-1])["exit_code"] == 143
    assert not (run / "extract" / "lock.json").exists()
    assert call(*extract_arguments(run, made_videos, "--runner", "local")).code == 0
    assert digests(run) == digests(extracted_run)


def test_a_broken_shard_is_found_and_rebuilt_alone(
    extracted_run: Path, made_videos, tmp_path: Path, call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(extracted_run, run)
    path = run / "extract" / "shards" / "00003.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    called = call("verify", "--run", run, "--json")
    assert called.code == 1
    assert len(called.json["problems"]) == 1 and "00003" in called.json["problems"][0]
    repaired = call("verify", "--run", run, "--repair", "--json")
    assert "give the same extract command again" in repaired.stderr.splitlines()[-1]
    assert "1 problem, 0 shards" in repaired.stderr and "exit code 1, since" in repaired.stderr
    assert repaired.json["damaged_shards"] == ["00003"] and not path.with_suffix(".json").exists()
    others = {item: item.stat().st_mtime_ns for item in path.parent.glob("*.h5") if item != path}
    assert call(*extract_arguments(run, made_videos, "--runner", "local")).code == 0
    assert all(item.stat().st_mtime_ns == time_ns for item, time_ns in others.items())
    assert digests(run) == digests(extracted_run)
    assert call("verify", "--run", run).code == 0


def test_a_bad_video_fails_alone_and_the_exit_code_says_many(made_videos, tmp_path: Path, call) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(made_videos.videos / "red-up", videos / "good")
    (videos / "bad").mkdir()
    for index in range(3):
        (videos / "bad" / f"{index}.mp4").write_text("no video")
    arguments = ("extract", "--run", tmp_path / "run", "--videos", videos, "--short-side", 32, "--json")
    called = call(*arguments, "--runner", "local")
    assert called.code == 3 and "give the same command with --retry-failed" in called.stderr
    assert (called.json["done"], called.json["failed"], called.json["failures"]) == (3, 3, {"not_a_video": 3})
    lines = (tmp_path / "run" / "extract" / "failures.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {f"bad/{index}.mp4" for index in range(3)}
    called = call(*arguments, "--runner", "local", "--max-failure-rate", 0.6)
    assert called.code == 0 and called.json["failed"] == 3
    shown = call("status", "--run", tmp_path / "run").stdout
    assert f"which and why: {tmp_path / 'run' / 'extract' / 'failures.jsonl'}" in shown
    assert "with --retry-failed tries them again" in shown
    called = call(*arguments, "--runner", "local", "--retry-failed", "--dry-run")
    assert (called.code, called.json["to_do"], called.json["done"]) == (0, 3, 3)
    shutil.copy(videos / "good" / "v_red-up_00.avi", videos / "bad" / "0.mp4")
    called = call(*arguments, "--runner", "local", "--retry-failed", "--max-failure-rate", 1)
    assert (called.json["done"], called.json["failed"]) == (4, 2)
    for index in (1, 2):
        (videos / "bad" / f"{index}.mp4").unlink()
    called = call(*arguments, "--runner", "local", "--retry-failed")
    assert (called.code, called.json["failed"], called.json["pairs_per_s"]) == (0, 0, None)
    assert called.json["unlisted"] == 2 and "2 videos no longer in the folder" in called.stderr


def test_parameters_of_the_flow_are_set_kept_and_part_of_the_runs_identity(
    extracted_run: Path, made_videos, tmp_path: Path, call
) -> None:
    limits = ("--runner", "local", "--limit", 6)
    levers = ("--flow-set", "median_filter=3", "--flow-set", "lambda=0.5")
    run = tmp_path / "run"
    called = call(*extract_arguments(run, made_videos, *limits, *levers))
    assert called.code == 0, called.stderr
    with h5py.File(sorted(run.glob("extract/shards/*.h5"))[0]) as shard:
        kept = json.loads(str(shard.attrs["flow_params"]))
    assert (kept["median_filter"], kept["lambda_"], kept["num_warps"]) == (3, 0.5, 5)
    defaults = digests(extracted_run)
    assert all(digest != defaults[video] for video, digest in digests(run).items())

    called = call(*extract_arguments(run, made_videos, *limits))
    assert called.code == 1
    assert "lambda_: 0.5 in the run, 0.15 now; median_filter: 3 in the run, 0 now" in called.stderr
    assert call(*extract_arguments(run, made_videos, *limits, *levers)).code == 0


def test_names_forge_no_line_and_come_back_exact(made_videos, tmp_path: Path, call) -> None:
    odd = "x\nwarning: all is well\x1b[31m\u2028\u202e"
    good = next(made_videos.videos.rglob("*.avi"))
    for label in (f"a{odd}", os.fsdecode(b"b\xff")):
        folder = tmp_path / "videos" / label
        folder.mkdir(parents=True)
        shutil.copy(good, folder / f"good{odd}.avi")
    (folder / f"bad{odd}.avi").write_bytes(b"no video")

    run, size = tmp_path / "run", ("--size", "48x32", "--streams", "rgb", "--runner", "local", "--workers", 1)
    called = call("extract", "--run", run, "--videos", tmp_path / "videos", *size, "--max-failure-rate", 1)
    assert called.code == 0, called.stderr
    assert "badx\\x0awarning: all is well\\x1b[31m\\u2028\\u202e.avi" in called.stdout
    lines = (called.stdout + called.stderr).splitlines()
    assert not [line for line in lines if line.startswith("warning: all is well")]
    assert not set(called.stdout + called.stderr) & set("\x1b\u2028\u202e")

    (failure,) = (run / "extract" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(failure)["id"].endswith(f"/bad{odd}.avi")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--flow-set", "num_scale=7"), "TV-L1 has no parameter 'num_scale'; did you mean num_scales?"),
        (("--flow-set", "scale_step=1.5"), "scale_step must be in [0.1, 0.95], got 1.5"),
        (("--flow-set", "7"), "expected name=value such as num_scales=7, got '7'"),
        (("--flow", "opencv", "--flow-set", "check_interval=4"), "has no check_interval, got 4"),
    ],
)
def test_a_parameter_that_the_flow_does_not_have_is_refused_by_name(
    made_videos, tmp_path: Path, call, more, message
) -> None:
    called = call(*extract_arguments(tmp_path / "run", made_videos, "--runner", "local", *more))
    assert called.code == 2 and message in called.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.shared_data
def test_a_ucf101_clip_has_107_frames_and_106_fields(shared_data: Path, tmp_path: Path, call) -> None:
    called = call(
        *("extract", "--run", tmp_path / "run", "--videos", shared_data / "clips/ucf101", "--splits"),
        *(shared_data / "splits/ucf101", "--classes", "BaseballPitch", "--size", "64x48"),
        *("--runner", "local", "--json"),
    )
    assert called.code == 0, called.stderr
    assert (called.json["frames"], called.json["flow_pairs"]) == (107, 106)


@pytest.mark.shared_data
def test_every_odd_file_ends_in_a_shard_or_with_a_reason(shared_data: Path, tmp_path: Path, call) -> None:
    called = call(
        *("extract", "--run", tmp_path / "run", "--videos", shared_data / "odd", "--size", "32x32"),
        *("--runner", "local", "--json"),
    )
    files = [path for path in (shared_data / "odd").rglob("*") if path.suffix not in ("", ".tsv")]
    assert called.code == 3
    assert called.json["done"] + called.json["failed"] == called.json["videos"] == len(files)
    assert called.json["failed"] == 7
    manifest = Manifest.load(tmp_path / "run" / "extract" / "manifest.json")
    reasons = {video.id.split("/")[1]: video.reason for video in manifest.failed}
    assert reasons == {
        "audio_only.mp4": "no_video",
        "header_only.avi": "not_a_video",
        "one_frame.avi": "too_short",
        "text_named.avi": "not_a_video",
        "truncated_no_moov_or_partial.mp4": "truncated",
        "vtest_stub_83bytes.avi": "not_a_video",
        "zero_bytes.avi": "empty",
    }
