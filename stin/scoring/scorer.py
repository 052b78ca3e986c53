"""Run one trained network over the clips of one video after another.

One crop of one video is one sample of the network, so differences and attention never mix two crops.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from stin_pipe.stin.clips.dataset import Batch, ScoringClips, network_input
from stin_pipe.stin.clips.loader import batches_of, scoring_loader
from stin_pipe.stin.clips.read_clips import ClipShape, ClipSource
from stin_pipe.stin.device import autocast, loader_worker_count
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.network.streams import StreamOutput, stream_scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import ManifestVideo

MAX_CLIPS_A_PASS = 128
"""Clips of one forward pass; bounds memory. Another grouping may differ in the last bit of a score."""


@dataclass(frozen=True, kw_only=True)
class TestProtocol:
    """How a video is looked at.

    Attributes:
        num_segments: clips of a crop, evenly spaced.
        num_crops: 1, 5 or 10 (the 5 and their mirror images, unless the model was trained without flips).
        difference_step: which segments the spatial stream compares: ``neighbours``, as OFF does, or
            ``training``, those about as far apart in time as in training: of 25 segments, a model trained
            with 6 compares those 4 apart.
        precision: what the network computes in: ``fp32``, or mixed with ``bf16`` or ``fp16``.
    """

    __test__ = False  # keeps pytest from taking the class for a test

    num_segments: int = 25
    num_crops: int = 10
    difference_step: Literal["training", "neighbours"] = "training"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

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


class Scorer:
    """Scores videos one after another; once GPU memory runs out, in smaller passes from then on.

    Args:
        model: a finished model.
        protocol: how a video is looked at.
        notify: called with what a person should read.
        aux_share: share of the auxiliary scores; None is the model's own.
    """

    def __init__(
        self,
        model: TrainedModel,
        protocol: TestProtocol,
        notify: Callable[[str], None],
        *,
        aux_share: float | None = None,
    ) -> None:
        self.model = model
        self.aux_share = model.info.stream.aux_at_test if aux_share is None else aux_share
        self.protocol = protocol
        self.notify = notify
        self.crops_a_pass = max(1, MAX_CLIPS_A_PASS // protocol.num_segments)

    @property
    def row_length(self) -> int:
        """Length of the rows that `score` yields."""
        return len(self.model.info.classes) * (2 if self.model.info.stream.is_plain else 3)

    def score(
        self,
        videos: Sequence[ManifestVideo],
        source: ClipSource,
        loader_workers: int | None,
    ) -> Iterator[np.ndarray]:
        """Yield a row for each video, in order: scores, main logits, and auxiliary ones if there are any."""
        if not videos:
            return
        shapes = [ClipShape.of(video) for video in videos]
        loader = scoring_loader(
            scoring_clips(self.model, shapes, source, self.protocol),
            batch_size=1,
            num_workers=loader_worker_count(loader_workers, self.model.device),
            pin_memory=self.model.device.type == "cuda",
        )
        for batch in batches_of(loader):
            scored = self.score_sample(replace(batch, clips=batch.clips[0]))
            parts = [scored.logits, scored.main_logits, scored.aux_logits]
            yield np.concatenate([part for part in parts if part is not None])

    @torch.inference_mode()
    def score_sample(self, sample: Batch) -> ClipScores:
        """Score the crops of one video, clips (crops, K, C, h, w), and average them.

        Raises:
            StinPipeError: if a single crop does not fit into the GPU's memory, or a score is not finite.
        """
        # Halved until it fits, and kept: the next video would run out of memory just as well.
        while True:
            try:
                output = self._forward(sample)
                break
            except torch.OutOfMemoryError as error:
                if self.crops_a_pass == 1:
                    raise StinPipeError(
                        f"{sample.ids[0]}: the {self.protocol.num_segments} clips of one crop do not fit "
                        "into the GPU's memory; give fewer --segments, or --device cpu"
                    ) from error
                self.crops_a_pass //= 2
                self.notify(
                    f"out of GPU memory: from now on {self.crops_a_pass} crops a pass; the last bit of a "
                    "score may differ from that of another grouping"
                )
                torch.cuda.empty_cache()

        aux = output.aux_logits
        logits = stream_scores(output, aux_at_test=self.aux_share)

        # A nan would win or lose every comparison unnoticed, so it stops here, at the video that made it.
        if not torch.isfinite(logits).all():
            advice = "" if self.protocol.precision == "fp32" else ", or score with --amp off"
            raise StinPipeError(
                f"{sample.ids[0]}: the {self.model.info.stream_name} model's scores are not finite; train it "
                f"again with a lower --lr{advice}"
            )

        return ClipScores(
            logits=logits.cpu().numpy(),
            main_logits=output.logits.cpu().numpy(),
            aux_logits=None if aux is None else aux.cpu().numpy(),
        )

    def _forward(self, sample: Batch) -> StreamOutput:
        """Return the mean output over the crops of one video."""
        model = self.model
        step = self.protocol.step_for(model.info.num_segments)
        amp = "off" if self.protocol.precision == "fp32" else self.protocol.precision

        main: list[torch.Tensor] = []
        aux: list[torch.Tensor] = []
        for part in sample.clips.split(self.crops_a_pass):
            inputs = network_input(
                replace(sample, clips=part),
                stream=model.info.stream,
                bound_px=model.info.bound_px,
                device=model.device,
            )
            with autocast(amp, model.device):
                output: StreamOutput = model.network(inputs, difference_step=step)
            # Means are taken in float32 even where the network computes in half precision.
            main.append(output.logits.float())
            if output.aux_logits is not None:
                aux.append(output.aux_logits.float())
        return StreamOutput(
            logits=torch.cat(main).mean(0), aux_logits=torch.cat(aux).mean(0) if aux else None
        )


def scoring_clips(
    model: TrainedModel, videos: Sequence[ClipShape], source: ClipSource, protocol: TestProtocol
) -> ScoringClips:
    """Return the clips of these videos by the protocol.

    Raises:
        ValueError: if a model that takes differences between segments would see only one.
    """
    info = model.info
    if info.stream_name == "spatial" and not info.stream.is_plain and protocol.num_segments < 2:
        raise ValueError(
            "--segments (num_segments) must be >= 2 for a model that takes differences between clips, got 1"
        )
    return ScoringClips(
        videos,
        source,
        stream=info.stream,
        crop_px=info.crop_px,
        num_segments=protocol.num_segments,
        num_crops=protocol.num_crops,
        flip=info.flip,
    )
