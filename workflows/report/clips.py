"""Short looping clips for a page: frames and flow side by side, H.264 inside a data URI."""

import base64
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.flow.colour import flow_to_colour, full_length
from stin_pipe.stin.shards.codec import dequantise_flow
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import ManifestVideo

CLIP_S, MAX_CLIP_FRAMES = 4.0, 48
"""A clip shows the middle of a video for so long, in at most so many pictures."""
PICTURE_PX = 224
"""Longer side of the frame, and of the flow beside it."""
MAX_CLIP_BYTES = 180_000
"""Of one clip; a page holds up to nine, and stays under 6 MB whatever they show."""
QUALITIES = (28, 34, 40, 46)
"""Constant rate factors of x264, the first that stays under the limit is taken."""
ENCODING_LIMIT_S = 60.0
MIN_FPS, MAX_FPS = 1.0, 30.0
DEFAULT_FPS = 12.0


def draw_clip(reader: ShardReader, video: ManifestVideo, *, full_px: float = 0.0) -> str:
    """Return a clip of a video as a data URI; "" where ffmpeg has no H.264, or the clip is too short.

    Args:
        reader: of the run's shards.
        video: which one; of frames and flow it shows what is stored.
        full_px: motion that gets the full colour; 0 takes that of the clip.

    Raises:
        ShardError: what is stored differs from its checksum.
    """
    fps = min(MAX_FPS, max(MIN_FPS, video.fps or DEFAULT_FPS))
    count = video.num_frames - 1  # the last frame has no flow
    span = min(count, round(CLIP_S * fps))
    if span < 2:
        return ""
    first, step = (count - span) // 2, -(-span // MAX_CLIP_FRAMES)
    frames = list(range(first, first + span, step))

    columns = []
    if video.has("rgb"):
        columns.append(list(reader.read_rgb(video.id, frames)))
    if video.has("flow"):
        flow = dequantise_flow(reader.read_flow(video.id, frames), reader.flow_coding(video.id))
        fields = flow.transpose(0, 2, 3, 1)
        full_px = full_px or full_length(fields)
        columns.append([flow_to_colour(field, full_px=full_px) for field in fields])

    width, height = _even_size(video)
    pictures = [
        np.hstack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in row])
        for row in zip(*columns, strict=True)
    ]
    return _encoded(pictures, fps / step)


def _even_size(video: ManifestVideo) -> tuple[int, int]:
    """Return the size of one picture, even as H.264 needs it."""
    scale = PICTURE_PX / max(video.width, video.height)
    return max(2, 2 * round(video.width * scale / 2)), max(2, 2 * round(video.height * scale / 2))


def _encoded(pictures: Sequence[np.ndarray], fps: float) -> str:
    height, width = pictures[0].shape[:2]
    content = np.stack(pictures).tobytes()
    try:
        program = find_ffmpeg().path
    except StinPipeError:
        return ""

    with tempfile.TemporaryDirectory(prefix="stin-pipe-clip-") as folder:
        out = Path(folder) / "clip.mp4"
        for quality in QUALITIES:
            command = [
                *(str(program), "-v", "error", "-nostdin", "-f", "rawvideo", "-pix_fmt", "rgb24"),
                *("-s", f"{width}x{height}", "-r", f"{fps:.6g}", "-i", "pipe:0"),
                *("-c:v", "libx264", "-preset", "veryfast", "-crf", str(quality), "-pix_fmt", "yuv420p"),
                *("-threads", "1", "-an", "-movflags", "+faststart", "-y", f"file:{out}"),
            ]
            try:
                done = subprocess.run(
                    command, input=content, capture_output=True, timeout=ENCODING_LIMIT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired):
                return ""
            if done.returncode != 0:  # an ffmpeg without x264; the page shows stills then
                return ""
            if out.stat().st_size <= MAX_CLIP_BYTES:
                return "data:video/mp4;base64," + base64.b64encode(out.read_bytes()).decode()
    return ""
