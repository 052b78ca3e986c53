"""How predict fuses the two streams: as it is told, else as fuse-eval fused them in this run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stin_pipe.stin.results.stored import read_metrics
from stin_pipe.stin.scoring.fusion import TSN_WEIGHTS, FusionPoint, check_weights
from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.shards.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class FusionChoice:
    """How two streams are fused.

    Attributes:
        weights: of the spatial and the temporal stream.
        when: where the mean is taken.
        aux: stream -> share of its auxiliary scores, where it is not the model's own.
        source: where this comes from, in words.
    """

    weights: tuple[float, float]
    when: FusionPoint = "before_softmax"
    aux: Mapping[str, float] = field(default_factory=dict[str, float])
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"weights": list(self.weights), "when": self.when, "aux": dict(self.aux), "from": self.source}

    def text(self) -> str:
        """Say it in a few words."""
        first, second = self.weights
        return f"fused {first:g}:{second:g} {self.when.replace('_', ' ')} ({self.source})"


def choose_fusion(run_path: Path | None, split: str, given: Sequence[float] | None) -> FusionChoice:
    """Return the weights that were given, else what fuse-eval of the run used last, else TSN's.

    Raises:
        ValueError: for weights that are not two numbers >= 0.
    """
    if given is not None:
        check_weights(given, names=STREAMS)
        return FusionChoice(weights=(given[0], given[1]), source="as given")
    found = {} if run_path is None else read_metrics(RunDir(path=run_path).fusion(split))
    if found.get("streams") != list(STREAMS) or found["protocol"].get("files"):
        return FusionChoice(weights=TSN_WEIGHTS, source="TSN's")
    first, second = found["fusion_weights"]
    return FusionChoice(
        weights=(first, second),
        when=found["fusion"],
        aux=found["protocol"]["aux"],
        source="as fuse-eval did in this run",
    )
