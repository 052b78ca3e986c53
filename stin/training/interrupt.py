"""Stop a training on a signal without losing a step."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from stin_pipe.stin.shards.bounded import FileKind, read_bytes

_WISH = FileKind(name="wish to stop", max_bytes=64)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal stopped the training after a checkpoint; the same call resumes it."""

    def __init__(self, signum: int, *, step: int) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(signum).name} after step {step}; the same command resumes there"
        )
        self.signum = signum
        self.step = step


class StopSignal:
    """Remembers SIGTERM and SIGINT while a block runs; the loop looks at ``received`` between two steps.

    A second SIGINT acts as it did outside the block, for a person who does not want to wait. Further SIGTERMs
    change nothing, since a batch system may send one to the process and one to its parent. Python allows
    handlers only in the main thread; elsewhere, ``file`` is the way to stop: another process writes the
    signal's number into it.
    """

    def __init__(self, file: Path | None = None, *, handle_signals: bool = True) -> None:
        self._received = 0
        self._handle_signals = handle_signals
        self._file = file
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> int:
        """Number of the signal that was received; 0 if none was."""
        if self._file is not None and not self._received and self._file.exists():
            self._received = int(read_bytes(self._file, _WISH))
        return self._received

    def __enter__(self) -> "StopSignal":
        if self._handle_signals and threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        self._received = self._received or signum
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
