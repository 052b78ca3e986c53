"""Samples for training and scoring, and batches of them.

Shapes: B samples, K segments; C is 3, or 2 * stack_len with x and y of each field in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from stin_pipe.stin.clips.read_clips import (
    ClipShape,
    ClipSource,
    CutClips,
    ShapeTable,
    clip_length,
    item_count,
    read_clips,
)
from stin_pipe.stin.clips.sampling import evenly_spaced_starts, sample_generator, training_starts
from stin_pipe.stin.clips.transforms import (
    AugmentConfig,
    draw_training_crop,
    normalise_flow,
    normalise_rgb,
    protocol_crops,
)
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples side by side, still as bytes; ``network_input`` normalises them on the device."""

    clips: torch.Tensor
    """uint8 (B, K, C, h, w) for training, (B, crops, K, C, h, w) for scoring."""
    labels: torch.Tensor
    """int64 (B,)."""
    flow_zero: torch.Tensor
    """float32 (B,), quantised value of zero motion; 0 for RGB."""
    flow_scale: torch.Tensor
    """float32 (B,), pixels of one quantum; 0 for RGB."""
    ids: tuple[str, ...]
    num_repeated: int
    """Flow fields that were repeated, because a video is shorter than a stack."""

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU need not wait."""
        return Batch(
            clips=self.clips.pin_memory(),
            labels=self.labels,
            flow_zero=self.flow_zero,
            flow_scale=self.flow_scale,
            ids=self.ids,
            num_repeated=self.num_repeated,
        )


class TrainingClips(Dataset[Batch]):
    """Samples of a training list, drawn at random in each epoch; an index is (epoch, video)."""

    def __init__(
        self,
        videos: Sequence[ClipShape],
        source: ClipSource,
        *,
        stream: StreamConfig,
        augment: AugmentConfig,
        num_segments: int,
        seed: int,
    ) -> None:
        self.videos = ShapeTable(videos)
        self.source = source
        self.stream: StreamConfig = stream
        self.augment = augment
        self.num_segments = num_segments
        self.seed = seed

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        video = self.videos[index]
        generator = sample_generator(seed=self.seed, epoch=epoch, sample_id=video.id)
        starts = training_starts(
            num_items=item_count(video, self.stream),
            clip_len=clip_length(self.stream),
            num_segments=self.num_segments,
            generator=generator,
        )
        # One crop for all clips: differences between segments must come from motion, not from the crop.
        crop = draw_training_crop(
            height=video.height,
            width=video.width,
            scales=self.augment.scales,
            flip=self.augment.flip,
            generator=generator,
        )

        sample = read_clips(
            self.source,
            video,
            starts=starts,
            crops=(crop,),
            stream=self.stream,
            crop_px=self.augment.crop_px,
        )
        clips = sample.clips[0]

        # Flow is not jittered: its values are motions, not light.
        if self.augment.jitter and isinstance(self.stream, SpatialConfig):
            clips = _jitter(clips, strength=self.augment.jitter, generator=generator)
        return one_sample(video, clips, sample)


class ScoringClips(Dataset[Batch]):
    """Evenly spaced clips of each video, in the crops of the test protocol."""

    def __init__(
        self,
        videos: Sequence[ClipShape],
        source: ClipSource,
        *,
        stream: StreamConfig,
        crop_px: int,
        num_segments: int,
        num_crops: int,
        flip: bool,
    ) -> None:
        self.videos = ShapeTable(videos)
        self.source = source
        self.stream: StreamConfig = stream
        self.crop_px = crop_px
        self.num_segments = num_segments
        self.num_crops = num_crops
        self.flip = flip

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Batch:
        video = self.videos[index]
        starts = evenly_spaced_starts(
            num_items=item_count(video, self.stream),
            clip_len=clip_length(self.stream),
            num_segments=self.num_segments,
        )
        crops = protocol_crops(
            height=video.height, width=video.width, num_crops=self.num_crops, flip=self.flip
        )
        sample = read_clips(
            self.source, video, starts=starts, crops=crops, stream=self.stream, crop_px=self.crop_px
        )
        return one_sample(video, sample.clips, sample)


def join_samples(samples: Sequence[Batch]) -> Batch:
    """Join samples of one video each to a batch."""
    return Batch(
        clips=torch.stack([sample.clips for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        flow_zero=torch.cat([sample.flow_zero for sample in samples]),
        flow_scale=torch.cat([sample.flow_scale for sample in samples]),
        ids=tuple(video_id for sample in samples for video_id in sample.ids),
        num_repeated=sum(sample.num_repeated for sample in samples),
    )


def network_input(
    batch: Batch, *, stream: StreamConfig, bound_px: float, device: torch.device
) -> torch.Tensor:
    """Move a batch to the device and normalise it there; return float32 of the shape of its clips."""
    clips = batch.clips.to(device, non_blocking=True)
    if isinstance(stream, SpatialConfig):
        return normalise_rgb(clips)
    return normalise_flow(clips, zero=batch.flow_zero, scale=batch.flow_scale, bound_px=bound_px)


def one_sample(video: ClipShape, clips: np.ndarray, sample: CutClips) -> Batch:
    """Return these clips of one video as a batch.

    Args:
        video: their id and label.
        clips: uint8, a part of ``sample.clips`` or an augmented one.
        sample: what was read, with the meaning of its quantised flow.
    """
    coding = sample.coding
    return Batch(
        clips=torch.from_numpy(np.ascontiguousarray(clips)),
        labels=torch.tensor([video.label]),
        flow_zero=torch.tensor([coding.zero if coding else 0.0], dtype=torch.float32),
        flow_scale=torch.tensor([coding.scale if coding else 0.0], dtype=torch.float32),
        ids=(video.id,),
        num_repeated=sample.num_repeated,
    )


def _jitter(clips_KCHW: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    # One gain and one offset for all clips of the sample: their differences must remain those of the video.
    gain = 1 + strength * (2 * generator.random() - 1)
    offset = 64 * strength * (2 * generator.random() - 1)
    table = np.clip(np.rint((np.arange(256) - 128) * gain + 128 + offset), 0, 255).astype(np.uint8)
    return table[clips_KCHW]
