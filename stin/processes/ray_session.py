"""Start Ray on this machine or join a cluster, and leave it again; nothing else calls `ray.init`."""

import importlib
import importlib.util
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from stin_pipe.stin.processes.worker_start import own_code_paths
from stin_pipe.stin.shards.errors import StinPipeError, first_line

_TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_MANY_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0, Ray takes 127.0.0.1 for the address of its node, on whatever system, and listens there alone."""


class _CodePaths(list[str]):
    """Folders that Ray's workers put in front of their `sys.path`.

    `ray.init` extends this list by the current folder and the script's: whatever Python files a user keeps
    there would hide our package and its dependencies from every worker.
    """

    def extend(self, _paths: Iterable[str]) -> None:
        """Add nothing."""


def ray_installed() -> bool:
    """Tell whether ray can be imported, without importing it."""
    return importlib.util.find_spec("ray") is not None


def cluster_address(address: str | None) -> str | None:
    """Return the address of the cluster to use, None to start Ray on this machine."""
    return address or os.environ.get("RAY_ADDRESS") or None


def local_access() -> str:
    """Say who can join a Ray that is started here.

    Raises:
        LookupError: any user of this machine can, because Ray is too old to ask for a token.
    """
    found = importlib.util.find_spec("ray")
    places = (found and found.submodule_search_locations) or ()
    if not any((Path(place) / "_private" / "authentication").is_dir() for place in places):
        raise LookupError(
            "a Ray that is started here listens on 127.0.0.1, but is too old to ask for a token: any user of "
            'this machine can run code as you meanwhile; pip install "ray>=2.52", or use --runner local'
        )
    return "a Ray that is started here listens on 127.0.0.1 and asks for a token of its own"


def open_cluster(address: str) -> str:
    """Return a warning if the cluster that this process has joined asks for no token, else nothing."""
    part = _part_of_ray("_raylet")
    # A Ray of before tokens asks for none.
    if (
        hasattr(part, "AuthenticationMode")
        and part.get_authentication_mode() == part.AuthenticationMode.TOKEN
    ):
        return ""
    return (
        f"the Ray cluster at {address} asks for no token: whoever reaches it can run code as its user; "
        "start it with RAY_AUTH_MODE=token unless its network is closed"
    )


@contextmanager
def _private_ray() -> Iterator[None]:
    """Let a Ray that starts meanwhile listen on 127.0.0.1 alone, and admit only who knows its token.

    Ray's own default keeps one token for all times in a file of the home, and listens on every address.
    """
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), _MANY_NODES: "0"}
    before = {name: os.environ.pop(name, None) for name in (*_TOKENS, _MANY_NODES)}
    os.environ.update(own)  # its processes inherit this, and no other user can read it
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _read_access_again(*, is_local: bool) -> None:
    """Make Ray read the settings above anew; a process that has imported Ray before remembers older ones."""
    if constants := _part_of_ray("_private.ray_constants"):
        constants.ENABLE_RAY_CLUSTER = not is_local
    part = _part_of_ray("_raylet")
    if hasattr(part, "AuthenticationTokenLoader"):
        part.Config.initialize("")
        part.AuthenticationTokenLoader.instance().reset_cache()


def _part_of_ray(name: str) -> Any:
    """Return a module inside Ray; None where this version has none."""
    try:
        return importlib.import_module(f"ray.{name}")
    except ImportError:
        return None


@contextmanager
def ray_session(address: str | None, *, num_cpus: int, advice: str) -> Iterator[Any]:
    """Hold a connection to Ray; yields the module `ray`.

    Args:
        address: of a cluster; None starts Ray on this machine and ends it with the block.
        num_cpus: CPUs that Ray offers on this machine; a cluster has its own.
        advice: what to try when there is no Ray to connect to.

    Raises:
        StinPipeError: no cluster at the address, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray hides the GPUs from tasks that ask for none, such as the questions to each node.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with nullcontext() if address else _private_ray():
        yield from _session(address, num_cpus, advice)


def _session(address: str | None, num_cpus: int, advice: str) -> Iterator[Any]:
    import ray
    from ray.job_config import JobConfig

    if ray.is_initialized():
        raise StinPipeError("this process is connected to Ray already; call ray.shutdown() first")
    _read_access_again(is_local=not address)
    # Its one line on how a new cluster authenticates asks nothing of anybody.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    job_config = JobConfig()
    job_config._py_driver_sys_path = _CodePaths(own_code_paths())
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options["job_config"] = job_config
    if address:
        options["address"] = address
    else:
        # "local": without it Ray joins any cluster that happens to run on this machine.
        options |= {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        options["configure_logging"] = False

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except Exception as error:  # what does not come up in time is a plain Exception of Ray
        where = f"no Ray cluster at {address}" if address else "Ray does not start on this machine"
        raise StinPipeError(f"{where}: {first_line(error)}; {advice}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init installs its own

    try:
        yield ray
    finally:
        ray.shutdown()
