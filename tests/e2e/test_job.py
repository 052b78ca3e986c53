"""`stin-pipe job`: from a configuration file to scripts, a submitted command, a manifest."""

import os
import shlex
from pathlib import Path

import pytest
import yaml

CONFIG = """
run = "my runs/one"
[extract]
videos = "videos"
splits = "lists"
[job.slurm]
partition = "gpu"
nodes = 2
setup = ["module load cuda"]
"""


@pytest.fixture
def place(made_videos, tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "videos").symlink_to(made_videos.videos)
    (tmp_path / "lists").symlink_to(made_videos.lists)
    return tmp_path


def test_slurm_takes_its_table_and_submits_in_order(place: Path, call) -> None:
    """With a stub of sbatch, which prints the number of the job and notes its arguments."""
    (place / "bin").mkdir()
    stub = place / "bin" / "sbatch"
    stub.write_text('#!/bin/bash\necho "$*" >> ../calls\nwc -l < ../calls\n')
    stub.chmod(0o755)
    path = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    called = call("job", "slurm", "--config", "run.toml", "--submit", "--json", cwd=place, env=path)
    assert called.code == 0, called.stderr
    assert called.json["jobs"] == {"extract": "1", "train": "2", "fuse-eval": "3"}
    calls = (place / "calls").read_text().splitlines()
    assert [line.split()[-1] for line in calls] == ["extract.sh", "train.sh", "fuse-eval.sh"]
    assert "--dependency=afterok:1 " in calls[1] and "--dependency=afterok:2 " in calls[2]
    script = (place / "run.slurm" / "extract.sh").read_text()
    for line in ("#SBATCH --nodes=2", "#SBATCH --partition=gpu", "module load cuda"):
        assert line in script.splitlines()
    assert "ray start" in script
    assert shlex.quote(str(place / "my runs" / "one")) in script


def test_without_slurm_here_the_scripts_are_written_and_the_error_is_plain(place: Path, call) -> None:
    arguments = ("job", "slurm", "--config", "run.toml", "--json")
    called = call(*arguments, "--submit", cwd=place, env={"PATH": "/usr/bin/none"})
    assert called.code == 1 and "the program sbatch is not installed here" in called.json["error"]
    assert (place / "run.slurm" / "submit.sh").exists()
    called = call(*arguments, "--partition", "a b", cwd=place)
    assert called.code == 2 and "--partition: 'a b' contains characters" in called.json["error"]
    called = call(*arguments, "--split", "7", cwd=place)
    assert called.code == 2 and "'7' is not in this data; its splits are: 1" in called.json["error"]
    assert "is from" not in called.json["error"]
    (place / "run.toml").write_text('split = "7"' + CONFIG)
    called = call(*arguments, cwd=place)
    assert called.code == 2 and "(split is from run.toml, above the tables)" in called.json["error"]


def test_ray_shows_the_command_with_every_path_whole(place: Path, call) -> None:
    called = call("job", "ray", "--config", "run.toml", "--address", "http://h:8265", "--json", cwd=place)
    assert called.code == 0, called.stderr
    argv = called.json["argv"]
    assert argv[:6] == ["ray", "job", "submit", "--address", "http://h:8265", "--"]
    run = ["stin-pipe", "run", "--config", str(place / "run.toml"), "--run", str(place / "my runs" / "one")]
    assert argv[-8:] == [*run, "--split", "1"]
    assert "STIN_PIPE_EXTRACT_ADDRESS=auto" in argv
    assert shlex.split(called.stderr.splitlines()[0]) == argv


def test_kubernetes_needs_paths_as_pods_see_them(place: Path, call) -> None:
    arguments = ("job", "kubernetes", "--config", "run.toml", "--image", "stin-pipe:cpu", "--claim", "videos")
    called = call(*arguments, "--json", cwd=place)
    assert (
        called.code == 2
        and "run: 'my runs/one' must be an absolute path under --mount" in called.json["error"]
    )
    (place / "run.toml").write_text('run = "/data/runs/one"\n[extract]\nvideos = "/data/videos"\n')
    called = call(*arguments, cwd=place)
    assert called.code == 0, called.stderr
    assert [part["kind"] for part in yaml.safe_load_all(called.stdout)] == ["ConfigMap", "RayJob"]


def test_a_configuration_file_with_a_control_character_in_its_name_is_refused(place: Path, call) -> None:
    (place / "a\nb.toml").write_text('run = "/data/runs/one"\n[extract]\nvideos = "/data/videos"\n')
    for words in (
        ("kubernetes", "--image", "i", "--claim", "c"),
        ("ray", "--address", "http://h:1"),
        ("slurm",),
    ):
        called = call("job", *words, "--config", "a\nb.toml", "--json", cwd=place)
        assert called.code == 2 and "contains control characters" in called.json["error"], called.stderr


def test_tables_are_checked_before_pods_read_them(place: Path, call) -> None:
    """Paths in them are those of the pods; everything else is checked here."""
    arguments = ("job", "kubernetes", "--config", "run.toml", "--image", "stin-pipe:cpu", "--claim", "videos")
    head = 'run = "/data/runs/one"\n[extract]\nvideos = "/data/videos"\n'
    for table, message in (
        ('[train]\nrecipe = "nope"', "[train] or [train-spatial]: unknown recipe 'nope'"),
        ('[fuse-eval]\ncrops = "7"', "run.toml, [fuse-eval])"),
        ("[extract.x]", "no option 'x'"),
    ):
        (place / "run.toml").write_text(head + table)
        called = call(*arguments, "--json", cwd=place)
        assert called.code == 2 and message in called.json["error"], called.stderr
    (place / "run.toml").write_text(head + '[train]\ninit = "/data/weights.pth"\n')
    called = call(*arguments, "--run", "/data/of flag", "--name", "x", cwd=place)
    assert called.code == 0, called.stderr
    (_, job) = yaml.safe_load_all(called.stdout)
    assert "--run '/data/of flag' --split all" in job["spec"]["entrypoint"]


def test_what_a_job_needs_is_asked_for_at_once(place: Path, call) -> None:
    for words, message in (
        (("ray",), "needs --config and --address"),
        (("kubernetes",), "needs --config and --image and --claim"),
        (("kubernetes", "--config", "run.toml", "--image", "i"), "needs --claim (see"),
    ):
        called = call("job", *words, "--json", cwd=place)
        assert called.code == 2 and message in called.json["error"], called.stderr
