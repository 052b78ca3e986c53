"""How the process that launches a training and its workers talk: small files that every node can reach.

``events.jsonl``: events of the training, from the first worker. ``stop``: asks the workers to stop, from the
launching process. ``outcome.json``: how the training ended, from the first worker that knows.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from stin_pipe.stin.shards.bounded import FileKind, json_object, open_regular, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.training.interrupt import Interrupted
from stin_pipe.stin.training.report import OnProgress, TrainNotice, TrainProgress, TrainResult, TrainStart

EVENT_INTERVAL_S = 1.0
OUTCOME = FileKind(name="outcome of the training", next_step="give the same train command again")
EVENTS = FileKind(name="list of events", next_step="give the same train command again")

_EVENTS = {kind.__name__: kind for kind in (TrainStart, TrainProgress, TrainNotice)}


@dataclass(frozen=True, kw_only=True)
class LaunchFolder:
    """The files of one launch."""

    path: Path

    @property
    def events(self) -> Path:
        """One event a line."""
        return self.path / "events.jsonl"

    @property
    def stop(self) -> Path:
        """Number of the signal that the workers answer."""
        return self.path / "stop"

    @property
    def outcome(self) -> Path:
        """How the training ended."""
        return self.path / "outcome.json"

    def ask_to_stop(self, signum: int) -> None:
        """Ask the workers to write a checkpoint and stop."""
        # Renamed into place: a worker that polls for the file never reads half of it.
        new = self.stop.with_suffix(".new")
        new.write_text(str(signum))
        new.rename(self.stop)

    def leave_outcome(self, outcome: TrainResult | Interrupted | Exception) -> None:
        """Write how the training ended, unless another worker has done so."""
        if self.outcome.exists():
            return
        match outcome:
            case TrainResult():
                value = {"kind": "result", **outcome.to_json()}
            case Interrupted():
                value = {"kind": "interrupted", "signum": outcome.signum, "step": outcome.step}
            case ValueError():
                value = {"kind": "refused", "message": str(outcome)}
            case _:
                value = {"kind": "failed", "message": str(outcome)}
        publish_json(self.outcome, value)

    def read_outcome(self) -> TrainResult:
        """Return the result that the workers left.

        Raises:
            Interrupted: if a signal stopped them.
            StinPipeError: if they failed.
            ValueError: if they refused an argument.
        """
        value = read_json(self.outcome, OUTCOME)
        match value.pop("kind"):
            case "interrupted":
                raise Interrupted(value["signum"], step=value["step"])
            case "failed":
                raise StinPipeError(value["message"])
            case "refused":
                raise ValueError(value["message"])
            case _:
                return TrainResult.from_json(value)


class EventWriter:
    """Writes events for a reader in another process; progress once a second."""

    def __init__(self, folder: LaunchFolder) -> None:
        self._path = folder.events
        self._last = 0.0

    def write(self, event: TrainStart | TrainProgress | TrainNotice) -> None:
        """Append an event; leave out progress that follows the last too soon."""
        now = time.monotonic()
        if isinstance(event, TrainProgress):
            if now - self._last < EVENT_INTERVAL_S and event.step < event.total_steps:
                return
            self._last = now
        line = json.dumps({"event": type(event).__name__, **asdict(event)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class EventReader:
    """Passes on the events that were written since the last look."""

    def __init__(self, folder: LaunchFolder, on_progress: OnProgress) -> None:
        self._path = folder.events
        self._on_progress = on_progress
        self._offset = 0
        self.num_starts = 0
        self.last_step = 0

    def pump(self) -> None:
        """Read on to the end of the last complete line."""
        if not self._path.exists():
            return

        with open_regular(self._path, EVENTS) as file:
            file.seek(self._offset)
            content = file.read()

        # The writer may be in the middle of a line; the rest of it is read the next time.
        lines = content[: content.rfind(b"\n") + 1]
        self._offset += len(lines)

        for line in lines.splitlines():
            value = json_object(line)
            event = _EVENTS[value.pop("event")](**value)
            if isinstance(event, TrainProgress):
                self.last_step = event.step
            if isinstance(event, TrainStart):
                self.num_starts += 1
                if self.num_starts > 1:  # Ray has started all workers again
                    text = f"a train worker was lost; continuing after step {event.first_step}"
                    self._on_progress(TrainNotice(message=text))
            self._on_progress(event)
