"""The clips of a run as an ordinary torch dataset, for training loops and models that are not ours."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch.utils.data import Dataset

from stin_pipe.stin.clips.dataset import ScoringClips, TrainingClips, network_input
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.clips.transforms import AugmentConfig, fitting_crop_px
from stin_pipe.stin.network.config import SpatialConfig, StreamName, TemporalConfig
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import STORED_OF, Manifest

ClipSubset = Literal["train", "test", "all"]


class ShardDataset(Dataset[tuple[torch.Tensor, int]]):
    """Pairs of (clip, label), one for each video of a run; works with the default ``DataLoader``.

    A clip is float32 of shape ``(num_segments, C, crop_px, crop_px)``, normalised as the streams take it:

    - ``stream="spatial"``: C is 3. RGB frames with ImageNet's mean and standard deviation.
    - ``stream="temporal"``: C is ``2 * stack_len``, x and y of each flow field in turn. Zero motion is 0, and
      the run's ``bound_px`` is 2.21 (as in TSN, whose flow is (q / 255 - 0.5) / 0.226).

    Without ``augment``, the clips are evenly spaced over the video and cut from its centre, so that every
    epoch is alike. With it, each clip starts at a random place of its segment, and the crop is one of TSN's
    corners and scales, mirrored half of the time. What is drawn depends on ``seed``, epoch and video alone,
    whatever the workers or the order; call ``set_epoch`` before each epoch, or every epoch draws the same.

    Args:
        run: the run directory.
        split: name of the split.
        subset: ``train`` or ``test`` of the split, or ``all`` videos of the run.
        stream: ``spatial`` reads frames, ``temporal`` reads flow.
        num_segments: K, clips of one video.
        stack_len: consecutive flow fields of one clip; the spatial stream does not use it.
        crop_px: side of the clips; smaller where the smallest stored video has less room.
        augment: whether clips are drawn at random.
        flip: whether ``augment`` mirrors; turn it off where left and right are the label.
        seed: of what ``augment`` draws.

    Attributes:
        classes: class names by label.
        ids: ids of the videos, by index.
        labels: their labels, by index.

    Raises:
        ValueError: if an argument is not one of its values, or a count is below 1.
        StinPipeError: if the run, its split or its videos are missing, or the run lacks the stream.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        split: str = "1",
        subset: ClipSubset = "train",
        stream: StreamName = "spatial",
        num_segments: int = 3,
        stack_len: int = 5,
        crop_px: int = 224,
        augment: bool = False,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        for name, value, choices in (("stream", stream, StreamName), ("subset", subset, ClipSubset)):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
        if num_segments < 1:
            raise ValueError(f"num_segments must be >= 1, got {num_segments}")
        self.run, self.split, self.subset = RunDir(path=Path(run)), split, subset
        manifest = Manifest.load(self.run.manifest)
        stored = STORED_OF[stream]
        manifest.require(stored)
        chosen = manifest.videos.values() if subset == "all" else manifest.subset(split, subset)
        videos = [ClipShape.of(video) for video in chosen if video.has(stored)]
        if not videos:
            raise StinPipeError(f"{self.run.path}: split {split!r} has no extracted {subset} video")

        self.stream, self.epoch = stream, 0
        self.classes = manifest.classes
        self.ids = tuple(video.id for video in videos)
        self.labels = tuple(video.label for video in videos)
        self._bound_px = manifest.bound_px
        self._stream = SpatialConfig() if stream == "spatial" else TemporalConfig(stack_len=stack_len)

        cut = AugmentConfig(crop_px=crop_px, flip=flip)
        cut = replace(cut, crop_px=fitting_crop_px(crop_px, manifest))
        channels = 3 if stream == "spatial" else 2 * stack_len
        self.clip_shape = (num_segments, channels, cut.crop_px, cut.crop_px)
        reader = ShardReader(self.run.extract, manifest)
        self._clips = (
            TrainingClips(
                videos, reader, stream=self._stream, augment=cut, num_segments=num_segments, seed=seed
            )
            if augment
            else ScoringClips(
                videos,
                reader,
                stream=self._stream,
                crop_px=cut.crop_px,
                num_segments=num_segments,
                num_crops=1,
                flip=False,
            )
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose clips are drawn; call it before the loader of that epoch is iterated."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} videos")
        index %= len(self)
        # One sample has one zero and scale of flow, which hold for all its clips: as a batch of one.
        clips = self._clips
        sample = clips[self.epoch, index] if isinstance(clips, TrainingClips) else clips[index]
        values = network_input(
            sample, stream=self._stream, bound_px=self._bound_px, device=torch.device("cpu")
        )
        return values.reshape(self.clip_shape), self.labels[index]

    def __repr__(self) -> str:
        return (
            f"ShardDataset({str(self.run.path)!r}, {self.stream}, split {self.split}, {self.subset}: "
            f"{len(self)} videos of {len(self.classes)} classes, clips {self.clip_shape})"
        )
