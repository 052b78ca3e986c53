"""The run lock: one holder, named to the second; a dead holder is recognised."""

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_new
from stin_pipe.workflows.run.lock import BATCH_JOB, Holder, is_alive, read_holder, run_lock


def hold(path: str) -> None:
    with run_lock(Path(path)):
        time.sleep(60)


@pytest.fixture
def holder_process(tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(str(tmp_path / "lock.json"),))
    process.start()
    while not (tmp_path / "lock.json").exists():
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_second_extract_is_refused_by_name_and_a_dead_one_recognised(
    tmp_path: Path, holder_process
) -> None:
    path = tmp_path / "lock.json"
    with (
        pytest.raises(
            StinPipeError, match=f"another extract works here: process {holder_process.pid} on host"
        ),
        run_lock(path),
    ):
        pass
    os.kill(holder_process.pid, signal.SIGKILL)
    holder_process.join()
    with run_lock(path):
        found = read_holder(path)
        assert found is not None and found.process_id == os.getpid() and is_alive(found)
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_host_needs_the_persons_word(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(asdict(Holder(host="node7", process_id=1, start_ticks=1, boot_id="x"))))
    with pytest.raises(StinPipeError, match="host node7; if it no longer runs there, give --break-lock"):
        run_lock(path).__enter__()
    with run_lock(path, break_lock=True):
        pass


@pytest.mark.parametrize("kind", ["slurm", "named"])
def test_the_next_run_of_a_batch_job_takes_over_from_the_one_that_died_elsewhere(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock.json"

    def attempt(number: int, job: str = "7") -> None:
        monkeypatch.setattr("socket.gethostname", lambda: f"node{number}")
        if kind == "slurm":
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        else:
            monkeypatch.setenv(BATCH_JOB, job)

    attempt(0)
    with run_lock(path):
        left_behind = path.read_text()
    path.write_text(left_behind)  # as a host that lost its power leaves it
    attempt(1, job="8")
    with pytest.raises(StinPipeError, match="host node0; if it no longer runs there"):
        run_lock(path).__enter__()
    attempt(1)
    with run_lock(path):
        assert "node1" in path.read_text()
    assert not path.exists()


def test_two_processes_of_one_run_of_a_job_exclude_each_other(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "lock.json"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("socket.gethostname", lambda: "node0")
    with run_lock(path):
        left_behind = path.read_text()
    path.write_text(left_behind)
    monkeypatch.setattr("socket.gethostname", lambda: "node1")
    with pytest.raises(StinPipeError, match="host node0"):
        run_lock(path).__enter__()


def test_a_reused_process_id_or_a_reboot_is_a_dead_holder(tmp_path: Path) -> None:
    with run_lock(tmp_path / "lock.json"):
        own = read_holder(tmp_path / "lock.json")
    assert own is not None and is_alive(own)
    assert is_alive(replace(own, start_ticks=own.start_ticks + 1)) is False
    assert is_alive(replace(own, boot_id="another")) is False


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("{")
    with pytest.raises(StinPipeError, match=r"lock\.json: the lock cannot be read"):
        run_lock(tmp_path / "lock.json").__enter__()


def test_a_second_training_is_told_what_holds_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with (
        run_lock(path, activity="training"),
        pytest.raises(StinPipeError, match="another training works here: process"),
        run_lock(path, activity="training"),
    ):
        pass
    path.write_text(json.dumps(asdict(Holder(host="node7", process_id=1, start_ticks=1, boot_id="x"))))
    with pytest.raises(StinPipeError, match=r"if it no longer runs there, delete .*lock\.json"):
        run_lock(path, activity="training", to_break=f"delete {path}").__enter__()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_locks_where_hard_links_are_refused(number: int, tmp_path: Path, monkeypatch) -> None:
    """FAT, exFAT, SMB: one holder at a time there too, and a dead one is recognised."""

    def refuse(*_names: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "lock.json"
    with run_lock(path):
        found = read_holder(path)
        assert found is not None and found.process_id == os.getpid()
        with pytest.raises(StinPipeError, match="another extract works here"), run_lock(path):
            pass
    assert list(tmp_path.iterdir()) == []

    dead = replace(found, start_ticks=found.start_ticks - 1)
    path.write_text(json.dumps(asdict(dead)))
    with run_lock(path):
        assert read_holder(path) == found
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "lock.json"
    path.write_bytes(b"")
    holder = json.dumps(asdict(Holder(host="elsewhere", process_id=7, start_ticks=1, boot_id="x")))
    monkeypatch.setattr(time, "sleep", lambda _seconds: path.write_text(holder))
    with pytest.raises(StinPipeError, match="process 7 on host elsewhere"), run_lock(path):
        pass


def test_a_full_disk_leaves_no_half_lock(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "new").write_bytes(b"content")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", lambda *_names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        publish_new(tmp_path / "new", tmp_path / "name")
    assert not (tmp_path / "name").exists()
