"""The doctor's screen: what works here, what is missing, and what to do about it."""

import shutil
from pathlib import Path

import pytest

from stin_pipe.workflows.commands import doctor

NAMES = ["python", "ffmpeg", "torch", "gpu", "opencv", "flow", "h5py", "cores", "disk", "shared memory"]
NAMES += ["run folder", "file locks", "ray access", "extra cluster", "extra report", "extra cuda"]


def test_this_machine_is_ready_and_each_check_has_a_line(tmp_path: Path, call) -> None:
    called = call("doctor", "--folder", tmp_path, "--json")
    assert called.code == 0, called.stderr
    value = called.json
    assert [check["name"] for check in value["checks"]] == NAMES and value["ready"] is True
    by_name = {check["name"]: check for check in value["checks"]}
    assert "h264" in by_name["ffmpeg"]["detail"] and by_name["flow"]["detail"].startswith("auto is ")
    assert by_name["file locks"]["detail"] == "flock works"
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_missing_need_is_named_and_the_exit_code_is_1(tmp_path: Path, call) -> None:
    called = call("doctor", "--folder", tmp_path, "--json", env={"STIN_PIPE_FFMPEG": "/no/ffmpeg"})
    assert called.code == 1 and called.json["ready"] is False
    (check,) = [check for check in called.json["checks"] if check["name"] == "ffmpeg"]
    assert check["state"] == "failed" and "/no/ffmpeg" in check["detail"]
    assert "not ready: ffmpeg" in called.stderr


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "cluster", (("no-such-package", "many nodes"),))
    check = doctor._check("extra cluster", lambda: doctor._extra("cluster"), needed=False)
    assert (check.state, check.needed) == ("missing", False)
    assert check.detail == 'no no-such-package (many nodes): pip install "stin-pipe[cluster]"'


def test_little_shared_memory_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's default is 64 MiB."""
    usage = shutil._ntuple_diskusage(64 << 20, 0, 64 << 20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    check = doctor._check("shared memory", lambda: doctor._shared_memory(tmp_path), needed=False)
    assert check.state == "missing" and "only 64.0 MiB free" in check.detail and "--shm-size" in check.detail


def test_a_driver_without_a_torch_for_it_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_driver", lambda: "580.65.06")
    check = doctor._check("gpu", doctor._gpu, needed=False)
    assert (
        check.state == "missing" and "580.65.06 is installed, but torch is built without CUDA" in check.detail
    )
    monkeypatch.setattr(doctor, "_driver", lambda: None)
    assert "no NVIDIA driver" in doctor._check("gpu", doctor._gpu, needed=False).detail
