"""Find the ffmpeg program (the system's, else the one inside imageio-ffmpeg) and start it as a decoder."""

import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ffmpeg

from stin_pipe.pipeline.decoding.messages import heard_end_s
from stin_pipe.stin.processes.lifeline import ending_with_this_process
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import MAX_PIXELS

PROGRAM_VARIABLE = "STIN_PIPE_FFMPEG"

CONTAINERS = (
    "avi,mov,mp4,matroska,webm,mpeg,mpegts,mpegvideo,flv,ogg,asf,3gp,m4v,mxf,ivf,"
    "dv,gif,h264,hevc,mjpeg,yuv4mpegpipe"
)
"""ffmpeg's names of the containers that are opened; none of them can point at another file."""

LEAD_S = 30.0
"""How far before a part decoding begins, so that what its first frames refer to has been decoded."""

_LAST_S = 1e9

_SQUARE_PIXELS = "scale=w='if(between(sar,1/8,8),round(iw*sar),iw)':h=ih"
"""Stretches pictures to the shape that a player shows; pixels of absurd shape are not believed."""

_INPUT = "file:input"
_QUIET = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info")

_OPENING: dict[str, Any] = {
    "threads": 1,
    "protocol_whitelist": "file",
    "format_whitelist": CONTAINERS,
    "max_pixels": MAX_PIXELS,
}


@dataclass(frozen=True, kw_only=True)
class Ffmpeg:
    """An ffmpeg that runs.

    Attributes:
        path: the program.
        version: as it prints it.
        major: first number of the version; 0 for a development build, which counts as new.
        source: where it was found, in words.
    """

    path: str
    version: str
    major: int
    source: str

    @property
    def frame_timing_options(self) -> dict[str, str]:
        """Options that pass every decoded frame on once, neither duplicated nor dropped."""
        return {"vsync": "passthrough"} if 0 < self.major < 5 else {"fps_mode": "passthrough"}


@lru_cache(maxsize=1)
def find_ffmpeg() -> Ffmpeg:
    """Return the ffmpeg to use: $STIN_PIPE_FFMPEG, the system's, or the one of imageio-ffmpeg.

    Raises:
        StinPipeError: there is none, or the first of them does not run.
    """
    if chosen := os.environ.get(PROGRAM_VARIABLE):
        return _describe(chosen, f"${PROGRAM_VARIABLE}")
    if system := shutil.which("ffmpeg"):
        return _describe(system, "system")

    try:
        import imageio_ffmpeg

        bundled = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise StinPipeError(
            f"no ffmpeg: none on the PATH and none in imageio-ffmpeg ({error}); install either, or set "
            f"{PROGRAM_VARIABLE} to the program"
        ) from error
    return _describe(bundled, "imageio-ffmpeg")


