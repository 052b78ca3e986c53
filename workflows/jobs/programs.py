"""The programs of a cluster that submit jobs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError


def require_printable(name: str, value: str) -> None:
    """Refuse a value of a job that holds control characters, which no script or command should show or run.

    Raises:
        ArgumentError: names the option.
    """
    if re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        raise ArgumentError(
            f"--{name}: {value!r} contains control characters, which are not safe in a job; use another one",
            {"run": "run_path"}.get(name, name),
        )


def call_program(command: list[str], *, needs: str, stdout: TextIO | int = subprocess.PIPE) -> str:
    """Run a command of the cluster; return what it printed, unless `stdout` sends that elsewhere.

    Args:
        command: program and arguments.
        needs: the program that must be installed, which the command may call itself.
        stdout: where its output goes.

    Raises:
        StinPipeError: the program is missing, or fails.
    """
    # `ray` lies beside this Python, also where the environment was not activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if shutil.which(needs, path=path) is None:
        hint = 'pip install "stin-pipe[cluster]"' if needs == "ray" else "submit from a node of the cluster"
        raise StinPipeError(f"--submit: the program {needs} is not installed here; {hint}")
    done = subprocess.run(command, stdout=stdout, text=True, check=False, env={**os.environ, "PATH": path})
    if done.returncode:
        raise StinPipeError(f"{shlex.join(command)} failed with exit code {done.returncode}")
    return done.stdout or ""
