"""Train variants of a stream with several seeds, and say how far apart they are.

Every variant is trained with every seed, all on the same lists: the held-out part does not depend on the
seed. So two variants are compared pair by pair, seed by seed, which takes the luck of a seed out of their
difference.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stin_pipe.stin.device import Runtime, choose_device
from stin_pipe.stin.network.model_file import load_model
from stin_pipe.stin.network.streams import StreamName
from stin_pipe.stin.results.ablation_table import AblationTable, Judge, Judgement, paired_difference, tabulate
from stin_pipe.stin.scoring.fusion import label_ranks
from stin_pipe.stin.scoring.score_split import TestProtocol, score_split
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.training.config import TrainConfig, override
from stin_pipe.stin.training.metrics_log import METRICS_FILE
from stin_pipe.stin.training.report import AblationStep, TrainEvent
from stin_pipe.stin.training.state import CONFIG_FILE

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
"""The switches of each stream by name; the first of a stream is what the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train a stream; ``config.seed`` is replaced by each seed in turn."""

    name: str
    config: TrainConfig

    def __post_init__(self) -> None:
        check_file_name("a variant's name", self.name)


def check_file_name(what: str, name: str) -> None:
    """Refuse a name that is not fit for a file of its own.

    Raises:
        ValueError: says what is wanted.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(
            f"{what} must be letters, digits, '-', '_' and '.', and not begin with '.', got {name!r}: it "
            "names a file or folder"
        )


def named_variants(base: TrainConfig, names: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return variants of ``base``'s stream by their names in ``NAMED_VARIANTS``; by default all of them.

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

    What is finished is not trained again, and a training that was killed goes on; so the same call resumes,
    and more seeds or variants join what is there.

    Args:
        variants: with different names; of each stream, the first is the one that others are compared with.
        seeds: each with every variant.
        manifest: the run's videos.
        extract_dir: folder with ``shards/``.
        out_dir: folder of the ablation; see ``training_folder``.
        split: whose training list is used.
        judge: ``held-out`` judges on the held-out part of the training list, with the last validation of
            the weights that the training hands on; ``test`` on the test list, with ``protocol``.
        protocol: for ``test``; by default the whole one.
        runtime: see ``train_stream``.
        extraction: see ``train_stream``.
        on_event: called before each training, and as ``train_stream`` does.
        on_table: called after each seed with the table so far.
        handle_signals: see ``train_stream``.

    Raises:
        ValueError: if there is nothing to train, or a name or seed occurs twice.
        StinPipeError: if nothing is held out to judge on, or what ``train_stream`` raises.
        Interrupted: see ``train_stream``.
    """
    names = [variant.name for variant in variants]
    if not variants or not seeds or len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"an ablation needs variants and seeds, each once, got variants {names} and seeds {list(seeds)}"
        )
    found: dict[str, dict[int, Judgement]] = {name: {} for name in names}
    num_judged = 0
    total = len(seeds) * len(variants)
    for number, (seed, variant) in enumerate(product(seeds, variants), start=1):
        on_event(AblationStep(variant=variant.name, seed=seed, number=number, total=total))
        folder = training_folder(Path(out_dir) / variant.name, split=split, seed=seed)
        config = replace(variant.config, seed=seed)
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
        if result.list_change:
            raise StinPipeError(
                f"{folder} holds a training on another list of videos ({result.list_change}), which cannot "
                "be compared with trainings on this one; delete that folder to train anew"
            )
        if judge == "held-out":
            if not result.num_held_out:
                raise StinPipeError(
                    f"split {split!r}: nothing is held out of the training list to judge on; raise val_share"
                )
            num_judged = result.num_held_out
            found[variant.name][seed] = _validated(folder, select=config.select)
        else:
            scores = score_split(
                load_model(
                    Path(result.checkpoint), device=choose_device(runtime.device if runtime else "auto")
                ),
                manifest=manifest,
                extract_dir=extract_dir,
                split=split,
                protocol=protocol,
                out_path=folder / "test.npz",
                loader_workers=runtime.loader_workers if runtime else None,
            )
            num_judged = len(scores.ids)
            found[variant.name][seed] = judge_scores(scores)
        if variant is variants[-1]:
            on_table(compare(variants, found, judge=judge, split=split, num_judged=num_judged))
    return compare(variants, found, judge=judge, split=split, num_judged=num_judged)


def training_folder(variant_dir: Path, *, split: str, seed: int) -> Path:
    """Return ``seed<N>`` for split 1, ``split<S>/seed<N>`` for others; earlier trainings keep their place."""
    plain = variant_dir / f"seed{seed}"
    try:
        there = json.loads((plain / CONFIG_FILE).read_text())["split"]
    except (OSError, ValueError, KeyError, TypeError):
        there = "1"
    return plain if there == split else variant_dir / f"split{split}" / plain.name


def compare(
    variants: Sequence[Variant],
    found: Mapping[str, Mapping[int, Judgement]],
    *,
    judge: Judge,
    split: str,
    num_judged: int,
) -> AblationTable:
    """Make the table of what the variants came to; see ``tabulate``."""
    streams: dict[str, StreamName] = {item.name: item.config.stream_name for item in variants}
    return tabulate(streams, found, judge=judge, split=split, num_judged=num_judged)


def judge_scores(scores: Scores) -> Judgement:
    """Judge a stream and its heads by their scores."""

    def top1(values: np.ndarray) -> float:
        return float((label_ranks(values, scores.labels) == 0).mean())

    return Judgement(
        top1=top1(scores.scores),
        main_top1=top1(scores.scores if scores.main_logits is None else scores.main_logits),
        aux_top1=None if scores.aux_logits is None else top1(scores.aux_logits),
    )


def _validated(folder: Path, *, select: Literal["last", "best"]) -> Judgement:
    """Return the validation of the weights that a finished training handed on."""
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    seen = [line for line in lines if line["kind"] == "val"]
    if not seen:
        raise StinPipeError(f"{folder / METRICS_FILE}: holds no validation; delete {folder} to train anew")
    # Of equals the later is handed on, as the training does.
    chosen = seen[-1] if select == "last" else max(seen, key=lambda line: (line["top1"], line["step"]))
    return Judgement(top1=chosen["top1"], main_top1=chosen["main_top1"], aux_top1=chosen["aux_top1"])
