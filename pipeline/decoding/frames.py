"""Decode one video to RGB frames with ffmpeg, as a stream, whatever the file is.

Why PPM through a pipe: each frame carries its own size, so rotation metadata and odd sizes need no probing.
Hostile files: only plain containers are opened (a playlist named .avi is refused before anything of it is
read), only local files, within ffmpeg's own limits, under a watchdog.
"""

import fcntl
import math
import os
import re
import select
import stat
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from stin_pipe.pipeline.decoding.choose import Timed
from stin_pipe.pipeline.decoding.ffmpeg import (
    PROGRAM_VARIABLE,
    end_of_others_s,
    start_decoder,
)
from stin_pipe.pipeline.decoding.header import Interlaced
from stin_pipe.pipeline.decoding.messages import DecodeNotes, Listener
from stin_pipe.pipeline.decoding.pictures import Treatment, find_treatment
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import MAX_PIXELS

STALL_S = 60.0
WHOLE = 0.95
"""A file that ends before this share of its announced length was cut off."""

MIN_MISSING = 3
"""Frames that rounding a duration can hide."""

FALLBACK_FPS = 25.0
EARLY_FRAMES = 16
"""Frames after which a header's rate is checked for the first time."""

_PIPE_BYTES = 1 << 20

_ENDED_IN_ORDER = 255
"""Exit code of an ffmpeg that a signal asked to end."""


class DecodeError(StinPipeError):
    """A video gives no usable frames.

    Attributes:
        reason: short key, as failures.jsonl has it.
        retry: whether the cause may lie outside of the file, so that another try may succeed.
    """

    def __init__(self, reason: str, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry = retry

    # Workers send it to the driver, and pickle would forget the keyword argument.
    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.reason, str(self), self.retry)


def _remade(reason: str, message: str, retry: bool) -> DecodeError:
    return DecodeError(reason, message, retry=retry)


def decode_frames(path: Path, notes: DecodeNotes, **options: Any) -> Iterator[np.ndarray]:
    """Yield the frames of `decode_timed` without their times."""
    with closing(decode_timed(path, notes, **options)) as frames:
        for frame in frames:
            yield frame.picture


def decode_timed(
    path: Path,
    notes: DecodeNotes,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    square_pixels: bool = False,
    interlaced: Interlaced | None = "deinterlace",
    deadline: float = math.inf,
    stall_s: float = STALL_S,
) -> Generator[Timed[np.ndarray]]:
    """Yield every frame of the first video stream, rotated as a player would rotate it, with its time.

    Args:
        path: the file; never a URL.
        notes: filled while frames are read.
        start_s, end_s: the part to decode: frames of start_s <= t < end_s, seconds from the beginning.
        square_pixels: stretch pictures whose pixels are not square to the shape that a player shows.
        interlaced: whether the fields of interlaced video are joined to whole pictures, or kept as they are;
            None takes colours, too, as versions before decoding 2 did.
        deadline: value of `time.monotonic()` at which the video is given up.
        stall_s: longest wait for the next frame. Only the deadline counts until a part begins.

    Yields:
        Frames (H, W, 3) uint8 RGB, all of one size.

    Raises:
        DecodeError: the file is missing, unreadable or not a video, its colours cannot be had, decoding
            hangs, or ffmpeg is killed.
    """
    _require_readable(path)
    part = None if start_s is None and end_s is None else _Part(start_s or 0.0, end_s)
    treatment = _find_treatment(path, interlaced, start_s or 0.0, deadline, stall_s)
    notes.changes = treatment.changes
    process = start_decoder(
        path, filters=treatment.filters, start_s=start_s, end_s=end_s, square_pixels=square_pixels
    )
    assert process.stdout is not None and process.stderr is not None
    listener = Listener(process.stderr, notes, start_s=start_s, end_s=end_s, stream=treatment.stream)
    listener.start()

    try:
        pipe = _FramePipe(process.stdout, path=path, deadline=deadline, stall_s=stall_s)
        pipe.may_be_silent = bool(start_s)
        clock = _Clock(listener, notes)
        while (frame := pipe.read_frame()) is not None:
            if notes.decoded == 0 and start_s:
                notes.forget_messages()
                pipe.may_be_silent = False
            at_s = clock.time_of_next()
            notes.decoded += 1
            clock.check_rate(early=True)
            yield Timed(picture=frame, at_s=at_s)

        code = _exit_code(process, path, stall_s)
        # The last messages, above all the time of the last frame, may still be in the pipe.
        listener.join(timeout=stall_s)
        clock.check_rate()
        _require_success(path, notes, code, part)
        if part is None and _is_short(path, notes, listener, deadline):
            notes.short = True
            notes.add_message(
                f"it ends after {listener.end_s:.2f} s of the {listener.duration_s:.2f} s that it announces"
            )

    # Also when the caller stops reading: a generator that is closed comes here.
    finally:
        process.kill()
        process.wait()
        listener.join(timeout=stall_s)
        process.stdout.close()
        process.stderr.close()


