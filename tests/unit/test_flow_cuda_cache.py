"""Keeping compiled CUDA kernels: one compiler of many, damage, folders that cannot be written."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason='numba-cuda is not installed: pip install "stin-pipe[cuda]"')

from stin_pipe.pipeline.flow.cuda import cache as cuda_cache
from stin_pipe.pipeline.flow.cuda.compile import LinkedKernel
from stin_pipe.stin.shards.errors import StinPipeError

PTX = ".visible .entry made_up_kernel(\n)"


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A cache folder of its own, and a compiler that takes its time and counts its runs."""
    runs = []

    def compile_slowly(threads):
        runs.append(threads)
        time.sleep(0.2)
        return {"iterate": PTX}

    monkeypatch.setenv(cuda_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_cache, "compile_ptx", compile_slowly)
    monkeypatch.setattr(
        cuda_cache, "link", lambda text, capability: LinkedKernel(code=repr(capability).encode(), log="")
    )
    return runs


def test_twenty_workers_at_once_compile_once(compiled):
    found = []
    workers = [
        threading.Thread(target=lambda: found.append(cuda_cache.load_code((9, 0), 256))) for _ in range(20)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [{"iterate": ("made_up_kernel", b"(9, 0)")}] * 20
    assert compiled == [256]


def test_another_gpu_or_block_has_code_of_its_own(compiled):
    for capability, threads in (((9, 0), 256), ((8, 0), 256), ((9, 0), 128), ((9, 0), 256)):
        assert cuda_cache.load_code(capability, threads)["iterate"][1] == repr(capability).encode()
    assert compiled == [256, 256, 128]


@pytest.mark.parametrize("source", ["steps.py", "cuda/solver.py", "cuda/patch.py"])
def test_another_source_has_code_of_its_own(compiled, tmp_path, monkeypatch, source):
    copy = tmp_path / "flow"
    shutil.copytree(Path(cuda_cache.__file__).parents[1], copy)
    monkeypatch.setattr(cuda_cache, "__file__", str(copy / "cuda" / "cache.py"))
    for _ in range(2):
        cuda_cache.load_code((9, 0), 256)
    with (copy / source).open("a") as file:
        file.write("# changed\n")
    cuda_cache.load_code((9, 0), 256)
    assert compiled == [256, 256]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_file_is_made_anew(compiled, tmp_path, damage):
    expected = cuda_cache.load_code((9, 0), 256)
    (file,) = (tmp_path / "cache").glob("*.zip")
    content = bytearray(file.read_bytes())
    at = content.index(b"(9, 0)")
    content[at] ^= 4
    file.write_bytes(content[:40] if damage == "cut" else content)
    assert cuda_cache.load_code((9, 0), 256) == expected
    assert len(compiled) == 2


def test_a_compiler_that_fails_leaves_nothing_behind(compiled, monkeypatch, tmp_path):
    def fail(text, capability):
        raise StinPipeError("no linker")

    with monkeypatch.context() as patch, pytest.raises(StinPipeError, match="no linker"):
        patch.setattr(cuda_cache, "link", fail)
        cuda_cache.load_code((9, 0), 256)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert cuda_cache.load_code((9, 0), 256)


def test_a_file_system_without_locks_serves_too(compiled, monkeypatch, tmp_path):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(cuda_cache.fcntl, "flock", refuse)
    assert cuda_cache.load_code((9, 0), 256) == cuda_cache.load_code((9, 0), 256)
    assert compiled == [256]


def test_where_the_user_has_no_cache_a_private_folder_is_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.delenv(cuda_cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cuda_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cuda_cache.cache_folder()
    assert folder == tmp_path / f"stin-pipe-cache-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # anybody could put code there
    private = cuda_cache.cache_folder()
    assert private != folder and private.stat().st_mode & 0o077 == 0
    monkeypatch.setenv(cuda_cache.CACHE_VARIABLE, str(folder))
    with pytest.raises(StinPipeError, match="set STIN_PIPE_CACHE to a folder of this user alone"):
        cuda_cache.cache_folder()


def test_a_chosen_folder_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(cuda_cache.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(StinPipeError, match=r"file: compiled CUDA .*; set STIN_PIPE_CACHE"):
        cuda_cache.cache_folder()
