"""How a command ends: its exit code, and what SIGTERM does."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MANY_FAILURES = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM has asked the process to end; not a KeyboardInterrupt, which click would turn into an Abort."""


class Grace:
    """Gives the work `seconds` to finish after SIGTERM; with 0, SIGTERM ends the process at once as usual.

    Attributes:
        asked: whether SIGTERM has come.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = False
        self._asked_at = 0.0
        self._before: Any = None

    def __enter__(self) -> "Grace":
        # With 0 seconds the program's own handler stays, which ends the command at once.
        if self.seconds > 0:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self.asked and isinstance(error, Exception):
            raise Terminated from error  # it failed because everything was told to end

    def check(self) -> None:
        """End the work once the time is over; call it every few seconds.

        Raises:
            Terminated: SIGTERM came longer than `seconds` ago.
        """
        if self.asked and time.monotonic() - self._asked_at > self.seconds:
            raise Terminated

    def _receive(self, _signum: int, _frame: FrameType | None) -> None:
        if not self.asked:  # batch systems send it more than once
            self.asked, self._asked_at = True, time.monotonic()
