"""A process that has the heavy libraries loaded and forks one child a command: no call waits for imports.

Started by `conftest.stin_pipe`. It reads one JSON object a line (`arguments`, `cwd`, `env`, `stdout`,
`stderr`) and answers with the exit code. The child is a process of its own, with its own folder, environment
and files.
"""

import atexit
import json
import os
import signal
import sys
import threading
import types
from typing import Any, NoReturn

import cv2  # noqa: F401
import h5py  # noqa: F401
import jinja2  # noqa: F401
import numba  # noqa: F401
import rich.console
import rich.progress
import rich.table  # noqa: F401
import safetensors.torch  # noqa: F401
import torch  # noqa: F401

from stin_pipe.workflows.cli import main


def become(request: dict[str, Any]) -> None:
    """Turn this child into a call of the command line."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["stin-pipe", *request["arguments"]]

    # Processes that multiprocessing spawns from here would load this file again as their main module.
    sys.modules["__main__"] = types.ModuleType("__main__")

    for descriptor, name in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(name, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)


def serve() -> None:
    """Fork a child for each request; return in the child, leave when the requests end."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            return
        status = os.waitpid(child, 0)[1]
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    sys.exit(0)


def leave(code: object) -> NoReturn:
    """End this child as the interpreter does, but without freeing each object of all the libraries.

    That alone takes a second and a half: every page that the child shares with this file's process is copied.
    """
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests decide when it ends
    serve()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except SystemExit as ended:
        leave(ended.code)
