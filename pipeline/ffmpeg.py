"""Find the ffmpeg program (the system's, else the one inside imageio-ffmpeg) and start it as a decoder."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ffmpeg

from stin.shards.errors import StinPipeError

PROGRAM_VARIABLE = "STIN_PIPE_FFMPEG"

CONTAINERS = "avi,mov,mp4,matroska,webm,mpeg,mpegts,mpegvideo,flv,ogg,asf,3gp,m4v,mxf,ivf"
"""ffmpeg's names of the containers that are opened; none of them can point at another file."""

MAX_PIXELS = 1 << 26

_INPUT = "file:input"


@dataclass(frozen=True, kw_only=True)
class Ffmpeg:
    """A runnable ffmpeg; `major` is 0 for a development build, which counts as new."""

    path: str
    version: str
    major: int
    source: str

    @property
    def frame_timing_options(self) -> dict[str, str]:
        """Options that hand every decoded frame on once, neither duplicated nor dropped."""
        return {"vsync": "passthrough"} if 0 < self.major < 5 else {"fps_mode": "passthrough"}


@lru_cache(maxsize=1)
def find_ffmpeg() -> Ffmpeg:
    """Return the ffmpeg to use: $STIN_PIPE_FFMPEG, the system's, or the one of imageio-ffmpeg.

    Raises:
        StinPipeError: none of them runs.
    """
    named = os.environ.get(PROGRAM_VARIABLE)
    system = shutil.which("ffmpeg")
    if named:
        return _describe(named, f"${PROGRAM_VARIABLE}")
    if system:
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
    number = re.match(r"n?(\d+)\.", match[1])
    return Ffmpeg(path=path, version=match[1], major=int(number[1]) if number else 0, source=source)


WANTED_DECODERS = ("h264", "hevc", "mpeg4", "vp9", "mjpeg")
"""What the videos of the usual data sets and cameras need."""


@lru_cache(maxsize=1)
def missing_decoders() -> tuple[str, ...]:
    """Return which of the wanted decoders this machine's ffmpeg was built without.

    Raises:
        StinPipeError: there is no ffmpeg, or it does not say.
    """
    program = find_ffmpeg()
    command = [program.path, "-hide_banner", "-decoders"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise StinPipeError(f"{program.path} does not list its decoders: {error}") from error
    return tuple(name for name in WANTED_DECODERS if name not in done.stdout.split())


def start_decoder(
    path: Path, *, fps: float | None, start_s: float | None, end_s: float | None
) -> subprocess.Popen[bytes]:
    """Start ffmpeg so that it writes a video as PPM images to its standard output.

    The signals that ask a whole group of processes to end are blocked.

    Ctrl-C, or a batch system that preempts a job, signals ffmpeg too, which would end in order and leave a
    shorter video that looks whole. Its worker decides: it kills ffmpeg, or reads to the end.
    """
    command = _decode_command(path, fps=fps, start_s=start_s, end_s=end_s)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return subprocess.Popen(  # ffmpeg-python compiles the command; its own run() would hide stderr
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decode_command(
    path: Path, *, fps: float | None, start_s: float | None, end_s: float | None
) -> list[str]:
    program = find_ffmpeg()
    before: dict[str, Any] = {
        "threads": 1,
        "protocol_whitelist": "file",
        "format_whitelist": CONTAINERS,
        "max_pixels": MAX_PIXELS,
    }
    if start_s is not None:
        before["ss"] = start_s
    if end_s is not None:
        before["t"] = end_s - (start_s or 0.0)
    stream = ffmpeg.input(_INPUT, **before)
    after: dict[str, Any] = {
        "map": "0:V:0",
        "f": "image2pipe",
        "c:v": "ppm",
        "pix_fmt": "rgb24",
        "threads": 1,
    }
    if fps is None:
        after |= program.frame_timing_options
    else:
        after["filter:v"] = f"fps={fps:g}"
    quiet = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info")
    command = ffmpeg.output(stream, "pipe:1", **after).global_args(*quiet).compile(cmd=program.path)
    # ffmpeg-python cannot take a name that is not UTF-8, so the name comes in last.
    return [f"file:{path.absolute()}" if part == _INPUT else part for part in command]
