"""How a prediction fuses the two streams: as the caller says, else as fuse-eval fused them in the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.results.stored import members_in, read_metrics
from stin_pipe.stin.scoring.fusion import FUSED, TSN_WEIGHTS, FusionPoint, check_weights
from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir

FusionSource = Literal["caller", "tsn", "fuse-eval"]
_SOURCE_TEXT: dict[FusionSource, str] = {
    "caller": "weights as given",
    "tsn": "the weights of TSN",
    "fuse-eval": "as fuse-eval did in this run",
}


@dataclass(frozen=True, kw_only=True)
class FusionChoice:
    """How two streams are fused.

    Attributes:
        weights: of the spatial and the temporal stream.
        when: where the mean is taken.
        aux: stream -> share of its auxiliary scores, where it is not the model's own.
        shares: the same for each model of a stream, in the order of its names.
        source: who chose this.
    """

    weights: tuple[float, float]
    when: FusionPoint = "before_softmax"
    aux: Mapping[str, float] = field(default_factory=dict[str, float])
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    source: FusionSource

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "weights": list(self.weights),
            "when": self.when,
            "aux": dict(self.aux),
            "from": _SOURCE_TEXT[self.source],
        }

    def text(self) -> str:
        """Say it in a few words."""
        first, second = self.weights
        return f"fused {first:g}:{second:g} {self.when.replace('_', ' ')} ({_SOURCE_TEXT[self.source]})"


@dataclass(frozen=True, kw_only=True)
class BetterStream:
    """A stream that was right more often alone than fused, on the test list of the run's evaluation."""

    stream: str
    top1: float
    fused_top1: float

    def text(self) -> str:
        """Say it in one line, with the option."""
        return (
            f"on this run's test list the {self.stream} stream alone was right more often "
            f"({100 * self.top1:.1f} %) than the fusion ({100 * self.fused_top1:.1f} %): --streams "
            f"{self.stream} predicts with that stream"
        )


def evaluation_of(run: RunDir, split: str, members: Mapping[StreamName, tuple[str, ...]]) -> str | None:
    """Return the name of the evaluation of just these trainings; that of the default ones has the default
    name, whether it exists or not."""
    if all(names == (DEFAULT,) for names in members.values()):
        return DEFAULT
    for name in run.evaluation_names(split):
        if members_in(read_metrics(run.fusion(split, name))) == members:
            return name
    return None


def better_stream(run: RunDir, split: str, evaluation: str | None) -> BetterStream | None:
    """Return the stream that an evaluation found better alone than fused; None if there is none."""
    metrics = {} if evaluation is None else read_metrics(run.fusion(split, evaluation))
    fused = metrics.get(FUSED)
    alone = {stream: metrics[stream]["top1"] for stream in STREAMS if stream in metrics}
    if not fused or not alone:
        return None
    best = max(alone, key=lambda stream: alone[stream])
    if alone[best] <= fused["top1"]:
        return None
    return BetterStream(stream=best, top1=alone[best], fused_top1=fused["top1"])


def choose_fusion(
    weights: Sequence[float] | None,
    *,
    run: RunDir | None = None,
    split: str = "1",
    evaluation: str | None = DEFAULT,
) -> FusionChoice:
    """Return the weights that are given, else what this evaluation of the run used last, else those of TSN.

    Raises:
        ValueError: for weights that are not two numbers >= 0.
    """
    if weights is not None:
        check_weights(weights, names=STREAMS)
        return FusionChoice(weights=(weights[0], weights[1]), source="caller")

    # An evaluation with score files of other programs fused something else than our two streams.
    metrics = {} if run is None or evaluation is None else read_metrics(run.fusion(split, evaluation))
    if metrics.get("streams") != list(STREAMS) or metrics["protocol"].get("files"):
        return FusionChoice(weights=TSN_WEIGHTS, source="tsn")
    first, second = metrics["fusion_weights"]
    aux = metrics["protocol"]["aux"]
    members = metrics["protocol"].get("members")
    shares = {stream: (share,) for stream, share in aux.items()}
    if isinstance(members, dict):
        shares = {stream: tuple(float(item["aux"]) for item in own) for stream, own in members.items()}
    return FusionChoice(
        weights=(first, second),
        when=metrics["fusion"],
        aux=aux,
        shares=shares,
        source="fuse-eval",
    )
