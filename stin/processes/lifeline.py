"""Processes that end with the one that started them, whatever either does, and by which signal one died."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial

_PR_SET_PDEATHSIG = 1
# Looked up once: between fork and exec a child should do as little as possible.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


def end_with(parent_id: int) -> None:
    """Have the kernel kill this process when its parent ends; called in the child.

    Linux alone can do that. It counts the thread that started the child as the parent, so that thread has to
    live as long as the child.
    """
    if _PRCTL is None:
        return
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that ended before the kernel knew leaves a child with another parent, and no signal comes.
    if os.getppid() != parent_id:
        os.kill(os.getpid(), signal.SIGKILL)


def ending_with_this_process() -> Callable[[], None]:
    """Return what `subprocess` is to call in a new child (`preexec_fn`)."""
    return partial(end_with, os.getpid())


def signal_name(exit_code: int | None) -> str:
    """Return the signal that a negative exit code stands for, such as `SIGSEGV`; empty for none."""
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def told_signals(exit_codes: Iterable[int | None]) -> str:
    """Say by which signals processes died, in brackets; empty if by none.

    SIGKILL mostly comes from the kernel when memory is short, the others from faults in compiled code.
    """
    names = sorted({name for code in exit_codes if (name := signal_name(code))})
    causes = {"SIGKILL": "SIGKILL: out of memory?"}
    return f" ({', '.join(causes.get(name, name) for name in names)})" if names else ""
