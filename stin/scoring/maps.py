"""Where a finished stream looks: attention and difference maps over the whole stored picture.

A network sees square crops. Its maps are those of the five unmirrored crops of the test protocol; a pixel
that several crops cover gets their mean.

Shapes: K segments, h x w a feature map, H x W the stored picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from stin_pipe.stin.clips.dataset import network_input, one_sample
from stin_pipe.stin.clips.read_clips import ClipShape, ClipSource, clip_length, item_count, read_clips
from stin_pipe.stin.clips.sampling import evenly_spaced_starts
from stin_pipe.stin.clips.transforms import Crop, protocol_crops
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.scoring.scorer import TestProtocol

MAP_CROPS = 5


@dataclass(frozen=True, kw_only=True)
class StreamMaps:
    """The maps of one video by one stream.

    Attributes:
        starts: int64 (K,), first frame (spatial) or field (temporal) of each segment's clip.
        step: how many segments apart the spatial stream compares; 0 for attention.
        values_MHW: float32 (M, H, W) over the stored picture, M = K - step. Attention is in multiples of even
            attention, so 1 everywhere is no preference; a difference is the mean over the channels of its
            absolute value, in units of the features.
    """

    starts: np.ndarray
    step: int
    values_MHW: np.ndarray


@torch.inference_mode()
def stream_maps(
    model: TrainedModel, source: ClipSource, video: ClipShape, *, num_segments: int
) -> StreamMaps | None:
    """Return the attention (temporal) or difference (spatial) maps of one video; None for a plain stream.

    Args:
        model: a finished model.
        source: gives frames and fields by id.
        video: which video, and its size.
        num_segments: K, >= 2; segments are compared as far apart as in the training.

    Raises:
        ValueError: if ``num_segments`` is below 2.
    """
    if num_segments < 2:
        raise ValueError(f"num_segments must be >= 2 to compare segments, got {num_segments}")
    info = model.info
    if info.stream.is_plain:
        return None

    starts = evenly_spaced_starts(
        num_items=item_count(video, info.stream), clip_len=clip_length(info.stream), num_segments=num_segments
    )
    crops = protocol_crops(height=video.height, width=video.width, num_crops=MAP_CROPS, flip=False)
    cut = read_clips(source, video, starts=starts, crops=crops, stream=info.stream, crop_px=info.crop_px)
    spatial = info.stream_name == "spatial"
    # As far apart as when the video is scored, or the map would show other differences than those that count.
    step = TestProtocol(num_segments=num_segments).step_for(info.num_segments) if spatial else 0

    by_crop = []
    for clips in cut.clips:  # one crop at a time: memory stays that of one
        sample = one_sample(video, clips[None], cut)
        inputs = network_input(sample, stream=info.stream, bound_px=info.bound_px, device=model.device)
        maps = model.network(inputs, difference_step=max(1, step), return_maps=True).maps
        values_Mhw = maps["differences" if spatial else "attention"][0].float()
        if not spatial:
            values_Mhw = values_Mhw * values_Mhw[0].numel()
        by_crop.append(values_Mhw.cpu().numpy())

    return StreamMaps(
        starts=starts,
        step=step,
        values_MHW=_over_picture(by_crop, crops, height=video.height, width=video.width),
    )


def _over_picture(
    by_crop: list[np.ndarray], crops: tuple[Crop, ...], *, height: int, width: int
) -> np.ndarray:
    """Lay the crops' maps (M, h, w) over the picture; pixels that no crop covers (in wide videos) are 0.

    A crop weighs less towards its border, so that no seam shows where another one begins.
    """
    total = np.zeros((len(by_crop[0]), height, width), np.float32)
    seen = np.zeros((height, width), np.float32)
    for values_Mhw, crop in zip(by_crop, crops, strict=True):
        rows = slice(crop.top, crop.top + crop.height)
        columns = slice(crop.left, crop.left + crop.width)
        weight_HW = np.minimum.outer(_to_border(crop.height), _to_border(crop.width))
        for target_HW, value_hw in zip(total, values_Mhw, strict=True):
            target_HW[rows, columns] += weight_HW * cv2.resize(
                value_hw.astype(np.float32), (crop.width, crop.height), interpolation=cv2.INTER_LINEAR
            )
        seen[rows, columns] += weight_HW
    return total / np.where(seen > 0, seen, 1)


def _to_border(length: int) -> np.ndarray:
    """Return each pixel's distance to the nearer end, 1 at the ends: float32 (length,)."""
    position = np.arange(length, dtype=np.float32)
    return np.minimum(position, length - 1 - position) + 1
