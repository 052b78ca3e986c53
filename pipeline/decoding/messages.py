"""What ffmpeg writes while it decodes: what the header promises, the errors, and how far it got.

It prints the titles and tags of a file too. They must be taken neither for a header nor for an error, so
every pattern is tied to the beginning of a line, where only ffmpeg writes.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from queue import Empty, SimpleQueue
from statistics import median
from typing import IO, Any

from stin_pipe.pipeline.decoding.choose import ChoiceNotes
from stin_pipe.pipeline.decoding.header import COVERS, PictureChange

RATE_TOLERANCE = 0.05
"""Difference of rates that rounded times, or a last frame that is shown for longer, may cause."""

TIME_WAIT_S = 30.0

_MAX_MESSAGES = 8
_MESSAGE_CHARS = 200
_LINE_CHARS = 2000

_DURATION = re.compile(r"\[info\] {1,4}Duration: (\d{1,9}):(\d\d):(\d\d\.\d+)")
_VIDEO = re.compile(
    r"\[info\] {1,6}Stream #0:\d+(?:\[0x[0-9a-f]+\])?(?:\([^)]*\))?: Video: "
    r".*?, (\d{1,9}(?:\.\d+)?)(k?) fps\b"
)
_END = re.compile(r"\[info\] (?:frame= *\d+|L?size=).*?\btime=(\d{1,9}):(\d\d):(\d\d\.\d+)")
_COMPLAINT = re.compile(r"(?:\[[^\]]{1,200} @ 0x[0-9a-f]+\] ?)*\[(error|fatal|panic|warning)\]")
_DAMAGE = ("corrupt input packet", "corrupt decoded frame")
"""Warnings that count as errors."""

_OF_STREAM = re.compile(r"\bstream (?:= )?(\d+)")
_CLOCK = re.compile(r"\[Parsed_showinfo_\d+ @ 0x[0-9a-f]+\] \[info\] config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(
    r"\[Parsed_showinfo_\d+ @ 0x[0-9a-f]+\] \[info\] n: *\d+ pts: *(-?\d+|NOPTS) .*? i:([PTB])\b"
)

_GUESS = ("Estimating duration from bitrate", "DTS discontinuity", "timestamp discontinuity")


@dataclass(kw_only=True)
class DecodeNotes:
    """What is known about the decoding of a video; complete once all frames are read.

    Attributes:
        announced: frames that the header promises for the part to decode (duration x rate); None if it
            promises nothing.
        decoded: frames that came out.
        fps: average rate of the file, 0 if unknown: its header's, unless the frames' times deny that.
        header_fps, header_announced: the header's rate, and the frames that it promises at that rate.
        changes: what was done to the pictures.
        interlaced: frames that still have the combs of two fields.
        choice: what a choice of frames by time met; None without one.
        messages: first errors and warnings of the decoder, without addresses.
        num_errors: number of all messages about damage.
        short: whether the file ends long before its header says.
    """

    announced: int | None = None
    decoded: int = 0
    fps: float = 0.0
    header_fps: float = 0.0
    header_announced: int | None = None
    changes: tuple[PictureChange, ...] = ()
    interlaced: int = 0
    choice: ChoiceNotes | None = None
    messages: list[str] = field(default_factory=list)
    num_errors: int = 0
    short: bool = False

    @property
    def damaged(self) -> bool:
        """Whether the decoder reported errors, or the file was cut off."""
        return self.num_errors > 0 or self.short

    def as_json(self) -> dict[str, Any]:
        """Return the notes as plain values for the ledger."""
        return {
            "announced": self.announced,
            "decoded": self.decoded,
            "damaged": self.damaged,
            "num_errors": self.num_errors,
            "messages": list(self.messages),
            "source_fps": self.fps,
            "changes": list(self.changes),
            "interlaced": self.interlaced,
            "unfilled": self.choice.unfilled if self.choice else 0,
            "uneven": self.choice.uneven if self.choice else 0,
        }

    def check_rate(self, times_s: Sequence[Fraction]) -> None:
        """Compare the header's rate with the times of the frames decoded so far; the times are right.

        Lost frames change the average, and a variable rate the usual distance of two frames: a header that
        agrees with either is believed.
        """
        if len(times_s) < 2 or times_s[-1] <= times_s[0]:
            return
        average = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
        usual_s = float(median(after - before for before, after in pairwise(times_s)))
        seen = [average, 1 / usual_s] if usual_s > 0 else [average]
        header = self.header_fps
        self.fps = header if any(abs(rate - header) <= RATE_TOLERANCE * header for rate in seen) else average
        if self.header_announced is not None and header:
            self.announced = round(self.header_announced * self.fps / header)

    def add_message(self, text: str) -> None:
        """Keep a message, unless it is a repetition or there are enough."""
        if len(self.messages) < _MAX_MESSAGES and text[:_MESSAGE_CHARS] not in self.messages:
            self.messages.append(text[:_MESSAGE_CHARS])

    def forget_messages(self) -> None:
        """Drop the messages about what lies before the part to decode."""
        self.messages.clear()
        self.num_errors = 0


class Listener(threading.Thread):
    """A thread that drains ffmpeg's messages (it would block on a full pipe) and keeps what matters.

    Attributes:
        duration_s: length of the file by its header, 0 if it does not say.
        guessed: whether that length is a guess from the bit rate, or from times that jump.
        end_s: where the last frame ended, 0 until that is known.
    """

    def __init__(
        self,
        stderr: IO[bytes],
        notes: DecodeNotes,
        *,
        start_s: float | None,
        end_s: float | None,
        stream: int | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.duration_s = self.end_s = 0.0
        self.guessed = False
        self._stderr, self._notes = stderr, notes
        self._part, self._stream = (start_s or 0.0, end_s), stream
        self._tick_s: Fraction | None = None
        self._times: SimpleQueue[Fraction | None] = SimpleQueue()
        self._ended = False

    def run(self) -> None:
        """Listen until ffmpeg closes its end."""
        for raw in self._stderr:
            self._hear(raw[:_LINE_CHARS].decode("utf-8", "replace").rstrip())
        self._times.put(None)

    def next_time(self) -> Fraction | None:
        """Return when the next frame that came is shown; None if ffmpeg does not say."""
        if self._ended:
            return None
        try:
            time_s = self._times.get(timeout=TIME_WAIT_S)
        except Empty:
            time_s = None
        # Times come in the order of the frames, so one that is missing spoils all that follow.
        self._ended = time_s is None
        return time_s

    def _hear(self, line: str) -> None:
        notes = self._notes
        if match := _COMPLAINT.match(line):
            # The first repeats the message before it with the whole path; the second is about the output.
            if "input file" in line or "dts to muxer" in line or self._is_of_another(line):
                return
            self.guessed |= any(text in line for text in _GUESS)
            notes.num_errors += match[1] != "warning" or any(text in line for text in _DAMAGE)
            notes.add_message(re.sub(r"\s*@ 0x[0-9a-f]+", "", line))
        elif (match := _DURATION.match(line)) and not self.duration_s:
            self.duration_s = _in_seconds(match)
        elif match := _FRAME.match(line):
            notes.interlaced += match[2] != "P"
            known = self._tick_s is not None and match[1] != "NOPTS"
            self._times.put(int(match[1]) * self._tick_s if self._tick_s and known else None)
        elif match := _CLOCK.match(line):
            self._tick_s = Fraction(int(match[1]), int(match[2]) or 1)
        elif (match := _VIDEO.match(line)) and not notes.header_fps and not line.endswith(COVERS):
            notes.fps = notes.header_fps = float(match[1]) * (1000 if match[2] else 1)
            self._announce()
        elif match := _END.match(line):
            self.end_s = _in_seconds(match)

    def _is_of_another(self, line: str) -> bool:
        """Whether a complaint is about sound, a second angle or the like."""
        number = _OF_STREAM.search(line)
        return self._stream is not None and number is not None and int(number[1]) != self._stream

    def _announce(self) -> None:
        """Count the frames that the header promises for the part to decode."""
        if self._notes.fps and self.duration_s:
            start_s, end_s = self._part
            length_s = min(self.duration_s, end_s or self.duration_s) - start_s
            self._notes.header_announced = self._notes.announced = round(max(0.0, length_s) * self._notes.fps)


def heard_end_s(messages: str) -> float | None:
    """Return the time in ffmpeg's last progress line; None without one."""
    ends = [_in_seconds(match) for line in messages.splitlines() if (match := _END.match(line))]
    return ends[-1] if ends else None


def _in_seconds(match: re.Match[str]) -> float:
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
