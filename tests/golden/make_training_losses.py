"""Write ``training_losses.json``: five steps of both streams on the made videos of ``tests/made_shards.py``.

Run from the project's root, only when a change of the numbers is meant, and say in the commit why they
changed::

    .venv/bin/python tests/golden/make_training_losses.py
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from stin_pipe.stin.train import Runtime, train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe

HERE = Path(__file__).resolve().parent
STORED = HERE / "training_losses.json"

VARIANTS = {
    "spatial": ("spatial", {}),
    "spatial-plain": ("spatial", {"injection": False}),
    "spatial-loss-only-l2": ("spatial", {"difference": "loss", "difference_form": "l2"}),
    "temporal": ("temporal", {}),
    "temporal-plain": ("temporal", {"injection": False}),
    "temporal-nonlocal": ("temporal", {"attention": "nonlocal"}),
    "temporal-cbam": ("temporal", {"attention": "cbam"}),
}


def five_losses(made_shards, variant: str, folder: Path) -> dict[str, list[float]]:
    """Train five steps; return main losses, auxiliary losses and gradient norms."""
    stream, changes = VARIANTS[variant]
    # Every setting that the numbers depend on is fixed here, so that tuning the recipe leaves them alone.
    config = override(
        resolve_recipe("small", stream),
        backbone="resnet18-w16",
        tap="layer3",
        num_segments=4,
        dropout=0.25,
        aux_weight=0.5,
        kind="sgd",
        lr=0.005,  # small, so that a maximum decided by rounding moves little
        momentum=0.9,
        weight_decay=5e-4,
        schedule="step",
        warmup=0.0,
        clip_norm=5.0,
        label_smoothing=0.1,
        ema_decay=0.0,
        batch_size=6,
        length=5,
        unit="steps",
        flip=True,
        jitter=0.0,
        scales=(1.0, 0.875, 0.75),
        crop_px=32,
        val_share=0.0,
        seed=11,
        **({"difference_channels": 16} if stream == "spatial" else {"stack_len": 5}),
        **changes,
    )
    if not (folder / "run").exists():
        made_shards.make_run(folder / "run")
    from stin_pipe.stin.shards.schema import Manifest

    extract = folder / "run" / "extract"
    out = folder / variant
    train_stream(
        config,
        manifest=Manifest.load(extract / "manifest.json"),
        extract_dir=extract,
        out_dir=out,
        split="1",
        runtime=Runtime(device="cpu", tensorboard=False),
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = ("main_loss", "aux_loss", "grad_norm")
    return {name: [line[name] for line in lines] for name in names if lines[0][name] is not None}


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    import made_shards

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {variant: five_losses(made_shards, variant, Path(folder)) for variant in VARIANTS}
    STORED.write_text(json.dumps(found, indent=1) + "\n")
