"""How the videos of a split are scored, and how the streams' scores are fused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stin_pipe.stin.device import Amp, choose_device, resolve_amp
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.network.model_file import ModelInfo
from stin_pipe.stin.scoring.fusion import TSN_WEIGHTS, FusionPoint
from stin_pipe.stin.scoring.scorer import TestProtocol
from stin_pipe.stin.scoring.scores import Kind, Scores

STREAMS: tuple[StreamName, StreamName] = ("spatial", "temporal")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How a split is scored and fused; names and defaults are those of fuse-eval's options.

    Attributes:
        spatial: names of the trainings of the spatial stream; the mean of several is taken. None named is the
            default one, if it is trained.
        temporal: likewise of the temporal stream.
        segments: clips of a video.
        crops: views of a clip: 1, 5 or 10.
        fusion_weights: one a stream in the order of ``stream_names``; None takes TSN's, or tunes them.
        tune_fusion: choose the weights on the held-out part of the training list.
        when: where the weighted mean is taken.
        aux: share of the auxiliary scores in each stream's; None leaves it to the models.
        files: stream -> score file of another program, for a stream of ours or a further one.
        scores_as: what the scores in such files are, where neither a file nor its numbers tell.
        amp: mixed precision of the networks.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        loader_workers: processes that read; None chooses by cores.
    """

    spatial: tuple[str, ...] = ()
    temporal: tuple[str, ...] = ()
    segments: int = 25
    crops: int = 10
    fusion_weights: tuple[float, ...] | None = None
    tune_fusion: bool = False
    when: FusionPoint = "before_softmax"
    aux: float | None = None
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    scores_as: Kind | None = None
    amp: Amp = "auto"
    device: str = "auto"
    loader_workers: int | None = None

    @property
    def named(self) -> dict[StreamName, tuple[str, ...]]:
        """Stream -> names of its trainings, where names are given."""
        named: dict[StreamName, tuple[str, ...]] = {"spatial": self.spatial, "temporal": self.temporal}
        return {stream: names for stream, names in named.items() if names}

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Streams in the order of the fusion: spatial, temporal, then those that only files have."""
        return (*STREAMS, *(name for name in self.files if name not in STREAMS))

    @property
    def scored_streams(self) -> tuple[StreamName, ...]:
        """Streams that our own models score, because no file replaces them."""
        return tuple(stream for stream in STREAMS if stream not in self.files)

    @property
    def weights(self) -> tuple[float, ...]:
        """The fusion weights, TSN's by default."""
        return TSN_WEIGHTS if self.fusion_weights is None else self.fusion_weights

    @property
    def protocol(self) -> TestProtocol:
        """How a video is looked at; the device decides the precision."""
        amp = resolve_amp(self.amp, choose_device(self.device))
        precision: Literal["fp32", "bf16", "fp16"] = "fp32" if amp == "off" else amp
        return TestProtocol(num_segments=self.segments, num_crops=self.crops, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A training whose model takes part in an evaluation.

    Attributes:
        name: of the training.
        info: description of its model.
        digest: sha256 of the model file.
        aux: share of the auxiliary scores in its scores.
    """

    name: str
    info: ModelInfo
    digest: str
    aux: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "sha256": self.digest, "aux": self.aux}


@dataclass(frozen=True, kw_only=True)
class StreamScores:
    """The scores of one stream, and the trainings that made them; none where a file holds them.

    The scores of several are their mean.
    """

    scores: Scores
    members: tuple[Member, ...] = ()

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self.scores.stream

    @property
    def info(self) -> ModelInfo | None:
        """Description of the first model; None where another program made the scores."""
        return self.members[0].info if self.members else None

    @property
    def aux_share(self) -> float:
        """The share that the auxiliary scores have in this stream's, the mean over its members."""
        return sum(member.aux for member in self.members) / max(1, len(self.members))
