"""The logs of a training: metrics.jsonl and TensorBoard's event files.

Both are append-only. A resumed training first cuts them back to the state of its checkpoint, so that they end
like those of an undisturbed one. metrics.jsonl holds no times, so it can be compared byte for byte.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stin_pipe.stin.shards.publish import open_for_append

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Both logs of one training; a context manager that closes them."""

    def __init__(self, folder: Path, *, num_bytes: int, step: int, tensorboard: bool) -> None:
        """Open the logs, and cut them back to ``num_bytes`` of metrics and to the events of ``step``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open_for_append(folder / METRICS_FILE)
        self.notices: tuple[str, ...] = ()
        length = self._file.seek(0, os.SEEK_END)
        if length < num_bytes:
            lost = (
                f"{folder / METRICS_FILE} has {length} bytes, but had {num_bytes} at the checkpoint: "
                "lines of the log are lost, the training itself is not affected"
            )
            self.notices = (lost,)
        self._file.truncate(min(length, num_bytes))

        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # a second to import, so only here
            except ImportError:
                missing = (
                    'no TensorBoard events are written: tensorboard is not installed ("stin-pipe[report]"); '
                    f"{METRICS_FILE} has the numbers"
                )
                self.notices = (*self.notices, missing)
            else:
                self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    @property
    def num_bytes(self) -> int:
        """Length of metrics.jsonl, which the checkpoint keeps."""
        return self._file.seek(0, os.SEEK_END)

    def write(self, kind: str, *, step: int, values: Mapping[str, float | int | None]) -> None:
        """Append one line, and its numbers as curves ``kind/name``; those that are not finite become null."""
        # Gradients that overflow in fp16 are not finite, and JSON has no text for that.
        finite = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in values.items()
        }
        line = json.dumps({"kind": kind, "step": step, **finite}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self.curve(kind, step=step, values=values)

    def curve(self, kind: str, *, step: int, values: Mapping[str, float | int | None]) -> None:
        """Append numbers only to TensorBoard: rates and times, which differ from run to run."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    @property
    def has_pictures(self) -> bool:
        """Whether ``picture`` writes anything; without TensorBoard, drawing would be wasted."""
        return self._writer is not None

    def picture(self, name: str, *, step: int, image_HWC: np.ndarray) -> None:
        """Append a picture, uint8 (H, W, 3) RGB, to TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, image_HWC, step, dataformats="HWC")

    def flush(self) -> None:
        """Write everything to the disk; a checkpoint may refer only to what is there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()
