"""`stin-pipe run`: the whole chain from one file, stopped in the middle, resumed, asked again."""

import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import click
import pytest

from stin_pipe.stin.shards.errors import StinPipeError

CONFIG = """
run = "run"
[extract]
videos = "videos"
splits = "lists"
size = "48x32"
runner = "local"
workers = 2
[train]
recipe = "small"
backbone = "resnet18-w8"
no_flip = true
epochs = 2
segments = 2
batch_size = 6
loader_workers = 0
[train-temporal]
seed = 3
[fuse-eval]
segments = 2
crops = "1"
loader_workers = 0
"""
STAGES = [
    ("extract", None),
    *((f"train-{stream}", split) for split in ("1", "2") for stream in ("spatial", "temporal")),
    *(("fuse-eval", split) for split in ("1", "2")),
]


@pytest.fixture(scope="module")
def place(made_videos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, the videos and lists of two splits that are each other's reverse."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "run.toml").write_text(CONFIG)
    (folder / "videos").symlink_to(made_videos.videos)
    shutil.copytree(made_videos.lists, folder / "lists")
    for side in ("train", "test"):
        shutil.copy(folder / "lists" / f"{side}list01.txt", folder / "lists" / f"{side}list02.txt")
    return folder


def chain(value) -> list[tuple[str, str | None]]:
    return [(stage["stage"], stage["split"]) for stage in value]


@pytest.fixture(scope="module")
def stopped(place: Path, call) -> dict:
    """What a chain says that gets SIGTERM in its first training, and status after it."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "stin_pipe",
            "run",
            "--config",
            "run.toml",
            "--json",
        ],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=None,
    )
    begun = place / "run" / "train-spatial" / "split1" / "config.json"
    deadline = time.monotonic() + 200
    while process.poll() is None and not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 143, stderr
    return {
        "said": json.loads(stdout.splitlines()[-1]),
        "status": call("status", "--run", place / "run", "--json"),
    }


def test_a_dry_run_shows_all_stages_and_makes_nothing(place: Path, call) -> None:
    other = CONFIG.replace('"run"', '"other"')
    (place / "other.toml").write_text(other)
    called = call("run", "--config", "other.toml", "--dry-run", "--json", cwd=place)
    assert called.code == 0, called.stderr
    assert chain(called.json["stages"]) == STAGES
    assert {stage["progress"] for stage in called.json["stages"]} == {"not started"}
    assert not (place / "other").exists()


def test_sigterm_leaves_a_chain_that_says_where_it_is(stopped) -> None:
    assert stopped["said"]["exit_code"] == 143 and "resumes" in stopped["said"]["error"]
    status = stopped["status"]
    assert chain(status.json["chain"]) == STAGES
    progress = [stage["progress"] for stage in status.json["chain"]]
    assert progress[0] == "done" and progress[-1] == "not started"
    assert "next: train-spatial split 1 (unfinished)" in status.stdout + status.stderr


def test_the_same_command_ends_the_chain_and_then_has_nothing_to_do(place: Path, stopped, call) -> None:
    called = call("run", "--config", "run.toml", "--json", cwd=place)
    assert called.code == 0, called.stderr
    assert "stage 1 of 6: extract (done already, only checked)" in called.stderr
    stages = called.json["stages"]
    assert [stage["stage"] for stage in stages] == [*(name for name, _ in STAGES[:5]), "fuse-eval"]
    assert stages[0]["done"] == 27 and stages[-1]["split"] == "all" and len(stages[-1]["splits"]) == 2
    models = sorted((place / "run").glob("train-*/split*/model.safetensors"))
    assert len(models) == 4
    config = json.loads((place / "run/train-temporal/split2/config.json").read_text())["config"]
    assert config["seed"] == 3  # its own table, beside the shared one
    before = [model.stat().st_mtime_ns for model in models]
    (place / "videos").unlink()  # no longer needed once they are extracted
    called = call("run", "--config", "run.toml", "--json", cwd=place)
    assert called.code == 0, called.stderr
    assert "videos is gone, the shards are used as they are" in called.stderr
    assert [model.stat().st_mtime_ns for model in models] == before
    assert called.json["stages"][-1]["fused"] == stages[-1]["fused"]
    called = call("status", "--config", "run.toml", cwd=place)
    assert "chain: 7 of 7 stages done" in called.stdout and "older list" not in called.stdout

    path = place / "run/train-spatial/split1/config.json"
    stored = json.loads(path.read_text())
    told = f"{stored['num_train'] - 1} videos then, {stored['num_train']} now"
    stored |= {"training_list": "0" * 16, "num_train": stored["num_train"] - 1}  # as before a video joined
    path.write_text(json.dumps(stored))
    result = path.with_name("result.json")
    result.write_text(json.dumps(json.loads(result.read_text()) | {"num_train": stored["num_train"]}))
    called = call("run", "--config", "run.toml", "--json", cwd=place)
    assert called.code == 0, called.stderr
    assert called.stderr.count("training list has changed") == 1
    assert told in called.stderr and f"delete {path.parent} to train again" in called.stderr
    assert [model.stat().st_mtime_ns for model in models] == before
    called = call("status", "--config", "run.toml", cwd=place)
    assert f"trained on an older list ({told})" in called.stdout
    assert called.stdout.count("older list") == 1


def test_mistakes_name_file_and_table(tmp_path: Path, call) -> None:
    (tmp_path / "videos").mkdir()
    for text, message in (
        ('run = "r"\n[extract]\n', "c.toml: [extract] needs a value for videos"),
        ('[extract]\nvideos = "videos"\n', 'c.toml: the run directory is missing; write run = "DIR"'),
        ('run = "r"\n[extract]\nvideos = "videos"\nbound = "much"\n', "(bound is from c.toml, [extract])"),
        ('run = "r"\n[extract]\nvideos = "videos"\n[train]\nlr = -1\n', "(lr is from c.toml, [train])"),
        ('run = "r"\n[extract]\nvideos = "gone"\n', "(videos is from c.toml, [extract])"),
        ('[run]\nrun = "r"\n', 'c.toml: [run] is not a table; write run = "..." above all tables'),
    ):
        (tmp_path / "c.toml").write_text(text)
        called = call("run", "--config", "c.toml", "--json", cwd=tmp_path)
        assert called.code == 2 and message in called.json["error"], called.json["error"]
        assert not (tmp_path / "r").exists()
    called = call("run", "--json", cwd=tmp_path)
    assert called.code == 2 and "--write-config run.toml" in called.json["error"]


def test_a_value_of_another_kind_is_told_with_what_to_write(tmp_path: Path, call) -> None:
    (tmp_path / "videos").mkdir()
    for table, line, message in (
        ("extract", "videos = 5", '[extract] has videos = 5; write text in quotes: videos = "..."'),
        ("extract", "classes = true", "[extract] has classes = True; write a list: classes = ["),
        ("train", "lr = [1]", '[train] has lr = [1]; write one value, not a list or table: lr = "..."'),
        ("train", "epochs = 2.5", "[train] has epochs = 2.5; write a whole number: epochs = 2"),
        ("train", "plain = 3", "[train] has plain = 3; write plain = true or plain = false"),
        (
            "train-spatial",
            'set = "ema_decay=2"',
            "[train-spatial] has set = 'ema_decay=2'; write a list: set",
        ),
        ("train-spatial", "set = [{ ema_decay = 2 }]", "write a list: set = ["),
        ("fuse-eval", 'fusion-weights = ["a"]', "['a']; write numbers: fusion-weights = [1, 1.5]"),
    ):
        videos = "" if "videos" in line else 'videos = "videos"\n'
        head = "" if table == "extract" else f"[extract]\n{videos}"
        (tmp_path / "c.toml").write_text(f'run = "r"\n{head}[{table}]\n{videos if not head else ""}{line}\n')
        called = call("run", "--config", "c.toml", "--json", cwd=tmp_path)
        assert called.code == 2, called.stderr
        assert "c.toml: " in called.json["error"] and message in called.json["error"], called.json["error"]
    called = call("fuse-eval", "--config", "c.toml", "--json", cwd=tmp_path)  # its own table, by itself
    assert called.code == 2 and message in called.json["error"], called.json["error"]


def test_training_values_are_checked_before_the_extraction(made_videos, tmp_path: Path, call) -> None:
    """A wrong recipe must not show after hours of extraction."""
    for words, table, line, message in (
        (("run", "--dry-run"), "train", 'recipe = "tnt"', "unknown recipe 'tnt'; known: tsn-ucf101"),
        (("run",), "train-temporal", 'backbone = "resnet7"', "unknown backbone 'resnet7'"),
        (("run",), "train", 'set = ["ema_decay=2"]', "ema_decay must be in [0, 1), got 2"),
        (
            ("job", "slurm"),
            "train",
            'set = ["ema_deacy=0.9"]',
            "no setting 'ema_deacy'; did you mean ema_decay",
        ),
    ):
        (tmp_path / "c.toml").write_text(
            f'run = "r"\n[extract]\nvideos = "{made_videos.videos}"\n[{table}]\n{line}\n'
        )
        called = call(*words, "--config", "c.toml", "--json", cwd=tmp_path)
        assert called.code == 2 and message in called.json["error"], called.stderr
        assert "c.toml: [train] or [train-" in called.json["error"], called.json["error"]
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            "[fuse-eval]\ntune_fusion = true\nfusion_weights = [1, 2]",
            "c.toml: [fuse-eval]: --tune-fusion and --fusion-weights exclude each other",
        ),
        ("[fuse-eval]\nsegments = 1", "c.toml: [fuse-eval]: --segments: the spatial stream compares clips"),
        ('[fuse-eval]\nscores = ["pose=none.csv"]', "none.csv: no such score file"),
        (
            'TWO[fuse-eval]\nscores = ["temporal=c.toml"]',
            "c.toml: [fuse-eval]: --scores: a score file belongs to one split; give --split N",
        ),
        (
            "[train]\nval_share = 0\n[fuse-eval]\ntune_fusion = true",
            "c.toml: [fuse-eval]: --tune-fusion: the spatial stream holds no video out",
        ),
        ('[train]\nsplit = "9"', "c.toml: [train] has split, which the chain ignores"),
        ('[fuse-eval]\nsplit = "1"', "c.toml: [fuse-eval] has split, which the chain ignores"),
        ('[train]\ndevice = "cuda:42"', "c.toml: [train] or [train-spatial]: device cuda:42 is not here"),
        ('[fuse-eval]\ndevice = "cuda:42"', "c.toml: [fuse-eval]: device cuda:42 is not here"),
    ],
)
def test_mistakes_in_the_evaluation_show_before_the_extraction(
    tables: str, message: str, place: Path, made_videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stin_pipe.workflows.cli import cli

    monkeypatch.chdir(tmp_path)
    lists = f'splits = "{place / "lists"}"\n' if tables.startswith("TWO") else ""
    videos = f'videos = "{made_videos.videos}"\n{lists}'
    Path("c.toml").write_text(f'run = "r"\n[extract]\n{videos}{tables.removeprefix("TWO")}\n')
    with pytest.raises((click.UsageError, StinPipeError)) as raised:
        cli.main(["run", "--config", "c.toml"], standalone_mode=False)
    assert message in str(raised.value)
    assert not Path("r").exists()


def test_plain_streams_and_files_of_one_split_pass(made_videos, tmp_path: Path, call) -> None:
    (tmp_path / "pose.csv").write_text("id\n")
    for tables in (
        "[train-spatial]\nplain = true\n[fuse-eval]\nsegments = 1",
        '[fuse-eval]\nscores = ["temporal=pose.csv"]',
    ):
        (tmp_path / "c.toml").write_text(f'run = "r"\n[extract]\nvideos = "{made_videos.videos}"\n{tables}\n')
        called = call("run", "--config", "c.toml", "--dry-run", cwd=tmp_path)
        assert called.code == 0, called.stderr


def test_the_starter_file_is_whole_and_every_line_of_it_is_an_option(tmp_path: Path, call) -> None:
    """Also the lines that are comments: with their mark taken away they must be known options."""
    from stin_pipe.workflows.cli import cli

    assert call("run", "--write-config", "run.toml", cwd=tmp_path).code == 0
    assert call("run", "--write-config", "run.toml", cwd=tmp_path).code == 2  # never overwrites
    text = (tmp_path / "run.toml").read_text()
    assert tomllib.loads(text)["extract"]["videos"] == "videos"
    tables = tomllib.loads(
        "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    )
    assert (tables.pop("run"), tables.pop("split")) == ("runs/mine", "all")
    root = click.Context(cli)
    for table, keys in tables.items():
        command = cli.get_command(root, {"train": "train-spatial"}.get(table, table))
        if table == "job":
            (name, keys), command = *keys.items(), cli.get_command(root, "job")
            command = command.get_command(root, name)
        options = {option.lstrip("-").replace("-", "_") for item in command.params for option in item.opts}
        assert keys and set(keys) <= options, table
