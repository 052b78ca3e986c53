"""Who still works in a folder: workers that a dead driver left must end before others begin there."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stin_pipe.stin.shards.errors import StinPipeError

FILE_NAME = ".workers"
WAIT_S = 60.0
"""The kernel ends workers with their driver at once; those of a cluster may need a while."""

_LOOK_S = 0.2


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Show during the block that a process works in a folder; the kernel takes that back if it dies.

    File systems that refuse `flock` are passed over.
    """
    with (folder / FILE_NAME).open("ab") as file:
        # It fails where flock is refused, or while the next driver looks.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def wait_until_alone(folder: Path, *, wait_s: float = WAIT_S) -> None:
    """Wait for the workers of a driver that is gone.

    Raises:
        StinPipeError: they go on working.
    """
    deadline = time.monotonic() + wait_s
    with (folder / FILE_NAME).open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StinPipeError(
                        f"{folder}: workers of an earlier command, which is gone, still work here; "
                        "stop them, or give the same command again later"
                    ) from None
                time.sleep(_LOOK_S)
            except OSError:
                return
