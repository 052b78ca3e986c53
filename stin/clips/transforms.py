"""Crops, flips and normalisation: from stored frames to what a network takes.

Clips stay uint8 until they reach the network: cropping and resizing bytes is several times cheaper than
floats, and a batch of bytes is a quarter of the traffic. ``normalise_rgb`` and ``normalise_flow`` run on the
device.

Shapes: frames_NHWC are RGB frames; fields_N2HW are quantised flow fields, x on top of y. A crop is square.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from stin_pipe.stin.network.config import MAX_CROP_PX, MIN_CROP_PX
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FLOW_BOUND_NORMALISED = 0.5 / 0.226
"""The value of a motion of ``bound_px``: TSN feeds (q / 255 - 0.5) / 0.226, so its bound becomes 2.21."""

TEST_CROP_SHARE = 0.875
"""Side of a test crop as a share of the stored short side: 224 of 256."""

# The thirteen positions of TSN's corner cropping, in quarters of the free room (x, y).
_CROP_POSITIONS = (
    (0, 0), (4, 0), (0, 4), (4, 4), (2, 2),
    (0, 2), (4, 2), (2, 4), (2, 0),
    (1, 1), (3, 1), (1, 3), (3, 3),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How a training clip is cropped and changed at random.

    Attributes:
        crop_px: side of the square that the network sees; see ``fitting_crop_px``.
        scales: crop sides as shares of the stored short side.
        flip: mirror half of the samples; turn it off where left and right are the label.
        jitter: strength of random brightness and contrast of RGB clips; 0 is none, 0.4 is strong.
    """

    crop_px: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not MIN_CROP_PX <= self.crop_px <= MAX_CROP_PX:
            raise ValueError(f"crop_px must be in {MIN_CROP_PX}..{MAX_CROP_PX}, got {self.crop_px}")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be shares in (0, 1], got {self.scales}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be in [0, 1], got {self.jitter}")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of the stored picture, and whether it is mirrored; the same for all clips of a sample."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def fitting_crop_px(crop_px: int, manifest: Manifest) -> int:
    """Return ``crop_px``, or less (a multiple of 8) where the smallest stored video has no room for it.

    Raises:
        StinPipeError: if the run has no video.
    """
    if not manifest.videos:
        raise StinPipeError(
            "this run has no extracted video; see extract/failures.jsonl and run extract again"
        )
    short_px = min(min(video.height, video.width) for video in manifest.videos.values())
    return min(crop_px, max(MIN_CROP_PX, int(short_px * TEST_CROP_SHARE) // 8 * 8))


def draw_training_crop(
    *, height: int, width: int, scales: tuple[float, ...], flip: bool, generator: np.random.Generator
) -> Crop:
    """Draw a corner/multi-scale crop.

    Args:
        height: stored height in pixels.
        width: stored width in pixels.
        scales: shares of the short side; height and width take neighbouring scales at most one step apart.
        flip: whether a flip may be drawn (half of the time).
        generator: from ``sampling.sample_generator``; three numbers are drawn, whatever the arguments are.

    Raises:
        ValueError: if ``scales`` is empty or has a value outside (0, 1].

    Source: Wang et al., Towards good practices for very deep two-stream ConvNets, 2015, section 3.3; TSN adds
    the positions between the corners.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales must be shares in (0, 1], got {scales}")
    short = min(height, width)
    pairs = [(a, b) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 1]
    scale_h, scale_w = pairs[int(generator.random() * len(pairs))]
    x, y = _CROP_POSITIONS[int(generator.random() * len(_CROP_POSITIONS))]
    mirrored = bool(generator.random() < 0.5)
    crop_h, crop_w = max(1, round(short * scale_h)), max(1, round(short * scale_w))
    return Crop(
        top=(height - crop_h) * y // 4,
        left=(width - crop_w) * x // 4,
        height=crop_h,
        width=crop_w,
        flip=flip and mirrored,
    )


def protocol_crops(*, height: int, width: int, num_crops: int, flip: bool) -> tuple[Crop, ...]:
    """Return the test crops: the centre (1); the corners and the centre (5); or these and their mirrors (10).

    Without ``flip``, 10 crops are the 5 that are not mirrored: mirrored views would show another class.

    Raises:
        ValueError: if ``num_crops`` is not 1, 5 or 10.
    """
    if num_crops not in (1, 5, 10):
        raise ValueError(f"num_crops must be 1, 5 or 10, got {num_crops}")
    side = max(1, round(min(height, width) * TEST_CROP_SHARE))
    positions = ((2, 2),) if num_crops == 1 else _CROP_POSITIONS[:5]
    mirrored = (False, True) if num_crops == 10 and flip else (False,)
    return tuple(
        Crop(
            top=(height - side) * y // 4,
            left=(width - side) * x // 4,
            height=side,
            width=side,
            flip=mirror,
        )
        for mirror in mirrored
        for x, y in positions
    )


def crop_frames(frames_NHWC: np.ndarray, *, crop: Crop, size_px: int) -> np.ndarray:
    """Cut one crop from every frame and resize it: uint8 (N, 3, size_px, size_px)."""
    cut = frames_NHWC[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    out_NCHW = np.empty((len(cut), 3, size_px, size_px), np.uint8)
    for target_CHW, image_HWC in zip(out_NCHW, cut, strict=True):
        cv2.split(_resize(image_HWC, size_px=size_px), list(target_CHW))
    return out_NCHW[..., ::-1].copy() if crop.flip else out_NCHW


def crop_fields(fields_N2HW: np.ndarray, *, crop: Crop, size_px: int, zero: float) -> np.ndarray:
    """Cut one crop from every quantised field and resize it: uint8 (N, 2, size_px, size_px).

    A mirrored crop has its x component negated. The values stay motions in stored pixels: they are not
    rescaled with the picture, so that the same motion has the same value at every crop scale (as in TSN).
    """
    cut = fields_N2HW[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    out_N2HW = np.empty((len(cut), 2, size_px, size_px), np.uint8)
    for target_2HW, field_2HW in zip(out_N2HW, cut, strict=True):
        for component in range(2):
            target_2HW[component] = _resize(field_2HW[component], size_px=size_px)
    return flip_quantised(out_N2HW, zero=zero) if crop.flip else out_N2HW


def flip_quantised(fields_N2HW: np.ndarray, *, zero: float) -> np.ndarray:
    """Mirror quantised fields left to right and negate their x component: q becomes 2 * zero - q.

    This is exact if 2 * zero is a whole number, as it is for our own zero (128) and the usual imported one
    (127.5). A value without a counterpart (q = 0 with zero 128, which our writer never stores) is clipped.
    """
    mirrored = fields_N2HW[..., ::-1].copy()
    negated = np.rint(2.0 * zero - mirrored[:, 0].astype(np.float32))
    mirrored[:, 0] = np.clip(negated, 0, 255).astype(np.uint8)
    return mirrored


def normalise_rgb(clips: torch.Tensor) -> torch.Tensor:
    """Map uint8 (..., 3, H, W) to float32 with ImageNet's mean and standard deviation."""
    shape = (3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN, device=clips.device).view(shape)
    std = torch.tensor(IMAGENET_STD, device=clips.device).view(shape)
    return (clips.float() * (1 / 255) - mean) / std


def normalise_flow(
    clips: torch.Tensor, *, zero: torch.Tensor, scale: torch.Tensor, bound_px: float
) -> torch.Tensor:
    """Map quantised flow to float32 that is 0 exactly at zero motion and 2.21 at ``bound_px``.

    Args:
        clips: uint8 (B, ..., H, W).
        zero: float (B,), the quantised value of zero motion of each video.
        scale: float (B,), pixels a quantum of each video.
        bound_px: the motion that becomes ``FLOW_BOUND_NORMALISED``. It is the run's bound, so that a video
            with another quantisation still has the same unit.

    Source: the flow preprocessing of TSN's code (mean 0.5, standard deviation 0.226 of q / 255).
    Differs: the mean of each field is not subtracted; zero motion is 0, not +0.0087 (q = 128 of 255 is not a
    half).
    """
    shape = (-1,) + (1,) * (clips.ndim - 1)
    factor = scale.to(clips.device, torch.float32) * (FLOW_BOUND_NORMALISED / bound_px)
    return (clips.float() - zero.to(clips.device, torch.float32).view(shape)) * factor.view(shape)


def _resize(image: np.ndarray, *, size_px: int) -> np.ndarray:
    if image.shape[:2] == (size_px, size_px):
        return image
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
