"""Where worker processes take their code from, and what is said when they cannot start."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from stin_pipe.pipeline.runners.workers import worker_pool
from stin_pipe.stin.processes.ray_session import ray_session
from stin_pipe.stin.processes.worker_start import cannot_start, package_parent, worker_path
from stin_pipe.stin.shards.errors import StinPipeError, and_more, first_line

ROOT = Path(__file__).resolve().parents[2]


def test_the_current_folder_is_not_on_a_workers_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/elsewhere", *sys.path])
    paths = worker_path()
    assert paths[0] == package_parent() == str(ROOT)
    assert paths.count(str(ROOT)) == 1 and "/elsewhere" in paths
    assert "" not in paths and str(tmp_path) not in paths
    monkeypatch.chdir(ROOT)  # the checkout itself is no stranger's folder
    assert worker_path()[0] == str(ROOT)


def test_what_is_installed_is_left_to_each_nodes_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("stin_pipe.stin.processes.worker_start")
    monkeypatch.setattr(module.site, "getsitepackages", lambda: [str(ROOT)])
    assert module.own_code_paths() == []
    assert str(ROOT) in worker_path() or str(ROOT) not in sys.path


OWN_PATH = """
import os, sys

def act():
    main = sys.modules["__main__"]
    return sys.path, sys.flags.safe_path, hasattr(main, "__file__"), os.environ["OMP_NUM_THREADS"]
"""


def stand_in(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)


def test_a_pools_process_ignores_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("click", "numpy", "cv2", "stin_pipe", "pipeline", "random", "pickle"):
        stand_in(tmp_path, name, "raise SystemExit('the file of a stranger')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    stand_in(tmp_path / "code", "asked", OWN_PATH)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    module, main = importlib.import_module("asked"), sys.modules["__main__"]
    with worker_pool(1, module.act) as pool:
        paths, safe_path, has_main, threads = pool.submit(module.act).result()
    assert str(tmp_path) not in paths and "" not in paths
    assert safe_path and not has_main and threads == "1"
    assert sys.modules["__main__"] is main and "PYTHONSAFEPATH" not in os.environ and "" in sys.path


def test_a_worker_that_fails_to_import_shows_its_traceback_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The module imports here and not in the worker, as a package does that a cluster's node lacks."""
    text = (
        "import multiprocessing\n\ndef act(): ...\n\nif multiprocessing.parent_process():\n    import h5pie\n"
    )
    stand_in(tmp_path / "code", "only_here", text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    module = importlib.import_module("only_here")
    message = "a worker process cannot start: ModuleNotFoundError: No module named 'h5pie'"
    with pytest.raises(StinPipeError, match=message) as error, worker_pool(3, module.act) as pool:
        for future in [pool.submit(module.act) for _ in range(9)]:
            future.result()
    assert 'only_here.py", line 6, in <module>' in str(error.value)
    assert "Traceback" not in capfd.readouterr().err


def test_the_error_of_a_start_ends_with_the_last_lines() -> None:
    text = "".join(f"line {number}\n\n" for number in range(30)) + "ImportError: no h5py\n"
    message = str(cannot_start(text))
    assert message.startswith(
        "a worker process cannot start: ImportError: no h5py; `stin-pipe doctor` checks"
    )
    assert "line 29" in message and "line 23" in message and "line 22" not in message
    assert "no reason is known" in str(cannot_start(" \n"))


@pytest.mark.parametrize(("address", "expected"), [(None, "local"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_ray_starts_here_unless_an_address_is_given(
    address: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where another Ray runs on this machine; and its workers do not get the current folder."""
    options: dict = {}
    ray = ModuleType("ray")
    ray.__dict__.update(
        init=lambda **given: options.update(given), shutdown=lambda: options.update(ended=True)
    )
    ray.__dict__.update(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    config = SimpleNamespace(JobConfig=lambda: SimpleNamespace(_py_driver_sys_path=[]))
    monkeypatch.setitem(sys.modules, "ray.job_config", config)

    def session():
        return ray_session(address, num_cpus=2, advice="check --address")

    with session():
        assert options["address"] == expected and "ended" not in options
    paths = options["job_config"]._py_driver_sys_path
    paths.extend([str(Path.cwd() / "bin"), str(Path.cwd())])  # as ray.init does
    assert paths == [package_parent()]
    assert options["ended"]

    def refuse(**_options: object) -> None:
        raise ConnectionError("\nnobody there\nmore")

    ray.__dict__.update(init=refuse)
    with pytest.raises(StinPipeError, match=r"nobody there; check --address$"), session():
        pass
    ray.__dict__.update(is_initialized=lambda: True)
    with pytest.raises(StinPipeError, match=r"call ray.shutdown\(\) first"), session():
        pass


def test_a_ray_of_ours_asks_for_a_token_and_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    theirs = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/home/me/token"}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)

    def access() -> dict[str, str]:
        return {name: os.environ[name] for name in names if name in os.environ}

    seen: list[dict[str, str]] = []
    ray = ModuleType("ray")
    ray.__dict__.update(init=lambda **_given: seen.append(access()), shutdown=lambda: seen.append(access()))
    ray.__dict__.update(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    config = SimpleNamespace(JobConfig=lambda: SimpleNamespace(_py_driver_sys_path=[]))
    monkeypatch.setitem(sys.modules, "ray.job_config", config)

    for address in (None, None, "10.0.0.1:6379"):
        with ray_session(address, num_cpus=1, advice=""):
            pass
        assert access() == theirs
    first, _, second, _, joined, _ = seen
    for own in (first, second):
        assert own["RAY_AUTH_MODE"] == "token" and len(own["RAY_AUTH_TOKEN"]) == 64
        assert own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0" and "RAY_AUTH_TOKEN_PATH" not in own
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert joined == theirs  # a cluster has its own


SECOND_USER = """
import logging, ray, sys
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
print("joined")
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_user_of_this_machine_cannot_join_our_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    with ray_session(None, num_cpus=1, advice="") as ray:
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
        processes = {item.pid for item in psutil.Process().children(recursive=True)} | {os.getpid()}
        listening = [
            item.laddr
            for item in psutil.net_connections("inet")
            if item.pid in processes and item.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
        ]
        assert listening and {place.ip.removeprefix("::ffff:") for place in listening} == {"127.0.0.1"}

        # Their home holds no token of ours, and so does their environment.
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        for extra in ({}, wrong):
            done = subprocess.run(
                [sys.executable, "-c", SECOND_USER, ray.get_runtime_context().gcs_address],
                env=theirs | {"HOME": str(tmp_path)} | extra,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode != 0 and "joined" not in done.stdout, done.stderr
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_lines_of_errors() -> None:
    assert first_line(ValueError("\n  a \nb")) == "a"
    assert first_line(KeyError()) == "KeyError"
    assert and_more(["a", "b", "c"], 3) == "a, b, c"
    assert and_more(["a", "b", "c"], 1, separator="; ") == "a and 2 more"
