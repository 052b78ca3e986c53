"""Score videos with a finished model: many segments, many crops, the mean before softmax.

One crop of one video is one sample of the network, so differences and attention never see two crops at once.
Scores of a split are written as they come; a scoring that was killed goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stin.clips import ClipShape, ClipSource, MemoryClip
from stin.dataset import Batch, ScoringClips, network_input
from stin.device import loader_worker_count
from stin.holdout import list_digest
from stin.loader import batches_of, scoring_loader
from stin.model_file import TrainedModel
from stin.scores import Scores
from stin.shards.errors import StinPipeError
from stin.shards.reader import ShardReader
from stin.shards.schema import FlowCoding, Manifest, ManifestVideo
from stin.streams import StreamOutput, stream_scores

MAX_CLIPS_A_PASS = 128
"""Clips run at once; bounds memory. Part of the protocol: another grouping may differ in the last bit."""
VIDEOS_A_SAVE = 32


@dataclass(frozen=True, kw_only=True)
class TestProtocol:
    """How a video is looked at.

    Attributes:
        num_segments: clips a crop, evenly spaced.
        num_crops: 1, 5 or 10 (the 5 mirrored too, unless the model was trained without flips).
        difference_step: which segments the spatial stream compares: ``neighbours``, as OFF does, or those
            about as far apart as in training (``training``): 25 segments of a model trained with 6 are
            compared 4 apart.
    """

    __test__ = False  # keeps pytest from taking the class for a test

    num_segments: int = 25
    num_crops: int = 10
    difference_step: Literal["training", "neighbours"] = "training"

    def __post_init__(self) -> None:
        if self.num_segments < 1:
            raise ValueError(f"num_segments must be >= 1, got {self.num_segments}")
        if self.num_crops not in (1, 5, 10):
            raise ValueError(f"num_crops must be 1, 5 or 10, got {self.num_crops}")

    def step_for(self, trained_segments: int) -> int:
        """Return the distance of compared segments for a model trained with this many."""
        if self.difference_step == "neighbours":
            return 1
        return max(1, min(self.num_segments - 1, round(self.num_segments / trained_segments)))


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The scores of one video, before softmax; float32 (C,) each."""

    logits: np.ndarray
    main_logits: np.ndarray
    aux_logits: np.ndarray | None


def score_clip(
    model: TrainedModel,
    *,
    rgb: np.ndarray | None = None,
    flow: np.ndarray | None = None,
    coding: FlowCoding | None = None,
    protocol: TestProtocol | None = None,
) -> ClipScores:
    """Score one video in memory; equal to scoring it from a shard that holds these frames and fields.

    Args:
        model: a finished model.
        rgb: uint8 (T, H, W, 3), for a spatial model.
        flow: uint8 (T - 1, 2, H, W) quantised, for a temporal model, with its ``coding``.
        coding: what the quantised values mean.
        protocol: segments and crops; by default the whole test protocol.

    Raises:
        ValueError: if what the model's stream needs is missing or has another shape.
    """
    if model.info.stream_name == "spatial":
        if rgb is None or rgb.ndim != 4 or rgb.shape[3] != 3 or len(rgb) < 1:
            shape = None if rgb is None else rgb.shape
            raise ValueError(f"a spatial model needs rgb (T, H, W, 3), got {shape}")
        num_frames, height, width = rgb.shape[:3]
    else:
        if flow is None or coding is None or flow.ndim != 4 or flow.shape[1] != 2 or len(flow) < 1:
            raise ValueError(
                "a temporal model needs flow (T - 1, 2, H, W) and its coding, "
                f"got {None if flow is None else flow.shape} and {coding}"
            )
        num_frames, height, width = len(flow) + 1, flow.shape[2], flow.shape[3]
    video = ClipShape(id="clip", label=0, num_frames=num_frames, height=height, width=width)
    protocol = protocol or TestProtocol()
    clips = _clips(model, [video], MemoryClip(rgb=rgb, flow=flow, coding=coding), protocol)
    return _score_sample(model, clips[0], protocol)


