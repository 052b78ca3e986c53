"""Train variants of a stream with several seeds, and compare them.

Every variant is trained with every seed, always on the same videos: the held-out part does not depend on the
seed. So two variants are compared seed by seed, which takes the luck of a seed out of their difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from stin_pipe.stin.device import Runtime, choose_device
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.network.model_file import load_model
from stin_pipe.stin.results.ablation_table import AblationTable, Judge, Judgement, paired_difference, tabulate
from stin_pipe.stin.results.stored import is_number, read_lines
from stin_pipe.stin.scoring.fusion import label_ranks
from stin_pipe.stin.scoring.score_split import TestProtocol, score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import SCORES_FILE, ablation_training
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.training.config import TrainConfig, override
from stin_pipe.stin.training.metrics_log import METRICS_FILE
from stin_pipe.stin.training.report import AblationStep, TrainEvent, TrainResult

__all__ = [
    "NAMED_VARIANTS",
    "AblationStep",
    "AblationTable",
    "Judgement",
    "Variant",
    "compare",
    "judge_scores",
    "named_variants",
    "paired_difference",
    "run_ablation",
]

NAMED_VARIANTS: Mapping[StreamName, Mapping[str, Mapping[str, Any]]] = {
    "spatial": {
        "plain": {"difference": "none"},
        "loss": {"difference": "loss"},
        "inject": {"difference": "inject"},
        "inject-aux0": {"difference": "inject", "aux_weight": 0.0, "aux_at_test": 0.0},
        "inject-abs": {"difference": "inject", "difference_form": "abs"},
        "inject-l2": {"difference": "inject", "difference_form": "l2"},
    },
    "temporal": {
        "plain": {"attention": "none"},
        "sagan": {"attention": "sagan"},
        "nonlocal": {"attention": "nonlocal"},
        "cbam": {"attention": "cbam"},
        "sagan-aux0": {"attention": "sagan", "aux_weight": 0.0},
    },
}
"""The variants of each stream by name; the first one is the base of the others."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train a stream; ``config.seed`` is replaced by each seed in turn."""

    name: str
    config: TrainConfig

    def __post_init__(self) -> None:
        check_file_name("a variant's name", self.name)


def check_file_name(what: str, name: str) -> None:
    """Refuse a name that cannot name a file.

    Raises:
        ValueError: says which characters are allowed.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(
            f"{what} must be letters, digits, '-', '_' and '.', and not begin with '.', got {name!r}: it "
            "names a file or folder"
        )


def named_variants(base: TrainConfig, names: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return variants of ``base``'s stream by their names in ``NAMED_VARIANTS``; without names, all of them.

    Raises:
        ValueError: for an unknown name.
    """
    known = NAMED_VARIANTS[base.stream_name]
    for name in names:
        if name not in known:
            raise ValueError(
                f"unknown variant {name!r} of the {base.stream_name} stream; known: {', '.join(known)}"
            )
    return tuple(
        Variant(name=f"{base.stream_name}-{name}", config=override(base, **known[name]))
        for name in (names or known)
    )


