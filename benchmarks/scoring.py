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
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stin_pipe.stin.clips.dataset import Batch
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.device import choose_device, loader_worker_count
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.scoring.scorer import Scorer, TestProtocol, scoring_clips
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe


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
            f"{row['stream']:9} {row['videos']} videos of {row['mean_frames']:.0f} frames: a turn in memory "
            f"{row['memory_s']:.2f} s, from shards {row['shards_s']:.2f} s, ratio {row['ratio']:.3f} "
            f"(quartiles {row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}), by CPU time "
            f"{row['cpu_ratio']:.3f}"
        )
    if arguments.json:
        about = {"threads": torch.get_num_threads(), "cores": usable_cpus()}
        about |= {key: str(value) for key, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


def measure(stream: str, manifest: Manifest, arguments: argparse.Namespace) -> dict:
    device = choose_device(arguments.device)
    model = random_model(stream, manifest, arguments, device)
    protocol = TestProtocol(num_segments=arguments.segments, num_crops=10, precision=arguments.amp)
    source = ShardReader(arguments.run / "extract", manifest)
    every = list(manifest.videos.values())
    chosen = [every[place] for place in np.linspace(0, len(every) - 1, arguments.videos).astype(int)]
    scorer = Scorer(model, protocol, print)
    workers = loader_worker_count(arguments.loader_workers, device)
    # Without workers a video costs what it costs alone, and short turns keep other load on the machine out of
    # the ratio. Workers read ahead, so that only whole lists show what they are worth.
    turns = [[video] for video in chosen] if workers == 0 else [chosen]
    pairs = []
    for videos in turns:
        clips = scoring_clips(model, [ClipShape.of(video) for video in videos], source, protocol)
        ready = [clips[index] for index in range(len(videos))]

        def from_shards(videos: list = videos) -> np.ndarray:
            return np.stack(list(scorer.score(videos, source, arguments.loader_workers)))

        def from_memory(ready: list[Batch] = ready) -> np.ndarray:
            return np.stack([joined(scorer, sample) for sample in ready])

        assert np.array_equal(from_memory(), from_shards()), "the two ways give different scores"
        pairs += [(timed(from_memory, device), timed(from_shards, device)) for _ in range(arguments.rounds)]
    memory, shards = (np.array(side) for side in zip(*pairs, strict=True))
    return {
        "stream": stream,
        "videos": len(chosen),
        "mean_frames": float(np.mean([video.num_frames for video in chosen])),
        "loader_workers": workers,
        "memory_s": float(np.median(memory[:, 0])),
        "shards_s": float(np.median(shards[:, 0])),
        "ratio": float(np.median(memory[:, 0] / shards[:, 0])),
        "quartiles": np.quantile(memory[:, 0] / shards[:, 0], [0.25, 0.75]).tolist(),
        "cpu_ratio": float(memory[:, 1].sum() / shards[:, 1].sum()),
    }


def joined(scorer: Scorer, sample: Batch) -> np.ndarray:
    scored = scorer.score_sample(sample)
    parts = [scored.logits, scored.main_logits, scored.aux_logits]
    return np.concatenate([part for part in parts if part is not None])


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return wall-clock seconds and CPU seconds of this process."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - cpu


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
