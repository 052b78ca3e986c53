"""The base installation alone: what it can do is done, and each missing extra is named in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = (
    "import sys; sys.modules.update(ray=None, tensorboard=None)\n"
    "from stin_pipe.workflows.cli import main; main()"
)


def base_install(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the command line where importing ray or tensorboard fails."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
        check=False,
    )


def test_extract_and_training_work_and_say_what_is_missing(made_videos, tmp_path: Path) -> None:
    run = tmp_path / "run"
    videos = tmp_path / "videos"
    for name in ("red-up", "green-up"):
        shutil.copytree(made_videos.videos / name, videos / name)
    done = base_install("extract", "--run", run, "--videos", videos, "--size", "48x32", "--json")
    assert done.returncode == 0, done.stderr
    assert 'ray is not installed ("stin-pipe[cluster]"): processes on this machine do the work' in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["done"] == 6
    settings = ("--recipe", "small", "--epochs", "1", "--segments", "2", "--loader-workers", "0", "--json")
    done = base_install("train-spatial", "--run", run, *settings)
    assert done.returncode == 0, done.stderr
    assert 'tensorboard is not installed ("stin-pipe[report]")' in done.stderr
    folder = run / "train-spatial" / "split1"
    assert (folder / "model.safetensors").exists() and (folder / "metrics.jsonl").stat().st_size > 0
    assert not list(folder.glob("events.*"))


@pytest.mark.parametrize("arguments", [("--runner", "ray"), ("--address", "localhost:6379")])
def test_what_needs_ray_names_the_extra(arguments, made_videos, tmp_path: Path) -> None:
    done = base_install(
        "extract", "--run", tmp_path / "run", "--videos", made_videos.videos, *arguments, "--json"
    )
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert (
        len(lines) == 1 and 'needs ray, which is not installed: pip install "stin-pipe[cluster]"' in lines[0]
    )
    assert not (tmp_path / "run").exists()
