"""Does the apparent difference raise the spatial stream, and self-attention the temporal one? On made videos.

Written down and committed before the runs that it is about. Videos: ``probe_videos``, 96x72, 24
frames. Every seed draws new videos and new weights, so the spread over seeds holds both; variants are
compared within seeds. Five seeds: 0 to 4. Flow: the ``cpu`` back end. Everything that matters is fixed in
``BASE``; nothing is chosen on these videos, and the last weights are scored with 8 segments and 5 crops.

    set           classes (chance)              variants
    order         order of 3 colours (0.17)     spatial: plain, loss (differences have their own head), inject
    motion        direction of a disc (0.125)   temporal: plain, sagan (attention and its head), sagan-aux0
    motion-noise  the same, half of the         temporal: the same
                  background moves at random

Pilot (seed 901, no part of the result), to set how hard the sets are: temporal-plain 0.96 without noise and
0.47 with it, so both leave room; spatial-inject on ``order``, to set the length of the training.

Hypotheses, and what would speak against each:

H1  order: plain is at chance. ``loss`` lifts the stream's score (its two heads together) above plain by 0.2
    or more, while its main head stays within 0.1 of chance. ``inject`` lifts the main head too, by 0.2.
    Against: a mean gain below 0.2, or one that is not positive for all five seeds.
H2  motion-noise: attention (``sagan``) is above plain, for at least four of five seeds, by 0.03 or more.
H3  motion without noise: attention makes no difference of 0.03 or more.
H4  the gain of attention is larger under noise than without: the difference of the two gains, paired by seed,
    is positive for at least four of five seeds. ``sagan-aux0`` tells attention from its auxiliary loss.

Variants tried after the results are seen are exploratory: they run with ``--variants``, and are confirmed
with seeds 100 to 104, which draw fresh videos.

Exploratory, found in the scores of seeds 0 to 3: attention's own head, which pools by attention, is better
than the main one, and both together (equal shares) better than either. E1, to be confirmed with seeds 100 to
104: ``temporal-sagan-both`` is above temporal-plain by 0.05 or more under noise, for all five seeds; and not
below it without noise, in the mean.

    python benchmarks/ablation_made.py --out DIR [--seeds 0,1,2,3,4] [--variants NAME,...]

The same command again resumes: each finished training and scoring is kept.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from probe_videos import ProbeParams, make_probe_videos

from stin_pipe.stin.ablation import (
    AblationTable,
    Judgement,
    Variant,
    compare,
    paired_difference,
    run_ablation,
)
from stin_pipe.stin.device import Runtime
from stin_pipe.stin.scoring.score_split import TestProtocol
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.config import TrainConfig, override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.workflows.commands.extract import extract

SETS = {
    "order": ProbeParams(probe="order", width=96, height=72),
    "motion": ProbeParams(probe="motion", width=96, height=72, train_per_class=8, test_per_class=12),
    "motion-noise": ProbeParams(
        probe="motion", width=96, height=72, train_per_class=8, test_per_class=12, noise_share=0.5
    ),
}

BASE: dict[str, dict[str, Any]] = {
    "spatial": {
        "backbone": "resnet18-w16",
        "tap": "layer2",
        "difference_channels": 32,
        "num_segments": 6,
        "dropout": 0.2,
        "aux_weight": 1.0,
        "aux_at_test": 1.0,
        "jitter": 0.0,
        "batch_size": 8,
        "lr": 2e-3,
        "epochs": 40,
    },
    "temporal": {
        "backbone": "resnet18-w16",
        "tap": "layer2",
        "num_segments": 3,
        "dropout": 0.2,
        "aux_weight": 0.5,
        "aux_at_test": 0.0,
        "batch_size": 8,
        "lr": 1e-3,
        "epochs": 40,
    },
}
"""All that the comparison may depend on is fixed here, so that tuning the recipe leaves it alone."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "spatial-plain": ("spatial", {"difference": "none"}),
    "spatial-loss": ("spatial", {"difference": "loss"}),
    "spatial-inject": ("spatial", {"difference": "inject"}),
    "temporal-plain": ("temporal", {"attention": "none"}),
    "temporal-sagan": ("temporal", {"attention": "sagan"}),
    "temporal-sagan-aux0": ("temporal", {"attention": "sagan", "aux_weight": 0.0}),
    # Not in the plan above: for exploring alone.
    "temporal-sagan-both": ("temporal", {"attention": "sagan", "aux_at_test": 1.0}),
    "temporal-nonlocal": ("temporal", {"attention": "nonlocal"}),
    "temporal-cbam": ("temporal", {"attention": "cbam"}),
}
PLANNED = {
    "order": ("spatial-plain", "spatial-loss", "spatial-inject"),
    "motion": ("temporal-plain", "temporal-sagan", "temporal-sagan-aux0"),
    "motion-noise": ("temporal-plain", "temporal-sagan", "temporal-sagan-aux0"),
}


def base_config(stream: str) -> TrainConfig:
    """The recipe with everything fixed that may matter."""
    recipe = resolve_recipe("small", "spatial" if stream == "spatial" else "temporal")
    return override(
        recipe,
        **BASE[stream],
        flip=False,
        crop_px=56,
        scales=(1.0, 0.875, 0.75),
        kind="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warmup=0.1,
        clip_norm=5.0,
        label_smoothing=0.1,
        ema_decay=0.0,
        val_share=0.0,
    )