def score_split(
    model: TrainedModel,
    *,
    manifest: Manifest,
    extract_dir: Path,
    split: str,
    subset: Literal["test", "train"] = "test",
    protocol: TestProtocol | None = None,
    out_path: Path | None = None,
    loader_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scores:
    """Score the extracted videos of one side of a split, in order of id.

    Args:
        model: a finished model of this run's classes.
        manifest: the run's videos.
        extract_dir: folder with ``shards/``.
        split: name of the split.
        subset: side of the split.
        protocol: segments and crops.
        out_path: score file; if it already holds these videos by this model and protocol, it is returned, and
            a killed scoring goes on from what it had written beside it.
        loader_workers: processes that read; None decides by the device.
        on_progress: called with (videos done, videos in all).

    Raises:
        StinPipeError: if the split or its list is empty, or the model knows other classes.
    """
    protocol = protocol or TestProtocol()
    if model.info.classes != manifest.classes:
        ours, theirs = model.info.classes, manifest.classes
        raise StinPipeError(
            f"the model knows {len(ours)} classes ({', '.join(ours[:3])}, ...), this run has {len(theirs)} "
            f"({', '.join(theirs[:3])}, ...); train on this run first"
        )
    videos = manifest.subset(split, subset)
    if not videos:
        raise StinPipeError(f"split {split!r} has no extracted {subset} video; take another split")
    nothing = Scores(
        ids=(),
        labels=np.empty(0, np.int64),
        class_names=manifest.classes,
        logits=np.empty((0, len(manifest.classes)), np.float32),
        main_logits=np.empty((0, len(manifest.classes)), np.float32),
        aux_logits=None if model.info.stream.is_plain else np.empty((0, len(manifest.classes)), np.float32),
        stream=model.info.stream_name,
        protocol={**asdict(protocol), "split": split, "subset": subset, "videos": list_digest(videos)},
        model_digest=model.digest,
    )
    partial_path = None if out_path is None else out_path.with_name(f"{out_path.stem}.partial.npz")
    done = _earlier(out_path, nothing, videos) or _earlier(partial_path, nothing, videos) or nothing
    on_progress(len(done.ids), len(videos))
    remaining = videos[len(done.ids) :]
    if remaining:
        loader = scoring_loader(
            _clips(
                model,
                [ClipShape.of(video) for video in remaining],
                ShardReader(extract_dir, manifest),
                protocol,
            ),
            batch_size=1,
            num_workers=loader_worker_count(loader_workers, model.device),
            pin_memory=model.device.type == "cuda",
        )
        fresh: list[ClipScores] = []
        for batch in batches_of(loader):
            fresh.append(_score_sample(model, replace(batch, clips=batch.clips[0]), protocol))
            on_progress(len(done.ids) + len(fresh), len(videos))
            if partial_path is not None and len(fresh) == VIDEOS_A_SAVE:
                done, fresh = _extended(done, videos, fresh), []
                done.save(partial_path)
        done = _extended(done, videos, fresh)
    if out_path is not None and partial_path is not None:
        if remaining:
            done.save(out_path)
        partial_path.unlink(missing_ok=True)
    return done


def _clips(
    model: TrainedModel, videos: Sequence[ClipShape], source: ClipSource, protocol: TestProtocol
) -> ScoringClips:
    info = model.info
    if info.stream_name == "spatial" and not info.stream.is_plain and protocol.num_segments < 2:
        raise ValueError("num_segments must be >= 2 for a model that takes differences, got 1")
    return ScoringClips(
        videos,
        source,
        stream=info.stream,
        crop_px=info.crop_px,
        num_segments=protocol.num_segments,
        num_crops=protocol.num_crops,
        flip=info.flip,
    )


@torch.inference_mode()
def _score_sample(model: TrainedModel, sample: Batch, protocol: TestProtocol) -> ClipScores:
    """Score the crops of one video, clips (crops, K, C, h, w), and average them."""
    crops_a_pass = max(1, MAX_CLIPS_A_PASS // protocol.num_segments)
    step = protocol.step_for(model.info.num_segments)
    main: list[torch.Tensor] = []
    aux: list[torch.Tensor] = []
    for part in sample.clips.split(crops_a_pass):
        inputs = network_input(
            replace(sample, clips=part),
            stream=model.info.stream,
            bound_px=model.info.bound_px,
            device=model.device,
        )
        output: StreamOutput = model.network(inputs, difference_step=step)
        main.append(output.logits)
        if output.aux_logits is not None:
            aux.append(output.aux_logits)
    output = StreamOutput(logits=torch.cat(main).mean(0), aux_logits=torch.cat(aux).mean(0) if aux else None)
    return ClipScores(
        logits=stream_scores(output, aux_at_test=model.info.stream.aux_at_test).float().cpu().numpy(),
        main_logits=output.logits.float().cpu().numpy(),
        aux_logits=None if output.aux_logits is None else output.aux_logits.float().cpu().numpy(),
    )


def _earlier(path: Path | None, nothing: Scores, videos: Sequence[ManifestVideo]) -> Scores | None:
    """Return what a file already holds of these videos by this model and protocol."""
    if path is None or not path.exists():
        return None
    try:
        found = Scores.load(path)
    except StinPipeError:
        return None  # scoring again costs time, not correctness
    same = (found.class_names, found.stream, dict(found.protocol), found.model_digest) == (
        nothing.class_names,
        nothing.stream,
        dict(nothing.protocol),
        nothing.model_digest,
    )
    in_order = found.ids == tuple(video.id for video in videos[: len(found.ids)])
    return found if same and in_order else None


def _extended(done: Scores, videos: Sequence[ManifestVideo], fresh: Sequence[ClipScores]) -> Scores:
    if not fresh:
        return done
    added = videos[len(done.ids) : len(done.ids) + len(fresh)]
    aux = done.aux_logits
    if aux is not None:
        aux = np.concatenate(
            [aux, np.stack([scored.aux_logits for scored in fresh if scored.aux_logits is not None])]
        )
    return replace(
        done,
        ids=done.ids + tuple(video.id for video in added),
        labels=np.concatenate([done.labels, np.array([video.label for video in added], np.int64)]),
        logits=np.concatenate([done.logits, np.stack([scored.logits for scored in fresh])]),
        main_logits=np.concatenate([done.main_logits, np.stack([scored.main_logits for scored in fresh])]),
        aux_logits=aux,
    )
