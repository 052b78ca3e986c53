"""Find the ffmpeg program and learn its version: the system's, else the one inside imageio-ffmpeg."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from stin.shards.errors import StinPipeError

PROGRAM_VARIABLE = "STIN_PIPE_FFMPEG"


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