def run_ablation(
    variants: Sequence[Variant],
    *,
    seeds: Sequence[int],
    manifest: Manifest,
    extract_dir: Path,
    out_dir: Path,
    split: str,
    judge: Judge = "held-out",
    protocol: TestProtocol | None = None,
    runtime: Runtime | None = None,
    extraction: Mapping[str, Any] | None = None,
    on_event: Callable[[AblationStep | TrainEvent], None] = lambda _event: None,
    on_table: Callable[[AblationTable], None] = lambda _table: None,
    handle_signals: bool = True,
) -> AblationTable:
    """Train every variant with every seed in folders below ``out_dir`` and compare them.

    Finished trainings are kept and killed ones go on, so the same call resumes, and more seeds or variants
    join. Of each stream, the first variant is the base of the others. Each training is judged by the
    validation of its final weights (``held-out``), or on the test list with ``protocol``. ``on_event`` also
    gets an ``AblationStep`` before each training, ``on_table`` the table so far after each seed; the other
    arguments are those of ``train_stream``.

    Raises:
        ValueError: if there is nothing to train, or a name or seed occurs twice.
        StinPipeError: if nothing is held out to judge on, or what ``train_stream`` raises.
        Interrupted: see ``train_stream``.
    """
    _require_once([variant.name for variant in variants], seeds)
    judgements: dict[str, dict[int, Judgement]] = {variant.name: {} for variant in variants}
    num_judged, total = 0, len(seeds) * len(variants)

    # All variants of one seed first: an ablation that is cut short has whole pairs to compare.
    for number, (seed, variant) in enumerate(product(seeds, variants), start=1):
        on_event(AblationStep(variant=variant.name, seed=seed, number=number, total=total))
        config = replace(variant.config, seed=seed)
        folder = ablation_training(Path(out_dir) / variant.name, seed=f"seed{seed}", split=split)
        result = train_stream(
            config,
            manifest=manifest,
            extract_dir=extract_dir,
            out_dir=folder,
            split=split,
            runtime=runtime,
            extraction=extraction,
            on_progress=on_event,
            handle_signals=handle_signals,
        )
        _require_comparable(result, folder, judge)

        if judge == "held-out":
            judgement, num_judged = _validated(folder, config), result.num_held_out
        else:
            scores = _test_scores(result, folder, manifest, extract_dir, protocol, runtime or Runtime())
            judgement, num_judged = judge_scores(scores), len(scores.ids)
        judgements[variant.name][seed] = judgement
        if variant is variants[-1]:
            on_table(compare(variants, judgements, judge=judge, split=split, num_judged=num_judged))
    return compare(variants, judgements, judge=judge, split=split, num_judged=num_judged)


def _require_once(names: Sequence[str], seeds: Sequence[int]) -> None:
    if not names or not seeds or len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"an ablation needs variants and seeds, each once, got variants {names} and seeds {list(seeds)}"
        )


def _require_comparable(result: TrainResult, folder: Path, judge: Judge) -> None:
    if result.list_change:
        raise StinPipeError(
            f"{folder} holds a training on another list of videos ({result.list_change}), which cannot be "
            "compared with trainings on the current one; delete that folder to train again"
        )
    if judge == "held-out" and not result.num_held_out:
        raise StinPipeError(
            f"split {result.split!r}: nothing is held out of the training list to judge on; raise val_share"
        )


def _test_scores(
    result: TrainResult,
    folder: Path,
    manifest: Manifest,
    extract_dir: Path,
    protocol: TestProtocol | None,
    runtime: Runtime,
) -> Scores:
    return score_split(
        load_model(Path(result.checkpoint), device=choose_device(runtime.device)),
        manifest=manifest,
        extract_dir=extract_dir,
        split=result.split,
        protocol=protocol,
        out_path=folder / SCORES_FILE,
        loader_workers=runtime.loader_workers,
    )


def compare(
    variants: Sequence[Variant],
    judgements: Mapping[str, Mapping[int, Judgement]],
    *,
    judge: Judge,
    split: str,
    num_judged: int,
) -> AblationTable:
    """Return the table of the variants; see ``tabulate``."""
    streams: dict[str, StreamName] = {item.name: item.config.stream_name for item in variants}
    return tabulate(streams, judgements, judge=judge, split=split, num_judged=num_judged)


def judge_scores(scores: Scores) -> Judgement:
    """Judge a stream and its heads by their scores."""

    def top1(values: np.ndarray) -> float:
        return float((label_ranks(values, scores.labels) == 0).mean())

    return Judgement(
        top1=top1(scores.scores),
        main_top1=top1(scores.scores if scores.main_logits is None else scores.main_logits),
        aux_top1=None if scores.aux_logits is None else top1(scores.aux_logits),
    )


def _validated(folder: Path, config: TrainConfig) -> Judgement:
    """Return the validation of the weights that became a finished training's model."""
    validations = [
        line
        for line in read_lines(folder / METRICS_FILE)
        if line.get("kind") == "val"
        and all(is_number(line.get(name)) for name in ("step", "top1", "main_top1"))
        and "aux_top1" in line
    ]
    if not validations:
        raise StinPipeError(f"{folder / METRICS_FILE}: holds no validation; delete {folder} to train again")
    # As the training chose: of equal losses the earlier, of equal accuracies the later.
    chosen = validations[-1]
    if config.patience:
        chosen = min(validations, key=lambda line: line["loss"])
    elif config.select == "best":
        chosen = max(validations, key=lambda line: (line["top1"], line["step"]))
    return Judgement(top1=chosen["top1"], main_top1=chosen["main_top1"], aux_top1=chosen["aux_top1"])