def _find_treatment(
    path: Path, interlaced: Interlaced | None, start_s: float, deadline: float, stall_s: float
) -> Treatment:
    if interlaced is None:
        return Treatment()
    left_s = deadline - time.monotonic()
    limit = left_s if start_s else min(stall_s, left_s)
    try:
        treatment = find_treatment(
            path,
            interlaced=interlaced,
            start_s=start_s,
            timeout_s=None if limit == math.inf else max(0.0, limit),
        )
    except subprocess.TimeoutExpired as error:
        raise (too_late(path) if limit == left_s else _stalled(path, stall_s)) from error
    if treatment.problem:
        raise DecodeError(
            "hdr",
            f"{path}: {treatment.problem}; set {PROGRAM_VARIABLE} to an ffmpeg that has it, such as that of "
            "the package imageio-ffmpeg",
        )
    return treatment


def _stalled(path: Path, stall_s: float) -> DecodeError:
    return DecodeError("stalled", f"{path}: the decoder gave no frame for {stall_s:g} s", retry=True)


def too_late(path: Path) -> DecodeError:
    """Return the error for a video that took longer than a video may."""
    return DecodeError(
        "timeout",
        f"{path}: not finished within the time limit a video; raise --timeout for a long one",
        retry=True,
    )


class _Clock:
    """The times of a video's frames; where ffmpeg does not say them, those of the header's rate."""

    def __init__(self, listener: Listener, notes: DecodeNotes) -> None:
        self._listener, self._notes = listener, notes
        self._times_s: list[Fraction] = []
        self._all_told = True

    def time_of_next(self) -> Fraction:
        """Return when the frame that has just been read is shown."""
        at_s = self._listener.next_time()
        if at_s is None:
            self._all_told = False
            rate = Fraction(self._notes.fps or FALLBACK_FPS).limit_denominator(1001)
            at_s = self._times_s[-1] + 1 / rate if self._times_s else Fraction(0)
        self._times_s.append(at_s)
        return at_s

    def check_rate(self, *, early: bool = False) -> None:
        """Check the header's rate at the end, and early for those who read a few frames only."""
        if self._all_told and not (early and len(self._times_s) != EARLY_FRAMES):
            self._notes.check_rate(self._times_s)


class _Part(NamedTuple):
    """The part of a file to decode, in seconds from its beginning; without an end it goes to the file's."""

    start_s: float
    end_s: float | None


def _require_success(path: Path, notes: DecodeNotes, code: int, part: _Part | None) -> None:
    """Refuse a video whose decoder was killed, or that gave no frame."""
    if code < 0 or (code == _ENDED_IN_ORDER and notes.decoded):
        how = f"killed by signal {-code}" if code < 0 else "asked to end by a signal"
        raise DecodeError(
            "decoder_died",
            f"{path}: ffmpeg was {how} after {notes.decoded} frames (out of memory?)",
            retry=True,
        )

    if notes.decoded == 0 and code == 0 and part is not None:
        end = "the end" if part.end_s is None else f"{part.end_s:g} s"
        raise DecodeError(
            "empty_part",
            f"{path}: the part from {part.start_s:g} s to {end} holds no frame; is it beyond the end?",
        )
    if notes.decoded == 0:
        raise _no_frames(path, notes, code)


def _is_short(path: Path, notes: DecodeNotes, listener: Listener, deadline: float) -> bool:
    """Whether a whole file ends long before its header says; when in doubt, it does not.

    The number of frames is no proof (their rate may vary), nor is the time of the last one (the sound may be
    longer than the pictures).
    """
    announced, duration_s = notes.announced or 0, listener.duration_s
    few = announced - notes.decoded >= MIN_MISSING and notes.decoded < WHOLE * announced
    if listener.guessed or not few or not 0 < listener.end_s < WHOLE * duration_s:
        return False

    others_end_s = end_of_others_s(path, timeout_s=min(STALL_S, deadline - time.monotonic()))
    return others_end_s < WHOLE * duration_s


