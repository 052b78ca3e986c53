"""Fixtures that several kinds of tests share."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Tiny layers are slower on several threads, and equal bits are promised for one number of them; read by torch
# when it is loaded, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parents[1]

# The programs that tests start are those of this checkout, whatever is installed and wherever they run.
os.environ["PYTHONPATH"] = str(ROOT)

SMALL_VIDEO = (48, 32)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos, split lists and flow ground truth; skips where it is absent."""
    folder = Path(os.environ.get("STIN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder} (set STIN_SHARED_DATA)")
    return folder


@dataclass(frozen=True)
class Called:
    """What a call of the command line left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object of the last line of standard output."""
        return json.loads(self.stdout.splitlines()[-1])


class CommandServer:
    """Forks calls of the command line from a process that has loaded its libraries (`command_server.py`)."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: list[str], *, cwd: Path, env: dict[str, str]) -> Called:
        """Call the command line and wait for its end."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "command_server.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self._process.stdin is not None and self._process.stdout is not None

        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
            request = {"arguments": arguments, "cwd": str(cwd), "env": env, **files}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            assert answer, "the command server has died"
            texts = {name: Path(file).read_bytes().decode() for name, file in files.items()}
        return Called(code=int(answer), **texts)

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(timeout=30)


SERVER = CommandServer()


def stin_pipe(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, forked: bool = True
) -> Called:
    """Call the command line in a process of its own, as a user does.

    Args:
        arguments: of the command line.
        cwd: folder that the command starts in.
        env: variables beside those of the tests.
        forked: fork it from a process that has the libraries loaded; where variables matter to Python or to a
            library when it is loaded, a new interpreter is started all the same.
    """
    words, folder = [str(argument) for argument in arguments], cwd or ROOT
    variables = {**os.environ, **(env or {})}
    if forked and all(name.startswith("STIN_PIPE_") or name == "PATH" for name in env or {}):
        return SERVER.run(words, cwd=folder, env=variables)
    path = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "stin_pipe", *words],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
        env={**variables, "PYTHONPATH": path},
        check=False,
    )
    return Called(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture(scope="session")
def call():
    """The command line as a function."""
    yield stin_pipe
    SERVER.close()


@dataclass(frozen=True)
class MadeVideos:
    """Small made videos: nine classes, two for training and one for testing each, 7 frames of 48x32."""

    videos: Path
    lists: Path


@pytest.fixture(scope="session")
def made_videos(tmp_path_factory: pytest.TempPathFactory) -> MadeVideos:
    """Videos that no test may change."""
    from stin_pipe.pipeline.demo_videos import SynthParams, make_videos

    folder = tmp_path_factory.mktemp("made")
    width, height = SMALL_VIDEO
    make_videos(
        folder,
        SynthParams(width=width, height=height, num_frames=7, train_per_class=2, test_per_class=1),
    )
    return MadeVideos(videos=folder / "videos", lists=folder / "lists")


@pytest.fixture(scope="session")
def extracted_run(made_videos: MadeVideos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the made videos extracted; tests that write copy it first."""
    run = tmp_path_factory.mktemp("extracted") / "run"
    called = stin_pipe(
        *("extract", "--run", run, "--videos", made_videos.videos, "--splits", made_videos.lists),
        *("--size", "48x32", "--runner", "local", "--workers", 2, "--json"),
    )
    assert called.code == 0, called.stderr
    return run


def _beside(name: str) -> ModuleType:
    """Load `tests/NAME.py`, which no import path reaches."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made_shards() -> ModuleType:
    """The module `tests/made_shards.py`: shards of tiny videos."""
    return _beside("made_shards")


@pytest.fixture(scope="session")
def made_report() -> ModuleType:
    """The module `tests/made_report.py`: a run with random scores, and its report."""
    return _beside("made_report")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; skips without one, and fails so under STIN_REQUIRE_BROWSER=1."""
    module = _beside("browser")
    program = module.find_chromium()
    if program is None:
        reason = f"no Chromium on the PATH ({', '.join(module.NAMES)})"
        if os.environ.get("STIN_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason}, but STIN_REQUIRE_BROWSER=1")
        pytest.skip(f"{reason} (set STIN_REQUIRE_BROWSER=1 to fail instead)")
    opened = module.Browser(program)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_run(made_shards: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with 12 training and 6 test videos of 40x32; tests only read it."""
    folder = tmp_path_factory.mktemp("tiny_run")
    made_shards.make_run(folder)
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run GPU tests where there is a GPU; without one skip them, or let them fail when a GPU is demanded."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if torch.cuda.is_available() or os.environ.get("STIN_REQUIRE_GPU") == "1":
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="no CUDA device (set STIN_REQUIRE_GPU=1 to fail instead)"))
