"""The program in a folder full of Python files that have the names of our packages and of libraries."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("stin_pipe.py", "pipeline.py", "stin/__init__.py", "workflows/__init__.py")
LIBRARIES = (
    "click.py",
    "rich.py",
    "numpy.py",
    "cv2.py",
    "h5py.py",
    "numba.py",
    "torch/__init__.py",
    "ray.py",
)
STANDARD = ("random.py", "pickle.py", "queue.py", "signal.py", "logging/__init__.py")

EXTRACT = ("extract", "--videos", "videos", "--splits", "lists", "--size", "48x32", "--workers", 1)

CONFIG = """
run = "run"
[extract]
videos = "videos"
splits = "lists"
size = "48x32"
runner = "local"
workers = 1
[train]
recipe = "small"
no_flip = true
epochs = 1
segments = 2
batch_size = 6
loader_workers = 1
[fuse-eval]
segments = 2
crops = "1"
loader_workers = 1
"""


def strew(folder: Path, names: tuple[str, ...]) -> Path:
    """Write files that no process of ours may import."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('{name} of a stranger was imported')\n")
    return folder


@pytest.fixture(scope="module")
def place(made_videos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = strew(tmp_path_factory.mktemp("stranger"), OURS + LIBRARIES + STANDARD)
    (folder / "run.toml").write_text(CONFIG)
    (folder / "videos").symlink_to(made_videos.videos)
    shutil.copytree(made_videos.lists, folder / "lists")
    return folder


@pytest.fixture(scope="module")
def program(place: Path, tmp_path_factory: pytest.TempPathFactory):
    """The command as pip installs it: a script in a folder `bin`, called from the stranger's folder."""
    script = tmp_path_factory.mktemp("bin") / "stin-pipe"
    script.write_text("import sys\nfrom stin_pipe.workflows.cli import main\nsys.exit(main())\n")
    other = strew(tmp_path_factory.mktemp("on_pythonpath"), OURS)

    def call(*arguments: object) -> dict:
        done = subprocess.run(
            [sys.executable, script, *map(str, arguments), "--json"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(other)])},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        assert "was imported" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.mark.slow
def test_a_chain_with_worker_processes(place: Path, program) -> None:
    """Local extraction, loader workers of both trainings and of the scoring, and then one video."""
    program("run", "--config", "run.toml")
    video = sorted((place / "videos").rglob("*.avi"))[0]
    assert program("predict", "--run", "run", "--segments", 2, "--crops", 1, video)["command"] == "predict"


def test_workers_of_this_machine(place: Path, program) -> None:
    assert program(*EXTRACT, "--run", "here", "--runner", "local")["done"] == 27


def test_doctor(program) -> None:
    assert program("doctor")["command"] == "doctor"


def test_workers_of_ray(place: Path, program) -> None:
    pytest.importorskip("ray")
    assert program(*EXTRACT, "--run", "on_ray", "--runner", "ray")["done"] == 27


@pytest.mark.slow
def test_training_workers_of_ray(place: Path, program) -> None:
    pytest.importorskip("ray")
    program(*EXTRACT, "--run", "trained", "--runner", "local")
    train = ("train-spatial", "--run", "trained", "--recipe", "small", "--epochs", 1, "--segments", 2)
    program(*train, "--train-workers", 2, "--loader-workers", 1)


def test_python_m_works_from_any_folder(tmp_path: Path) -> None:
    """Also beside a `click.py`; a `stin_pipe.py` there is the one thing that Python puts before us."""
    strew(tmp_path, (*OURS[1:], *LIBRARIES))
    for arguments in (["--version"], ["extract", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "stin_pipe", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "stin-pipe" in done.stdout


BROKEN = """
import sys
if {mark!r} in " ".join(sys.orig_argv):
    sys.modules["h5py"] = None
"""


@pytest.mark.parametrize(
    ("runner", "mark"),
    [("local", "spawn_main"), pytest.param("ray", "default_worker.py", marks=pytest.mark.slow)],
)
def test_workers_that_cannot_import_a_library_end_the_extraction_at_once(
    made_videos, tmp_path: Path, call, runner: str, mark: str
) -> None:
    if runner == "ray":
        pytest.importorskip("ray")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BROKEN.format(mark=mark))
    started = time.monotonic()
    called = call(
        *(
            "extract",
            "--run",
            tmp_path / "run",
            "--videos",
            made_videos.videos,
            "--splits",
            made_videos.lists,
        ),
        *("--size", "48x32", "--runner", runner, "--workers", 2, "--json"),
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])},
    )
    assert called.code == 1
    assert "a worker process cannot start: ModuleNotFoundError: import of h5py halted" in called.json["error"]
    assert "import h5py" in called.json["error"] and "stin-pipe doctor" in called.json["error"]
    assert time.monotonic() - started < 120
