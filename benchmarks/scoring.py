"""25 clips x 10 crops from real shards, against the same network on tensors already in memory.

    stin-pipe extract --run RUN --videos VIDEOS --short-side 128         # 256 for a GPU
    python benchmarks/scoring.py --run RUN --json scoring.json           # ResNet-18 at 112 on the CPU
    python benchmarks/scoring.py --run RUN --device cuda --backbone resnet50 --crop 224 --amp bf16

Both ways score the same videos with the same weights (random ones: speed does not depend on them), in turn,
round by round; the scores must be equal. The ratio is time in memory over time from shards: 1 if reading is
free.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stin.clips import ClipShape
from stin.config import override
from stin.dataset import Batch
from stin.device import choose_device, loader_worker_count
from stin.model_file import ModelInfo, TrainedModel
from stin.recipes import resolve_recipe
from stin.scorer import Scorer, TestProtocol, scoring_clips
from stin.shards.reader import ShardReader
from stin.shards.schema import Manifest
from stin.streams import build_stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--segments", type=int, default=25)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--loader-workers", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    manifest = Manifest.load(arguments.run / "extract" / "manifest.json")
    rows = [measure(stream, manifest, arguments) for stream in ("spatial", "temporal")]
    for row in rows:
        print(
            f"{row['stream']:9} {row['videos']} videos of {row['mean_frames']:.0f} frames: in memory "
            f"{row['memory_s']:.2f} s, from shards {row['shards_s']:.2f} s, ratio {row['ratio']:.3f} "
            f"(rounds {', '.join(f'{value:.3f}' for value in row['ratios'])})"
        )
    if arguments.json:
        about = {"threads": torch.get_num_threads(), "cores": len(os.sched_getaffinity(0))}
        about |= {key: str(value) for key, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


def measure(stream: str, manifest: Manifest, arguments: argparse.Namespace) -> dict:
    device = choose_device(arguments.device)
    model = random_model(stream, manifest, arguments, device)
    protocol = TestProtocol(num_segments=arguments.segments, num_crops=10, precision=arguments.amp)
    source = ShardReader(arguments.run / "extract", manifest)
    every = list(manifest.videos.values())
    chosen = [every[place] for place in np.linspace(0, len(every) - 1, arguments.videos).astype(int)]
    clips = scoring_clips(model, [ClipShape.of(video) for video in chosen], source, protocol)
    ready = [clips[index] for index in range(len(chosen))]
    scorer = Scorer(model, protocol, print)
    workers = loader_worker_count(arguments.loader_workers, device)

    def from_shards() -> np.ndarray:
        return np.stack(list(scorer.score(chosen, source, arguments.loader_workers)))

    def from_memory() -> np.ndarray:
        return np.stack([joined(scorer, sample) for sample in ready])

    first, second = from_memory(), from_shards()
    assert np.array_equal(first, second), "the two ways give different scores"
    times = [(timed(from_memory, device), timed(from_shards, device)) for _ in range(arguments.rounds)]
    ratios = [memory_s / shards_s for memory_s, shards_s in times]
    return {
        "stream": stream,
        "videos": len(chosen),
        "mean_frames": float(np.mean([video.num_frames for video in chosen])),
        "loader_workers": workers,
        "memory_s": float(np.median([memory_s for memory_s, _ in times])),
        "shards_s": float(np.median([shards_s for _, shards_s in times])),
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
    }


def joined(scorer: Scorer, sample: Batch) -> np.ndarray:
    scored = scorer.score_sample(sample)
    parts = [scored.logits, scored.main_logits, scored.aux_logits]
    return np.concatenate([part for part in parts if part is not None])


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def random_model(
    stream: str, manifest: Manifest, arguments: argparse.Namespace, device: torch.device
) -> TrainedModel:
    config = override(resolve_recipe("small", stream), backbone=arguments.backbone)
    torch.manual_seed(0)
    network = build_stream(config.stream, num_classes=len(manifest.classes)).eval().requires_grad_(False)
    info = ModelInfo(
        stream=config.stream,
        classes=manifest.classes,
        num_segments=config.num_segments,
        crop_px=arguments.crop,
        flip=True,
        bound_px=manifest.bound_px,
    )
    return TrainedModel(network=network.to(device), info=info, digest="", device=device)


if __name__ == "__main__":
    main()