def _describe(path: str, source: str) -> Ffmpeg:
    try:
        done = subprocess.run(
            [path, "-hide_banner", "-version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StinPipeError(f"ffmpeg {path} ({source}) does not run: {error}") from error
    match = re.search(r"ffmpeg version (\S+)", done.stdout)
    if done.returncode != 0 or match is None:
        raise StinPipeError(f"{path} ({source}) is not a working ffmpeg: {done.stderr.strip()[:200]}")

    # "4.4.2-0ubuntu0.22.04.1" and "n6.0" are releases; "N-109468-gd39b34123d" and "git-2020-01-01" are not.
    number = re.match(r"n?(\d+)\.", match[1])
    return Ffmpeg(path=path, version=match[1], major=int(number[1]) if number else 0, source=source)


USUAL_DECODERS = ("h264", "hevc", "mpeg4", "vp9", "mjpeg")
"""What the videos of the usual data sets and cameras need."""


@lru_cache(maxsize=1)
def missing_decoders() -> tuple[str, ...]:
    """Return which of the usual decoders this machine's ffmpeg was built without.

    Raises:
        StinPipeError: there is no ffmpeg, or it does not list its decoders.
    """
    program = find_ffmpeg()
    command = [program.path, "-hide_banner", "-decoders"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise StinPipeError(f"{program.path} does not list its decoders: {error}") from error
    return tuple(name for name in USUAL_DECODERS if name not in done.stdout.split())


@lru_cache(maxsize=8)
def has_filter(name: str) -> bool:
    """Tell whether this machine's ffmpeg was built with a filter."""
    done = subprocess.run(
        [find_ffmpeg().path, "-hide_banner", "-filters"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return any(line.split()[1:2] == [name] for line in done.stdout.splitlines())


def start_decoder(
    path: Path,
    *,
    filters: Sequence[str] = (),
    start_s: float | None,
    end_s: float | None,
    square_pixels: bool,
) -> subprocess.Popen[bytes]:
    """Start ffmpeg so that it writes a video as PPM images to its standard output.

    On its standard error the filter `showinfo` tells the time of each frame before the frame comes.

    SIGINT and SIGTERM are blocked in it. Ctrl-C, or a batch system that preempts a job, signals the whole
    group of processes; ffmpeg would end in order and leave a shorter video that looks whole. The worker
    decides instead: it kills ffmpeg, or reads to the end.
    """
    chain = [*filters, *_cut(start_s, end_s), _tell_times()]
    if square_pixels:
        chain.append(_SQUARE_PIXELS)
    return _start(_decode_command(path, ",".join(chain), start_s or 0.0))


def messages_of(path: Path, *, timeout_s: float | None) -> str:
    """Return what ffmpeg says of a file when it opens it.

    Raises:
        subprocess.TimeoutExpired: that takes longer.
    """
    # Without an output ffmpeg ends once it has printed what it found.
    return _run(_compiled_input(path), timeout_s).messages


def sample_messages(path: Path, num_frames: int, *, start_s: float, timeout_s: float | None) -> str:
    """Return what ffmpeg's filters say of the combs in some frames.

    Raises:
        subprocess.TimeoutExpired: that takes longer.
    """
    after: dict[str, Any] = {"filter:v": f"{_tell_times()},idet", "frames:v": num_frames, "f": "null"}
    return _run(_decode_command(path, "", start_s, after), timeout_s).messages


def end_of_others_s(path: Path, *, timeout_s: float) -> float:
    """Read every stream but the pictures, and return where they end: 0 if there are none, inf if unknown."""
    others = ("-map", "0?", "-map", "-0:V:0", "-c", "copy", "-f", "null", "pipe:1")
    try:
        done = _run([*_compiled_input(path), *others], max(0.0, timeout_s))
    except subprocess.TimeoutExpired:
        return math.inf
    if done.code != 0:
        return 0.0 if "not contain any stream" in done.messages else math.inf
    end_s = heard_end_s(done.messages)
    return math.inf if end_s is None else end_s


@dataclass(frozen=True, kw_only=True)
class _Done:
    code: int
    messages: str


def _run(command: list[str], timeout_s: float | None) -> _Done:
    process = _start(command)
    try:
        _, stderr = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    return _Done(code=process.returncode, messages=stderr.decode("utf-8", "replace"))


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    # A child inherits the mask of the thread that starts it, through exec too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        # ffmpeg-python only compiles the command; its own run() would hide stderr.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=ending_with_this_process(),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _compiled(output: Any, path: Path, *more: str) -> list[str]:
    command = output.global_args(*_QUIET, *more).compile(cmd=find_ffmpeg().path)
    # ffmpeg-python cannot take a name that is not UTF-8, so the name comes in last.
    return [f"file:{path.absolute()}" if part == _INPUT else part for part in command]


def _compiled_input(path: Path) -> list[str]:
    opening = [part for name, value in _OPENING.items() for part in (f"-{name}", str(value))]
    return [find_ffmpeg().path, *_QUIET, *opening, "-i", f"file:{path.absolute()}"]


def _tell_times() -> str:
    # Older programs have no such option, and count a checksum of each picture.
    return "showinfo" if 0 < find_ffmpeg().major < 5 else "showinfo=checksum=0"


def _decode_command(
    path: Path, filters: str, start_s: float, after: dict[str, Any] | None = None
) -> list[str]:
    after = {
        "map": "0:V:0",
        "threads": 1,
        **find_ffmpeg().frame_timing_options,
        **(after or {"f": "image2pipe", "c:v": "ppm", "pix_fmt": "rgb24", "filter:v": filters}),
    }
    if start_s <= LEAD_S or not _has_index(path):
        return _compiled(ffmpeg.output(ffmpeg.input(_INPUT, **_OPENING), "pipe:1", **after), path)

    stream = ffmpeg.input(_INPUT, **_OPENING, ss=_seconds(start_s - LEAD_S))
    # Keep the file's own times: ffmpeg would count from the key frame that it happened to find.
    return _compiled(ffmpeg.output(stream, "pipe:1", **after), path, "-copyts", "-start_at_zero")


def _cut(start_s: float | None, end_s: float | None) -> list[str]:
    """Cut out start_s <= t < end_s exactly, whatever the time base of the file."""
    ends = [f"start={_seconds(start_s)}"] if start_s is not None else []
    ends += [f"end={_seconds(end_s)}"] if end_s is not None else []
    return ["settb=1/1000000", f"trim={':'.join(ends)}"] if ends else []


def _seconds(value: float) -> str:
    """Write seconds without an exponent, which ffmpeg does not read, and within its range."""
    return f"{min(value, _LAST_S):.6f}"


def _has_index(path: Path) -> bool:
    """Whether the container (mp4, Matroska, AVI) leads to a key frame at a known time.

    In others (MPEG streams, say) ffmpeg guesses where a time is, so a part is reached by reading from the
    beginning.
    """
    with path.open("rb") as handle:
        head = handle.read(12)
    is_mp4 = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    is_avi = head[:4] == b"RIFF" and head[8:] == b"AVI "
    return is_mp4 or is_avi or head[:4] == b"\x1aE\xdf\xa3"
