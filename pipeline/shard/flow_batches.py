"""Flow for several videos at a time on one device: chunks that wait together are solved in one call.

While the device works on one batch, the threads of the videos decode and encode, and their next chunks gather
for the next batch. Chunks are joined end to end as one clip; the field between two chunks is thrown away.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stin_pipe.pipeline.planning.plan import ExtractParams

MAX_PAIRS = 256
"""Pairs of a batch: the largest that the device code takes in one launch."""

Solve = Callable[[np.ndarray, ExtractParams], np.ndarray]
"""From grey frames (T, H, W) to fields as stored, uint8 (T-1, 2H, W); a field depends on its pair alone."""


@dataclass(kw_only=True, eq=False)
class _Chunk:
    greys: np.ndarray
    done: threading.Event = field(default_factory=threading.Event)
    fields: np.ndarray | None = None
    error: BaseException | None = None


class FlowBatches:
    """Calls `solve` in a thread of its own, on as many waiting chunks at a time as fit; a context manager.

    The result of a chunk does not depend on those beside it, so a shard has the same content whatever the
    timing of its videos.
    """

    def __init__(self, solve: Solve, params: ExtractParams, *, max_pairs: int = MAX_PAIRS) -> None:
        self._solve, self._params, self._max_pairs = solve, params, max_pairs
        self._waiting: deque[_Chunk] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="flow", daemon=True)

    def __enter__(self) -> "FlowBatches":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def __call__(self, greys: np.ndarray, params: ExtractParams) -> np.ndarray:
        """Compute the fields of one chunk, waiting for the device; may be called from any thread."""
        assert params == self._params, "one set of parameters a shard"
        chunk = _Chunk(greys=greys)
        with self._changed:
            assert not self._ended, "a chunk after the end"
            self._waiting.append(chunk)
            self._changed.notify()
        chunk.done.wait()
        if chunk.error is not None:
            raise chunk.error
        assert chunk.fields is not None
        return chunk.fields

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._solve_batch(batch)
            except BaseException as error:  # noqa: BLE001 - raised again in the threads that wait for it
                for chunk in batch:
                    chunk.error = error
            for chunk in batch:
                chunk.done.set()

    def _next_batch(self) -> list[_Chunk]:
        """Take the chunk that has waited longest, and those of its frame size that fit beside it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return []

            batch = [self._waiting.popleft()]
            room = self._max_pairs - (len(batch[0].greys) - 1)
            for chunk in list(self._waiting):
                # Its pairs, and the one between it and the chunk before it.
                need = len(chunk.greys)
                if chunk.greys.shape[1:] == batch[0].greys.shape[1:] and need <= room:
                    self._waiting.remove(chunk)
                    batch.append(chunk)
                    room -= need
            return batch

    def _solve_batch(self, batch: list[_Chunk]) -> None:
        if len(batch) == 1:
            batch[0].fields = self._solve(batch[0].greys, self._params)
            return

        fields = self._solve(np.concatenate([chunk.greys for chunk in batch]), self._params)
        start = 0
        for chunk in batch:
            stop = start + len(chunk.greys) - 1
            chunk.fields = fields[start:stop]
            start = stop + 1  # past the field between two chunks
