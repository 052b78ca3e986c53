"""Make small labelled videos that ask one question of a stream each.

``order``: a disc shows three colours, one after the other; the class is their order. Every video has every
colour for about the same time and the disc drifts in a random direction, so neither a single frame, nor any
number of frames without their order, nor flow (the colours have equal grey values) tells the class.

``motion``: a disc of a random colour moves in one of eight directions, which is the class. With
``noise_share`` above 0 the background moves as well in a rectangle of that share of the picture, in
directions that have nothing to do with the class and last a few frames: flow in a region of no interest.
"""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np

from stin_pipe.pipeline.demo_videos import COLOURS, disc, smooth_noise, wrapped_shift, write_videos

Probe = Literal["order", "motion"]

ORDERS = tuple("-".join(order) for order in permutations(COLOURS))
"""The six classes of ``order``, such as red-green-blue."""

HALF_SQRT2 = 0.5**0.5
MOTIONS = {
    "right": (1.0, 0.0),
    "right-down": (HALF_SQRT2, HALF_SQRT2),
    "down": (0.0, 1.0),
    "left-down": (-HALF_SQRT2, HALF_SQRT2),
    "left": (-1.0, 0.0),
    "left-up": (-HALF_SQRT2, -HALF_SQRT2),
    "up": (0.0, -1.0),
    "right-up": (HALF_SQRT2, -HALF_SQRT2),
}
"""The eight classes of ``motion``: unit velocity (x to the right, y down)."""

NOISE_FRAMES = 5
"""Frames for which the background of the noisy rectangle keeps its velocity; a flow stack is as long."""


@dataclass(frozen=True, kw_only=True)
class ProbeParams:
    """What to make.

    Attributes:
        probe: the question, see the module.
        width, height: of a frame in pixels.
        num_frames: of a video.
        train_per_class, test_per_class: videos of each class.
        noise_share: share of the picture whose background moves, 0 to 0.9; for ``motion``.
        seed: another seed makes other videos.
    """

    probe: Probe
    width: int = 64
    height: int = 48
    num_frames: int = 24
    train_per_class: int = 16
    test_per_class: int = 20
    noise_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.probe not in ("order", "motion"):
            raise ValueError(f"probe must be order or motion, got {self.probe!r}")
        if not 0 <= self.noise_share <= 0.9:
            raise ValueError(f"noise_share must be in 0..0.9, got {self.noise_share}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of their labels."""
        return ORDERS if self.probe == "order" else tuple(MOTIONS)


def make_probe_videos(folder: Path, params: ProbeParams) -> int:
    """Write ``folder/videos/<class>/<name>.avi`` and UCF-style ``folder/lists``; return the number of videos.

    Raises:
        StinPipeError: ffmpeg cannot encode.
    """

    def draw(label: int, number: int) -> list[np.ndarray]:
        rng = np.random.default_rng([params.seed, label, number])
        return draw_probe(params.classes[label], params, rng)

    return write_videos(
        folder, params.classes, draw, num_train=params.train_per_class, num_test=params.test_per_class
    )


def draw_probe(name: str, params: ProbeParams, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw one video of the class of this name: frames (H, W, 3) uint8 RGB."""
    height, width, count = params.height, params.width, params.num_frames
    if params.probe == "order":
        angle = rng.uniform(0, 2 * np.pi)
        velocity = rng.uniform(0.2, 0.6) * np.array((np.cos(angle), np.sin(angle)))
        colours = _colour_of_frames(name, count, rng)
    else:
        velocity = rng.uniform(1.2, 2.0) * np.asarray(MOTIONS[name])
        colours = [list(COLOURS)[int(rng.integers(len(COLOURS)))]] * count
    still = 18.0 * smooth_noise(rng, height, width, scale_px=4.0)
    moving = 18.0 * smooth_noise(rng, height, width, scale_px=4.0)
    texture = 1.0 + 0.16 * smooth_noise(rng, height, width, scale_px=1.5)
    light = rng.uniform(0.85, 1.1)
    start = rng.uniform((0.0, 0.0), (width, height))
    shape = disc(height, width, rng.uniform(0.16, 0.21) * height)
    region = _rectangle(params, rng)
    noise_shifts = _noise_shifts(count, rng)
    frames = []
    for time in range(count):
        shift = start + time * velocity
        background = 70.0 + np.where(region, wrapped_shift(moving, noise_shifts[time]), still)
        paint = light * texture[..., None] * np.asarray(COLOURS[colours[time]], np.float64)
        cover = wrapped_shift(shape, shift)[..., None]
        picture = cover * wrapped_shift(paint, shift) + (1.0 - cover) * background[..., None]
        noise = rng.normal(0.0, 1.5, (height, width, 1))
        frames.append(np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8))
    return frames


def _colour_of_frames(order: str, count: int, rng: np.random.Generator) -> list[str]:
    """Give each colour about a third of the frames, in this order."""
    changes = np.rint(count / 3 * (np.array((1.0, 2.0)) + rng.uniform(-0.2, 0.2, 2)))
    return [order.split("-")[int((time >= changes).sum())] for time in range(count)]


def _rectangle(params: ProbeParams, rng: np.random.Generator) -> np.ndarray:
    """Return a mask (H, W) of ``noise_share`` of the picture: a wrapped rectangle at a random place."""
    # From the shape that fills the height to the one that fills the width.
    part = float(rng.uniform())
    rows = round(params.noise_share**part * params.height)
    columns = round(params.noise_share ** (1 - part) * params.width)
    mask = np.zeros((params.height, params.width), bool)
    mask[:rows, :columns] = True
    shift = (int(rng.integers(params.height)), int(rng.integers(params.width)))
    return np.roll(mask, shift, axis=(0, 1))


def _noise_shifts(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return how far the moving background has come at each frame (count, 2): x, y in pixels."""
    legs = -(-count // NOISE_FRAMES)
    angle, speed = rng.uniform(0, 2 * np.pi, legs), rng.uniform(1.2, 2.0, legs)
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.cumsum(np.repeat(velocity, NOISE_FRAMES, axis=0)[:count], axis=0)
