"""Make small labelled videos whose classes combine an appearance and a motion.

Nine classes: three colours times three directions. A textured disc crosses a picture that wraps around at its
borders. It starts anywhere, so its position in a single frame tells nothing about its direction; and the
colours have equal grey values, so optical flow tells nothing about the colour. A stream of single frames can
learn only the colour, a stream of flow only the direction.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import ffmpeg
import numpy as np

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.stin.processes.lifeline import ending_with_this_process
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_bytes, publish_file, temporary_name

COLOURS = {"red": (226, 96, 104), "green": (62, 178, 104), "blue": (106, 127, 254)}
"""RGB of equal grey value: 0.299 R + 0.587 G + 0.114 B is 135 to 136 for each."""

DIRECTIONS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0)}
"""Unit velocity (x to the right, y down)."""

FRAME_RATE = 12


@dataclass(frozen=True, kw_only=True)
class SynthParams:
    """Size and number of the videos to make.

    Attributes:
        width, height: of a frame in pixels.
        num_frames: of a video.
        radius: least and largest radius of the disc, in heights of the frame; larger ones are learnt sooner.
        train_per_class, test_per_class: videos of each of the nine classes.
        seed: of everything random in the videos.
    """

    width: int = 96
    height: int = 72
    num_frames: int = 24
    radius: tuple[float, float] = (0.14, 0.19)
    train_per_class: int = 12
    test_per_class: int = 10
    seed: int = 0


def class_names() -> list[str]:
    """Return the nine class names, `red-right` and so on."""
    return [f"{colour}-{direction}" for colour in COLOURS for direction in DIRECTIONS]


def make_videos(folder: Path, params: SynthParams) -> int:
    """Write `folder/videos/<class>/<name>.avi` and UCF-style `folder/lists`; return the number of videos.

    Existing files are kept, so an interrupted call can be repeated.

    Raises:
        StinPipeError: ffmpeg cannot encode.
    """
    names = class_names()

    def draw(label: int, number: int) -> list[np.ndarray]:
        colour, direction = names[label].split("-")
        return draw_frames(colour, direction, params, np.random.default_rng([params.seed, label, number]))

    return write_videos(folder, names, draw, num_train=params.train_per_class, num_test=params.test_per_class)


def write_videos(
    folder: Path,
    names: Sequence[str],
    draw: Callable[[int, int], Sequence[np.ndarray]],
    *,
    num_train: int,
    num_test: int,
) -> int:
    """Write the videos of each class and the lists of one split; return the number of videos.

    Args:
        folder: gets ``videos/<class>/<name>.avi`` and UCF-style ``lists``; existing files are kept.
        names: the class names, in the order of their labels.
        draw: returns the frames of (label, number of the video within its class).
        num_train, num_test: videos of each class; the first ones are for training.

    Raises:
        StinPipeError: ffmpeg cannot encode.
    """
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(names):
        for number in range(num_train + num_test):
            path = folder / "videos" / name / f"v_{name}_{number:02d}.avi"
            side = "train" if number < num_train else "test"
            lists[side].append(f"{name}/{path.name}" + (f" {label + 1}" if side == "train" else ""))
            if not path.exists():
                encode_video(path, draw(label, number), fps=FRAME_RATE)

    lists_dir = folder / "lists"
    lists_dir.mkdir(parents=True, exist_ok=True)
    index = "".join(f"{label + 1} {name}\n" for label, name in enumerate(names))
    publish_bytes(lists_dir / "classInd.txt", index.encode())
    for side, lines in lists.items():
        publish_bytes(lists_dir / f"{side}list01.txt", "".join(f"{line}\n" for line in lines).encode())
    return sum(map(len, lists.values()))


def draw_frames(
    colour: str, direction: str, params: SynthParams, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw one video: frames (H, W, 3) uint8 RGB."""
    height, width = params.height, params.width
    # The order of the draws is part of a seed's videos.
    background = 70.0 + 18.0 * smooth_noise(rng, height, width, scale_px=6.0)
    texture = 1.0 + 0.16 * smooth_noise(rng, height, width, scale_px=2.0)
    radius = rng.uniform(*params.radius) * height
    speed = rng.uniform(1.8, 3.0)
    light = rng.uniform(0.85, 1.1)
    start = rng.uniform((0.0, 0.0), (width, height))

    velocity = speed * np.asarray(DIRECTIONS[direction])
    shape = disc(height, width, radius)
    paint = light * texture[..., None] * np.asarray(COLOURS[colour], np.float64)
    frames = []
    for time in range(params.num_frames):
        shift = start + time * velocity
        cover = wrapped_shift(shape, shift)[..., None]
        picture = cover * wrapped_shift(paint, shift) + (1.0 - cover) * background[..., None]
        noise = rng.normal(0.0, 1.5, (height, width, 1))
        frames.append(np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8))
    return frames


def encode_video(path: Path, frames: Sequence[np.ndarray], *, fps: float) -> None:
    """Encode frames (H, W, 3) uint8 RGB as MPEG-4 at high quality.

    Raises:
        StinPipeError: ffmpeg fails; its own message is quoted.
    """
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    source = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    options = {"c:v": "mpeg4", "q:v": 2, "pix_fmt": "yuv420p", "f": path.suffix[1:], "threads": 1}
    # -bitexact and one thread: the same frames give the same file with every build of ffmpeg.
    quiet = ("-hide_banner", "-loglevel", "error", "-nostats", "-y", "-bitexact")
    command = ffmpeg.output(source, f"file:{temporary}", **options).global_args(*quiet)

    encoded = subprocess.run(
        command.compile(cmd=find_ffmpeg().path),
        input=b"".join(frame.tobytes() for frame in frames),
        capture_output=True,
        check=False,
        preexec_fn=ending_with_this_process(),
    )
    if encoded.returncode != 0:
        temporary.unlink(missing_ok=True)
        message = encoded.stderr.decode(errors="replace")[:300]
        raise StinPipeError(f"{path}: ffmpeg cannot encode it: {message}")
    publish_file(temporary, path)


def disc(height: int, width: int, radius: float) -> np.ndarray:
    """Return coverage (H, W) in 0..1 of a soft-edged disc around the origin of the wrapped picture."""
    y = np.minimum(np.arange(height), height - np.arange(height))[:, None]
    x = np.minimum(np.arange(width), width - np.arange(width))[None, :]
    return np.clip(radius - np.hypot(x, y) + 0.5, 0.0, 1.0)


def wrapped_shift(image: np.ndarray, shift_xy: np.ndarray) -> np.ndarray:
    """Shift (H, W[, C]) by any number of pixels; what leaves on one side enters on the other."""
    whole = np.floor(shift_xy).astype(int)
    part_x, part_y = shift_xy - whole
    shifted = np.roll(image, (whole[1], whole[0]), axis=(0, 1))
    shifted = (1 - part_x) * shifted + part_x * np.roll(shifted, 1, axis=1)
    return (1 - part_y) * shifted + part_y * np.roll(shifted, 1, axis=0)


def smooth_noise(rng: np.random.Generator, height: int, width: int, *, scale_px: float) -> np.ndarray:
    """Return wrapped noise (H, W) of mean 0 and deviation 1 with features of about `scale_px`."""
    noise = rng.normal(size=(height, width)).astype(np.float32)
    # Blurred in the middle of nine copies, it wraps around without a seam.
    smooth = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), scale_px)[
        height : 2 * height, width : 2 * width
    ]
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float64)
