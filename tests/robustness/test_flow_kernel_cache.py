"""The compiled kernels' cache: read-only places, hostile places, many processes at once."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from stin_pipe.pipeline.flow.cpu import kernel_cache
from stin_pipe.pipeline.flow.cuda import cache as cuda_cache


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """A home, and a place for temporary files, that are empty."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return home, temporary


def test_the_users_choice_comes_first_then_the_cache_directory(homes, tmp_path):
    home, _ = homes
    name = kernel_cache.choose_directory().name
    assert kernel_cache.choose_directory() == home / "stin-pipe" / name
    assert kernel_cache.choose_directory(str(tmp_path / "mine")) == tmp_path / "mine" / name


def test_an_unwritable_home_falls_back_to_a_private_temporary_directory(homes):
    home, temporary = homes
    home.write_text("a file where the cache should be")
    directory = kernel_cache.choose_directory()
    assert directory.parent == temporary / f"stin-pipe-{os.getuid()}"
    assert directory.stat().st_mode & 0o077 == 0


def test_a_user_without_a_home_has_a_private_temporary_directory(homes, monkeypatch):
    _, temporary = homes

    def no_home():
        raise RuntimeError("could not determine home directory")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    assert kernel_cache.choose_directory().parent == temporary / f"stin-pipe-{os.getuid()}"


def test_a_directory_that_others_can_write_is_not_trusted(homes):
    home, temporary = homes
    home.write_text("")
    planted = temporary / f"stin-pipe-{os.getuid()}"
    name = kernel_cache.choose_directory().name
    (planted / name).chmod(0o777)
    directory = kernel_cache.choose_directory()
    assert directory.parent == temporary and directory.name.startswith("stin-pipe-")
    assert directory.stat().st_mode & 0o077 == 0


OTHER = 4242


def owned_by_another(monkeypatch, *folders: pathlib.Path) -> None:
    """Let these folders belong to another user, as far as anybody can see."""
    nodes = {(folder.stat().st_dev, folder.stat().st_ino) for folder in folders}

    def fstat(descriptor, original=os.fstat):
        status = original(descriptor)
        values = list(status)
        if (status.st_dev, status.st_ino) in nodes:
            values[4] = OTHER
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", fstat)


@pytest.mark.parametrize("module", ["cpu", "cuda"])
def test_an_outer_folder_of_another_user_is_not_trusted(homes, monkeypatch, module):
    """Whoever made it first can swap the inner folder after it was looked at."""
    home, temporary = homes
    home.write_text("")
    choose = kernel_cache.choose_directory if module == "cpu" else cuda_cache.cache_folder
    before = choose()
    outer = before.parent if module == "cpu" else before
    assert outer.parent == temporary
    owned_by_another(monkeypatch, outer)
    private = choose()
    assert private.parent == temporary and outer not in (private, *private.parents)
    assert private.stat().st_uid == os.getuid() and private.stat().st_mode & 0o077 == 0
    assert choose() != private, "each process has its own"


def test_a_folder_above_that_others_may_change_is_not_trusted(homes, tmp_path, monkeypatch):
    home, temporary = homes
    name = kernel_cache.choose_directory().name
    for mode, trusted in ((0o777, False), (0o1777, True), (0o775, os.getgid() == 0), (0o755, True)):
        home.chmod(mode)
        assert (kernel_cache.choose_directory().parent.parent == home) == trusted, oct(mode)
    owned_by_another(monkeypatch, home)
    assert kernel_cache.choose_directory() == temporary / f"stin-pipe-{os.getuid()}" / name


def test_a_link_of_another_user_is_followed_once(homes, tmp_path):
    """It may be turned later, so what is used is what it led to when that was looked at."""
    home, temporary = homes
    home.write_text("")
    (tmp_path / "mine").mkdir(mode=0o700)
    link = temporary / f"stin-pipe-{os.getuid()}"
    link.symlink_to(tmp_path / "mine")
    assert kernel_cache.choose_directory().parent == tmp_path / "mine"


@pytest.mark.parametrize("source", ["steps.py", "cpu/solver.py", "cpu/pair.py", "cpu/simd.py"])
def test_another_source_has_another_cache(homes, tmp_path, monkeypatch, source):
    before = kernel_cache.choose_directory()
    copy = tmp_path / "flow"
    shutil.copytree(pathlib.Path(kernel_cache.__file__).parents[1], copy)
    monkeypatch.setattr(kernel_cache, "__file__", str(copy / "cpu" / "kernel_cache.py"))
    assert kernel_cache.choose_directory() == before
    with (copy / source).open("a") as file:
        file.write("# changed\n")
    assert kernel_cache.choose_directory() != before


WORKER = """
import numpy as np
from stin_pipe.pipeline.flow import tvl1
from stin_pipe.pipeline.flow.cpu import kernel_cache
frames = np.zeros((1, 16, 16), np.uint8)
assert not tvl1(frames, frames, backend="cpu").any()
pair = kernel_cache.load_kernels()
print(sum(pair.solve.stats.cache_misses.values()), sum(pair.solve.stats.cache_hits.values()))
"""


@pytest.mark.slow
def test_of_many_processes_that_start_together_one_compiles(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    outcomes = sorted(worker.communicate(timeout=300)[0].strip() for worker in workers)
    assert outcomes == ["0 1"] * 5 + ["1 0"]