def _exit_code(process: subprocess.Popen[bytes], path: Path, stall_s: float) -> int:
    """Wait for ffmpeg to end after its last frame."""
    try:
        return process.wait(timeout=stall_s)
    except subprocess.TimeoutExpired as error:
        raise DecodeError(
            "stalled", f"{path}: the decoder gave no frame and did not end for {stall_s:g} s", retry=True
        ) from error


class _FramePipe:
    """Reads PPM frames from ffmpeg's output under a time limit."""

    may_be_silent = False
    """Whether ffmpeg may be busy without a frame to show: then only the deadline counts, if there is one."""

    def __init__(self, pipe: IO[bytes], *, path: Path, deadline: float, stall_s: float) -> None:
        self._descriptor = pipe.fileno()
        self._path, self._deadline, self._stall_s = path, deadline, stall_s
        self._rest = b""
        _enlarge_pipe(self._descriptor)

    def read_frame(self) -> np.ndarray | None:
        """Return the next frame; None at the end. A last, incomplete frame is dropped."""
        header = self._read_header()
        if header is None:
            return None

        # Read into the frame itself, which saves a copy of every frame.
        width, height = header
        frame = np.empty((height, width, 3), np.uint8)
        view = frame.data.cast("B")
        filled = min(len(self._rest), len(view))
        view[:filled] = self._rest[:filled]
        self._rest = self._rest[filled:]
        while filled < len(view):
            self._wait()
            count = os.readv(self._descriptor, [view[filled:]])
            if count == 0:
                return None
            filled += count
        return frame

    def _read_header(self) -> tuple[int, int] | None:
        """Parse `P6\\n<width> <height>\\n255\\n`."""
        while (match := re.match(rb"P6\n(\d+) (\d+)\n255\n", self._rest)) is None:
            if len(self._rest) > 64:
                raise DecodeError("undecodable", f"{self._path}: ffmpeg's output is not a row of PPM images")
            self._wait()
            block = os.read(self._descriptor, 64)
            if not block:
                return None
            self._rest += block
        self._rest = self._rest[match.end() :]
        return int(match[1]), int(match[2])

    def _wait(self) -> None:
        """Wait for more output, until the stall limit or the deadline."""
        left = self._deadline - time.monotonic()
        limit = left if self.may_be_silent and left < math.inf else min(self._stall_s, left)
        if limit > 0 and select.select([self._descriptor], [], [], limit)[0]:
            return

        if limit == left:
            raise too_late(self._path)
        raise _stalled(self._path, self._stall_s)


def _enlarge_pipe(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (AttributeError, PermissionError):
        # Not Linux, or over the user's quota of pipe memory: smaller reads, same frames.
        return


def _no_frames(path: Path, notes: DecodeNotes, code: int) -> DecodeError:
    """Turn what ffmpeg wrote about a file without frames into what a person can do about it."""
    text = " ".join(notes.messages)
    if "exceeds specified max pixel count" in text:
        return DecodeError(
            "too_large", f"{path}: pictures of more than {MAX_PIXELS} pixels; scale the video down"
        )
    if "matches no streams" in text or "does not contain any stream" in text:
        return DecodeError("no_video", f"{path}: the file holds no video stream (sound alone?)")
    if "whitelist" in text or "Not detecting" in text:
        return DecodeError(
            "refused", f"{path}: not a plain video container (playlists and the like are never opened)"
        )
    if "moov atom not found" in text and "misdetection possible" not in text:
        return DecodeError(
            "truncated", f"{path}: cut off before its index (moov atom) was written; copy it again"
        )
    if "Invalid data found" in text:
        return DecodeError("not_a_video", f"{path}: ffmpeg does not recognise it as a video; is it whole?")
    detail = notes.messages[0] if notes.messages else f"exit code {code}, no message"
    return DecodeError("undecodable", f"{path}: ffmpeg gets no frame out of it ({detail})")


def _require_readable(path: Path) -> None:
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DecodeError("not_a_file", f"{path}: a pipe, a folder or the like, not a file")
            if not os.read(descriptor, 1):
                raise DecodeError("empty", f"{path}: the file has no content (0 bytes)")
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise DecodeError("missing", f"{path}: there is no such file", retry=True) from error
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: cannot be read: {error.strerror}", retry=True) from error
