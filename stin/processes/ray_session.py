"""Start Ray on this machine or join a cluster, and leave it again; nothing else calls `ray.init`."""

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from stin_pipe.stin.processes.worker_start import own_code_paths
from stin_pipe.stin.shards.errors import StinPipeError, first_line


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
    import ray
    from ray.job_config import JobConfig

    if ray.is_initialized():
        raise StinPipeError("this process is connected to Ray already; call ray.shutdown() first")
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
