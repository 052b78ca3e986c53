"""How fast a training goes; for people's eyes, never for a decision about what is computed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Counts samples and seconds of this life of a training, and those spent waiting for the loader."""

    def __init__(self, *, seconds_before: float) -> None:
        self._seconds_before = seconds_before
        self._begun = self._saved = time.monotonic()
        self._waited = 0.0
        self._num_samples = 0
        self.num_steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting; the first batch, for which workers start, does not
        count."""
        begun = time.monotonic()
        yield
        if self.num_steps:
            self._waited += time.monotonic() - begun
        else:
            self._begun = time.monotonic()

    def stepped(self, num_samples: int) -> None:
        """Count a step."""
        self.num_steps += 1
        self._num_samples += num_samples

    def saved(self) -> None:
        """Remember that a checkpoint was written now."""
        self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of all lives."""
        return self._seconds_before + time.monotonic() - self._begun

    @property
    def since_saved(self) -> float:
        """Seconds since the last checkpoint of this life, or since its start."""
        return time.monotonic() - self._saved

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self._num_samples / max(time.monotonic() - self._begun, 1e-9)

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for the loader."""
        return self._waited / max(time.monotonic() - self._begun, 1e-9)
