"""The results of a stream's variants, seed by seed, and how far apart they are.

Two variants are compared over the seeds that both have, pair by pair, which takes the luck of a seed out of
their difference.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from stin_pipe.stin.network.config import StreamName

Judge = Literal["held-out", "test"]

_MAX_EXACT_SEEDS = 16


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Top-1 of one trained stream, 0..1: of its whole score, and of each head alone."""

    top1: float
    main_top1: float
    aux_top1: float | None


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A variant minus its base over the seeds that both have.

    Attributes:
        mean: mean difference of top-1.
        std: standard deviation of the differences over the seeds (n - 1); None for one seed.
        num_better: seeds with which the variant was better.
        num_equal: seeds with which both were equal.
        p_value: share of the ways to swap the two within seeds whose mean is at least as far from zero: an
            exact two-sided test without assumptions; with n seeds it cannot be below 2 / 2**n.
    """

    mean: float
    std: float | None
    num_better: int
    num_equal: int
    num_seeds: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One variant over its seeds; ``mean`` and ``std`` are of top-1 (std with n - 1, None for one seed)."""

    variant: str
    stream: StreamName
    by_seed: Mapping[int, Judgement]
    mean: float
    std: float | None
    mean_main: float
    mean_aux: float | None
    base: str
    difference: PairedDifference | None
    """None for the base itself."""


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """All variants, in the order given."""

    judge: Judge
    split: str
    num_judged: int
    """Videos that each variant was judged on."""
    rows: tuple[AblationRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value = asdict(self)
        for row in value["rows"]:
            row["by_seed"] = {str(seed): judgement for seed, judgement in row["by_seed"].items()}
        return {**value, "rows": list(value["rows"])}


def tabulate(
    streams: Mapping[str, StreamName],
    judgements: Mapping[str, Mapping[int, Judgement]],
    *,
    judge: Judge,
    split: str,
    num_judged: int,
) -> AblationTable:
    """Make the table of an ablation.

    Args:
        streams: variant -> its stream, in the order of the rows; the first variant of a stream is the base
            that its other variants are compared with.
        judgements: variant -> seed -> how good the trained stream is.
        judge: which videos decided that.
        split: see ``AblationTable``.
        num_judged: see ``AblationTable``.
    """
    base_of: dict[StreamName, str] = {}
    for name, stream in streams.items():
        base_of.setdefault(stream, name)

    rows = []
    for name, stream in streams.items():
        by_seed, base = judgements[name], base_of[stream]
        top1 = {seed: item.top1 for seed, item in by_seed.items()}
        aux = [
            item.aux_top1 for item in by_seed.values() if item.aux_top1 is not None
        ]  # plain ones have none

        difference = None
        if name != base:
            base_top1 = {seed: item.top1 for seed, item in judgements[base].items()}
            difference = paired_difference(top1, base_top1)
        rows.append(
            AblationRow(
                variant=name,
                stream=stream,
                by_seed=dict(by_seed),
                mean=float(np.mean([*top1.values()])),
                std=float(np.std([*top1.values()], ddof=1)) if len(top1) > 1 else None,
                mean_main=float(np.mean([item.main_top1 for item in by_seed.values()])),
                mean_aux=float(np.mean(aux)) if aux else None,
                base=base,
                difference=difference,
            )
        )
    return AblationTable(judge=judge, split=split, num_judged=num_judged, rows=tuple(rows))


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float]) -> PairedDifference:
    """Compare two variants seed by seed, over the seeds that both have.

    Raises:
        ValueError: if they share no seed.
    """
    seeds = sorted(set(ours) & set(base))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(ours)} and {sorted(base)}")
    differences = np.array([ours[seed] - base[seed] for seed in seeds])
    return PairedDifference(
        mean=float(differences.mean()),
        std=float(differences.std(ddof=1)) if len(seeds) > 1 else None,
        num_better=int((differences > 0).sum()),
        num_equal=int((differences == 0).sum()),
        num_seeds=len(seeds),
        p_value=_swap_test(differences),
    )


def _swap_test(differences: np.ndarray) -> float:
    """Return the share of sign flips whose mean is at least as far from zero as the actual one."""
    if len(differences) > _MAX_EXACT_SEEDS:
        # Too many flips to try all; with so many seeds the normal approximation is close.
        spread = math.sqrt(float(np.square(differences).sum()))
        return 1.0 if spread == 0 else math.erfc(abs(float(differences.sum())) / spread / math.sqrt(2))
    signs = np.array(list(product((1, -1), repeat=len(differences))))
    sums = np.abs(signs @ differences)
    # The same sum in another order differs by rounding, and must count as equal.
    return float((sums >= abs(differences.sum()) - 1e-9).mean())
