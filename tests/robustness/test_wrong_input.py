"""What a tired user gets wrong: one clear line, the right exit code, no traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def check(called, code: int, *texts: str) -> None:
    assert called.code == code, called.stderr
    assert "Traceback" not in called.stderr
    last = called.stderr.strip().splitlines()[-1]
    for text in texts:
        assert text in last, last
    value = called.json
    assert value["exit_code"] == code and value["error"]


@pytest.fixture
def run(extracted_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(extracted_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["--videos", "gone"], 2, ["--videos", "'gone' does not exist"]),
        (["--videos", "empty"], 1, ["empty: no video files; expected empty/<class>/<video>"]),
        (["--videos", "loose"], 1, ["loose: 1 video files but no class folders"]),
        (["--videos", "file.mp4"], 2, ["file.mp4", "is a file"]),
        (["--videos", "good", "--bound", "0"], 2, ["--bound", "0"]),
        (["--videos", "good", "--bound", "much"], 2, ["--bound", "'much'"]),
        (["--videos", "good", "--size", "big"], 2, ["WIDTHxHEIGHT", "'big'"]),
        (["--videos", "good", "--size", "8x8"], 2, ["16 to 4096", "8x8"]),
        (["--videos", "good", "--size", "64x48", "--short-side", "32"], 2, ["exclude each other"]),
        (["--videos", "good", "--classes", "cat"], 2, ["no class 'cat'", "it has: a"]),
        (["--videos", "good", "--splits", "empty"], 1, ["empty: no split lists"]),
        (["--videos", "good", "--dataset", "ucf101"], 1, ["--splits"]),
        (["--videos", "good", "--list", "gone.csv"], 2, ["--list", "'gone.csv' does not exist"]),
        (["--videos", "good", "--config", "gone.toml"], 2, ["--config", "'gone.toml' does not exist"]),
        (["--videos", "good", "--config", "bad.toml"], 2, ["bad.toml", "no option 'colour'"]),
        (["--videos", "good", "--config", "table.toml"], 2, ["'extrct' is a table that no command reads"]),
        (["--videos", "good", "--config", "top.toml"], 2, ["'short_side' is a value outside any table"]),
        (["--videos", "good", "--list", "twice.csv"], 1, ["twice.csv:3: a/x.mp4 was listed before"]),
        (["--videos", "good", "--list", "column.csv"], 1, ["unknown column 'colour'"]),
        (["--videos", "good", "--address", "x:1", "--runner", "local"], 2, ["--address needs --runner ray"]),
        (["--videos", "good", "--flow", "magic"], 2, ["--flow", "'magic'"]),
        ([], 2, ["--videos"]),
    ],
)
def test_extract(arguments: list[str], code: int, texts: list[str], tmp_path: Path, call) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "x.mp4").write_bytes(b"x")
    (tmp_path / "file.mp4").write_bytes(b"x")
    (tmp_path / "good" / "a").mkdir(parents=True)
    (tmp_path / "good" / "a" / "x.mp4").write_bytes(b"x")
    (tmp_path / "table.toml").write_text("[extrct]\nshort_side = 64\n")
    (tmp_path / "top.toml").write_text("short_side = 64\n")
    (tmp_path / "twice.csv").write_text("path,label\na/x.mp4,a\na/x.mp4,b\n")
    (tmp_path / "column.csv").write_text("path,label,colour\na/x.mp4,a,red\n")
    (tmp_path / "bad.toml").write_text("[extract]\ncolour = 3\n")
    called = call("extract", "--run", "run", "--json", *arguments, cwd=tmp_path)
    check(called, code, *texts)
    assert not (tmp_path / "run" / "extract" / "plan.json").exists()


def test_gpu_flow_without_a_gpu_is_refused(made_videos, tmp_path: Path, call) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    called = call(
        "extract", "--run", tmp_path / "r", "--videos", made_videos.videos, "--flow", "cuda", "--json"
    )
    assert called.code in (1, 2)
    assert "cuda" in called.json["error"].lower() and "Traceback" not in called.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["train-spatial", "--recipe", "huge"], 2, ["unknown recipe 'huge'", "small"]),
        (["train-spatial", "--split", "7"], 2, ["'7' is not in this run; its splits are: 1"]),
        (["train-temporal", "--backbone", "vgg99"], 2, ["vgg99"]),
        (["train-spatial", "--init", "gone.pth"], 2, ["--init", "'gone.pth' does not exist"]),
        (["train-spatial", "--lr", "-1"], 2, ["--lr"]),
        (["train-spatial", "--device", "cuda:42"], 2, ["cuda:42 is not here"]),
        (["train-spatial", "--backbone", "timm:nope"], 2, ["timm"]),
        (["fuse-eval"], 1, ["spatial stream of split 1 is not trained yet", "train-spatial"]),
        (["fuse-eval", "--split", "2"], 2, ["'2' is not in this run; its splits are: 1"]),
        (["fuse-eval", "--split", "all"], 1, ["no split has its streams trained"]),
        (["fuse-eval", "--fusion-weights", "1"], 2, ["--fusion-weights"]),
        (["predict", "x.mp4"], 1, ["no stream of split 1 is trained yet"]),
    ],
)
def test_later_stages(arguments: list[str], code: int, texts: list[str], run: Path, call) -> None:
    command, *rest = arguments
    called = call(command, "--run", run, "--json", *rest)
    check(called, code, *texts)
    assert not (run / "fuse-eval").exists()


def test_a_misspelled_variable_is_refused(run: Path, call) -> None:
    called = call("verify", "--run", run, "--json", env={"STIN_PIPE_VERIFY_REPAIRR": "1"})
    check(called, 2, "STIN_PIPE_VERIFY_REPAIRR is not an option of verify")


def test_status_says_which_file_is_damaged(run: Path, call) -> None:
    for name in ("train-spatial/split1/result.json", "fuse-eval/split1/metrics.json"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("{")
    called = call("status", "--run", run, "--json")
    assert called.code == 0 and called.json["extract"]["done"] == 27
    assert "result.json cannot be read" in called.json["training"][0]["state"]
    assert "metrics.json cannot be read" in called.json["fuse_eval"][0]["state"]


def test_predict_on_a_folder_without_videos(run: Path, tmp_path: Path, call) -> None:
    (tmp_path / "empty").mkdir()
    assert call("predict", "--run", run, tmp_path / "empty", "--json").code == 1


@pytest.mark.parametrize("command", ["train-spatial", "train-temporal", "fuse-eval", "status", "verify"])
def test_before_extraction(command: str, tmp_path: Path, call) -> None:
    check(call(command, "--run", tmp_path / "none", "--json"), 1, "does not exist", "stin-pipe extract")
    (tmp_path / "empty").mkdir()
    check(call(command, "--run", tmp_path / "empty", "--json"), 1, "not a run directory", "stin-pipe extract")


def test_a_run_of_another_version_and_a_damaged_one(run: Path, made_videos, call) -> None:
    value = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(value | {"format_version": 9}))
    check(call("status", "--run", run, "--json"), 1, "format version 9", "this program reads version 1")
    (run / "run.json").write_text("{")
    arguments = ("--run", run, "--videos", made_videos.videos, "--json")
    check(call("extract", *arguments), 1, "run.json: the record of the run cannot be read")


def test_a_folder_of_other_things_is_not_taken_for_a_run(made_videos, tmp_path: Path, call) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    called = call("extract", "--run", tmp_path, "--videos", made_videos.videos, "--json")
    check(called, 1, "holds other things and no run.json")


def test_weights_that_do_not_fit(run: Path, tmp_path: Path, call) -> None:
    import torch

    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "w.pth")
    called = call("train-spatial", "--run", run, "--recipe", "small", "--init", tmp_path / "w.pth", "--json")
    check(called, 1, "w.pth")
    (tmp_path / "t.pth").write_text("not weights")
    called = call("train-spatial", "--run", run, "--recipe", "small", "--init", tmp_path / "t.pth", "--json")
    check(called, 1, "t.pth: not a weights file")


def test_other_parameters_on_resume_are_refused_with_the_difference(run: Path, made_videos, call) -> None:
    arguments = ("extract", "--run", run, "--videos", made_videos.videos, "--splits", made_videos.lists)
    called = call(*arguments, "--size", "48x32", "--bound", 3, "--runner", "local", "--json")
    check(called, 1, "planned with other parameters", "bound_px: 2.5 in the run, 3.0 now")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(made_videos, tmp_path: Path, call) -> None:
    tmp_path.chmod(0o500)
    called = call("extract", "--run", tmp_path / "run", "--videos", made_videos.videos, "--json")
    check(called, 1, "cannot be made")


def test_values_come_from_flag_environment_file_in_this_order(tmp_path: Path, made_videos, call) -> None:
    (tmp_path / "c.toml").write_text('[extract]\nsize = "64x48"\nrunner = "local"\n')
    arguments = ("extract", "--run", tmp_path / "r", "--videos", made_videos.videos, "--dry-run")
    arguments += ("--config", tmp_path / "c.toml")
    assert "frames 64x48" in call(*arguments).stderr
    assert "frames 32x32" in call(*arguments, env={"STIN_PIPE_EXTRACT_SIZE": "32x32"}).stderr
    called = call(*arguments, "--size", "40x40", env={"STIN_PIPE_EXTRACT_SIZE": "32x32"})
    assert "frames 40x40" in called.stderr
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_said_plainly(made_videos, tmp_path: Path) -> None:
    """A limit on file size is as good as a full disk: writing fails in the middle of a shard."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000));"
        "from stin_pipe.workflows.cli import main; main()"
    )
    arguments = ["extract", "--run", str(tmp_path / "run"), "--videos", str(made_videos.videos)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--short-side", "64", "--runner", "local", "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "stin-pipe: " in done.stderr
    assert list((tmp_path / "run" / "extract" / "shards").glob("*.h5")) == []


def test_a_dry_run_refuses_the_folder_of_something_else(made_videos, call) -> None:
    folder = made_videos.videos
    called = call("extract", "--run", folder, "--videos", folder, "--dry-run", "--json")
    check(called, 1, "the folder holds other things and no run.json")
