"""Where a worker process finds its code, and what a person is told when it does not.

Python and Ray let new processes look for modules in the folder where the user happens to be. A `click.py` or
`stin_pipe.py` that lies there would then be imported instead of ours.
"""

import re
import site
import sys
from pathlib import Path

from stin_pipe.stin.shards.errors import StinPipeError

MAX_TRACEBACK_LINES = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray paints the names of its actors


def package_parent() -> str:
    """Return the folder that holds `stin_pipe`: site-packages, or a checkout."""
    # Not resolved: in a checkout this file is reached through the link stin_pipe/stin.
    return str(Path(__file__).absolute().parents[3])


def own_code_paths() -> list[str]:
    """Return what a worker needs on `sys.path` beyond what its own Python puts there."""
    parent = package_parent()
    return [] if parent in (*site.getsitepackages(), site.getusersitepackages()) else [parent]


def worker_path() -> list[str]:
    """Return `sys.path` for a worker: that of this process without its current folder, our package first."""
    own, strange = own_code_paths(), ("", str(Path.cwd()))
    return own + [
        path for path in sys.path if path not in own and (path not in strange or path == package_parent())
    ]


def cannot_start(traceback: str) -> StinPipeError:
    """Return the error for workers that fail while they import their code; it ends with their traceback."""
    lines = [line.rstrip() for line in _COLOUR.sub("", traceback).splitlines() if line.strip(" ^~")]
    return StinPipeError(
        f"a worker process cannot start: {lines[-1].strip() if lines else 'no reason is known'}",
        next_step="`stin-pipe doctor` checks the installation, which must be the same on all nodes",
        details=(
            "the worker's traceback ends with:",
            *(f"  {line}" for line in lines[-MAX_TRACEBACK_LINES:]),
        ),
    )
