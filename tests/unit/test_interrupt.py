"""Signals to a training: the first asks it to stop, more of the same do no harm."""

import os
import signal

import pytest

from stin_pipe.stin.training.interrupt import StopSignal


@pytest.fixture(autouse=True)
def _handlers():
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_sigterm_may_come_more_than_once() -> None:
    """Slurm sends it to the task, and srun hands on the one that it got itself."""
    reached = []
    signal.signal(signal.SIGTERM, lambda *_: reached.append("outside"))
    with StopSignal() as stop:
        assert stop.received == 0
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert reached == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert reached == ["outside"]


def test_a_second_sigint_acts_as_outside() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