def variants_of(names: Sequence[str]) -> list[Variant]:
    """The variants of these names, in this order."""
    made = []
    for name in names:
        stream, changes = VARIANTS[name]
        made.append(Variant(name=name, config=override(base_config(stream), **changes)))
    return made


def make_run(out: Path, set_name: str, seed: int) -> Path:
    """Make a seed's videos of one set and extract them."""
    made, run = out / set_name / f"seed{seed}" / "made", out / set_name / f"seed{seed}" / "run"
    make_probe_videos(made, replace(SETS[set_name], seed=seed))
    arguments = ["--run", run, "--videos", made / "videos", "--splits", made / "lists"]
    arguments += ["--size", "96x72", "--flow", "cpu", "--runner", "local", "--workers", "1"]
    extract.main([str(argument) for argument in arguments], standalone_mode=False, prog_name="extract")
    return run


def judge_seed(out: Path, set_name: str, seed: int, names: Sequence[str]) -> dict[str, Judgement]:
    """Train and score these variants on one seed's videos."""
    run = make_run(out, set_name, seed)
    table = run_ablation(
        variants_of(names),
        seeds=[seed],
        manifest=Manifest.load(run / "extract/manifest.json"),
        extract_dir=run / "extract",
        out_dir=run.parent / "trainings",
        split="1",
        judge="test",
        protocol=TestProtocol(num_segments=8, num_crops=5),
        runtime=Runtime(device="cpu", amp="bf16", tensorboard=False),
    )
    return {row.variant: row.by_seed[seed] for row in table.rows}


def join_seeds(
    names: Sequence[str], found: Mapping[int, Mapping[str, Judgement]], num_judged: int
) -> AblationTable:
    """One table over the seeds; each had videos of its own."""
    by_variant = {name: {seed: item[name] for seed, item in found.items()} for name in names}
    return compare(variants_of(names), by_variant, judge="test", split="1", num_judged=num_judged)


def print_table(set_name: str, table: AblationTable) -> None:
    """Markdown, one row a variant."""
    print(f"\n{set_name}: top-1 on {table.num_judged} fresh test videos a seed\n")
    print("| variant | top-1 by seed | mean ± std | main head | own head | over plain, paired | p |")
    print("|---|---|---|---|---|---|---|")
    for row in table.rows:
        seeds = " ".join(f"{item.top1:.2f}" for item in row.by_seed.values())
        spread = "" if row.std is None else f" ± {row.std:.3f}"
        aux = "" if row.mean_aux is None else f"{row.mean_aux:.3f}"
        gain, p_value = "", ""
        if row.difference is not None:
            own = "" if row.difference.std is None else f" ± {row.difference.std:.3f}"
            gain = f"{row.difference.mean:+.3f}{own} ({row.difference.num_better} of {len(row.by_seed)} up)"
            p_value = f"{row.difference.p_value:.3f}"
        print(
            f"| {row.variant} | {seeds} | {row.mean:.3f}{spread} | {row.mean_main:.3f} | {aux} | {gain} "
            f"| {p_value} |"
        )


def print_interaction(tables: Mapping[str, AblationTable]) -> None:
    """H4: how much larger each variant's gain over plain is under noise."""
    if "motion" not in tables or "motion-noise" not in tables:
        return
    top1 = {
        set_name: {
            row.variant: {seed: item.top1 for seed, item in row.by_seed.items()}
            for row in tables[set_name].rows
        }
        for set_name in ("motion", "motion-noise")
    }
    print("\ngain over plain with noise minus gain without, paired by seed\n")
    for name in top1["motion-noise"]:
        if name == "temporal-plain" or name not in top1["motion"]:
            continue
        gains = {
            set_name: {seed: value - found["temporal-plain"][seed] for seed, value in found[name].items()}
            for set_name, found in top1.items()
        }
        more = paired_difference(gains["motion-noise"], gains["motion"])
        print(f"{name}: {more.mean:+.3f} ± {more.std or 0:.3f} ({more.num_better} of {more.num_seeds} up)")


def main() -> None:
    """Run what is planned, or the variants asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps videos and trainings")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="each draws its own videos and weights")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--variants", help=f"exploratory: these instead of the planned: {list(VARIANTS)}")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    tables: dict[str, AblationTable] = {}
    for set_name in options.sets.split(","):
        names = options.variants.split(",") if options.variants else PLANNED[set_name]
        found: dict[int, dict[str, Judgement]] = {}
        for seed in seeds:
            found[seed] = judge_seed(options.out, set_name, seed, names)
            shown = {name: round(item.top1, 3) for name, item in found[seed].items()}
            print(f"{set_name} seed {seed}: {json.dumps(shown)}", flush=True)
        num_judged = SETS[set_name].test_per_class * len(SETS[set_name].classes)
        tables[set_name] = join_seeds(names, found, num_judged)
    for set_name, table in tables.items():
        print_table(set_name, table)
    print_interaction(tables)
    if options.json:
        value = {set_name: table.to_json() for set_name, table in tables.items()}
        options.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
