"""How well training is fed: real shards against tensors in memory, and shards against single JPEG files.

For each stream, side by side in one run, in rounds that alternate:

- the training loop on the shards of a run, and the same loop on batches that are in memory already;
- the loader alone, and a plain PyTorch Dataset that reads the same frames from single JPEG files and hands on
  normalised floats, which is how TSN's and mmaction2's loaders feed;
- on a GPU, the FLOP/s of the loop in memory beside those of a large matrix product on the same card;
- the memory of the loader's processes with a small and a large list, with few and many workers.

    python benchmarks/train.py --run RUN [--device cpu] [--json OUT.json]
    python benchmarks/train.py --made 48             # without a run: moving noise of 340x256

It needs torch, numpy, h5py and OpenCV beside the project. On a CPU: ResNet-18, crops of 112, batches of 8
samples; on a GPU: ResNet-50, crops of 224, batches of 32; K = 3 clips a sample.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stin_pipe.stin.clips.dataset import Batch, TrainingClips
from stin_pipe.stin.clips.loader import batches_of
from stin_pipe.stin.clips.read_clips import ClipShape, clip_length, item_count
from stin_pipe.stin.clips.sampling import flow_stacks, sample_generator, training_starts
from stin_pipe.stin.clips.transforms import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, draw_training_crop
from stin_pipe.stin.device import Runtime, choose_device, loader_worker_count, resolve_amp
from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.shards.codec import encode_image
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import FlowCoding, Manifest, ManifestVideo
from stin_pipe.stin.shards.writer import ShardWriter
from stin_pipe.stin.training.batches import StepSampler, training_loader
from stin_pipe.stin.training.config import OptimConfig, TrainConfig
from stin_pipe.stin.training.learner import Learner, build_learner, flops_per_sample
from stin_pipe.stin.training.ranks import Ranks
from stin_pipe.stin.training.step import train_step

NUM_SEGMENTS = 3
MATRIX_SIDE = 8192


def main() -> None:
    """Measure and print."""
    options = parse_options()
    device = choose_device(options.device)
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="stin-bench-") as scratch:
        extract = options.run / "extract" if options.run else make_shards(Path(scratch), options.made)
        manifest = Manifest.load(extract / "manifest.json")
        found: dict[str, Any] = {"machine": describe(device), "settings": settings_of(options, device)}
        for stream in options.streams.split(","):
            config = config_of(stream, device, options)
            bench = Bench(config, manifest, extract, device, options)
            found[stream] = {"training": bench.training(), "loader": bench.loader(Path(scratch) / stream)}
            if device.type == "cuda":
                found[stream]["gpu"] = bench.flops(found[stream]["training"]["memory_samples_per_s"])
            print(json.dumps({stream: found[stream]}, indent=1), flush=True)
        if not options.no_memory:
            found["memory"] = loader_memory(manifest, extract)
            print(json.dumps({"memory": found["memory"]}, indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="run directory with shards")
    source.add_argument("--made", type=int, help="make shards of this many videos")
    parser.add_argument("--streams", default="spatial,temporal")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, help="steps a round [5 on a CPU, 40 on a GPU]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="[8 on a CPU, 32 on a GPU]")
    parser.add_argument("--loader-workers", type=int)
    parser.add_argument("--threads", type=int, help="torch's threads [all cores]")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory of large lists out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def config_of(stream: str, device: torch.device, options: argparse.Namespace) -> TrainConfig:
    """Return the training that is measured."""
    on_gpu = device.type == "cuda"
    backbone = "resnet50" if on_gpu else "resnet18"
    return TrainConfig(
        recipe="benchmark",
        stream=SpatialConfig(backbone=backbone) if stream == "spatial" else TemporalConfig(backbone=backbone),
        augment=AugmentConfig(crop_px=224 if on_gpu else 112, scales=(1.0, 0.875, 0.75, 0.66)),
        optim=OptimConfig(batch_size=options.batch_size or (32 if on_gpu else 8), lr=1e-4),
        num_segments=NUM_SEGMENTS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a loop went; ``cpu_ms`` is this process's CPU time a sample, steadier than the clock."""

    samples_per_s: float
    cpu_ms: float


def compared(shards: list[Speed], others: list[Speed], name: str) -> dict[str, Any]:
    """Set the rounds on shards beside those on something else."""
    ratios = [a.samples_per_s / b.samples_per_s for a, b in zip(shards, others, strict=True)]
    median = statistics.median
    return {
        "shards_samples_per_s": median(speed.samples_per_s for speed in shards),
        f"{name}_samples_per_s": median(speed.samples_per_s for speed in others),
        "ratio": median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "shards_cpu_ms_a_sample": median(speed.cpu_ms for speed in shards),
        f"{name}_cpu_ms_a_sample": median(speed.cpu_ms for speed in others),
    }


class Bench:
    """The measurements of one stream."""

    def __init__(
        self,
        config: TrainConfig,
        manifest: Manifest,
        extract: Path,
        device: torch.device,
        options: argparse.Namespace,
    ) -> None:
        self.config, self.manifest, self.extract = config, manifest, extract
        self.device, self.rounds = device, options.rounds
        self.steps = options.steps or (40 if device.type == "cuda" else 5)
        self.num_workers = loader_worker_count(options.loader_workers, device)
        self.videos = [ClipShape.of(video) for video in manifest.videos.values()]
        self.batch_size = config.optim.batch_size
        # A list shorter than a batch is repeated, so that batches have the size that is asked for.
        self.videos *= -(-self.batch_size // len(self.videos))

    def clips(self) -> TrainingClips:
        return TrainingClips(
            self.videos,
            ShardReader(self.extract, self.manifest),
            stream=self.config.stream,
            augment=self.config.augment,
            num_segments=NUM_SEGMENTS,
            seed=0,
        )

    def batches(self) -> Iterator[Batch]:
        sampler = StepSampler(
            num_samples=len(self.videos),
            batch_size=self.batch_size,
            seed=0,
            first_step=0,
            total_steps=10**6,
        )
        pin = self.device.type == "cuda"
        return batches_of(
            training_loader(self.clips(), sampler, num_workers=self.num_workers, pin_memory=pin)
        )

    def learner(self) -> Learner:
        return build_learner(
            self.config,
            num_classes=max(2, len(self.manifest.classes)),
            bound_px=self.manifest.bound_px,
            runtime=Runtime(),
            device=self.device,
            notify=print,
            load_init=False,
            ranks=Ranks(),
        )

    def run_steps(self, learner: Learner, batches: Iterator[Batch], count: int) -> Speed:
        """Take ``count`` training steps."""

        def step() -> None:
            batch = next(batches)
            train_step(learner, batch, num_samples=self.batch_size, step=0, rate=self.config.optim.lr)

        return self.timed(step, count)

    def timed(self, step: Callable[[], object], count: int) -> Speed:
        """Time ``count`` calls, each of which takes a batch."""
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        num_samples = count * self.batch_size
        return Speed(
            samples_per_s=num_samples / (time.perf_counter() - began),
            cpu_ms=1e3 * (time.process_time() - cpu_began) / num_samples,
        )

    def training(self) -> dict[str, Any]:
        """Compare the loop on shards with the loop on batches in memory."""
        learner = self.learner()
        in_flight = 4 * self.num_workers + 2  # batches that were made while the other loop ran
        with closing(self.batches()) as from_shards:
            kept = [next(from_shards) for _ in range(4)]
            from_memory = itertools.cycle(kept)
            self.run_steps(learner, from_memory, 2)
            shards, memory = [], []
            for _ in range(self.rounds):
                memory.append(self.run_steps(learner, from_memory, self.steps))
                if self.num_workers:
                    self.run_steps(learner, from_shards, in_flight)
                shards.append(self.run_steps(learner, from_shards, self.steps))
        return compared(shards, memory, "memory")

    def loader(self, scratch: Path) -> dict[str, Any]:
        """Compare the loader alone with a Dataset of single JPEG files."""
        write_files(scratch, self.manifest, self.extract, self.config)
        count = self.steps * (10 if self.num_workers else 2)
        sampler = StepSampler(
            num_samples=len(self.videos),
            batch_size=self.batch_size,
            seed=0,
            first_step=0,
            total_steps=10**6,
        )
        plain = DataLoader(
            JpegFiles(scratch, self.videos, self.config),
            batch_sampler=sampler,  # the same videos in the same order
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.num_workers else None,
        )
        plain_batches = iter(plain)
        shards, files = [], []
        with closing(self.batches()) as from_shards:
            for _ in range(self.rounds):
                for batches, speeds in ((from_shards, shards), (plain_batches, files)):
                    for _ in range(4 * self.num_workers + 1):
                        next(batches)
                    speeds.append(self.timed(functools.partial(next, batches), count))
        shutil.rmtree(scratch)
        return compared(shards, files, "files")

    def flops(self, samples_per_s: float) -> dict[str, Any]:
        """Set what the loop computes beside a matrix product of the same precision on the same card."""
        num_classes = max(2, len(self.manifest.classes))
        forward = flops_per_sample(build_stream(self.config.stream, num_classes=num_classes), self.config)
        dtype = torch.bfloat16 if resolve_amp("auto", self.device) == "bf16" else torch.float32
        left, right = (
            torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=self.device, dtype=dtype) for _ in range(2)
        )
        for _ in range(5):
            left @ right
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            left @ right
        torch.cuda.synchronize()
        card = 20 * 2 * MATRIX_SIDE**3 / (time.perf_counter() - began)
        achieved = 3 * forward * samples_per_s  # backward takes twice the forward pass
        return {
            "flops_per_sample_forward": forward,
            "achieved_tflops": achieved / 1e12,
            "matrix_product_tflops": card / 1e12,
            "share": achieved / card,
            "dtype": str(dtype),
            "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        }


class JpegFiles(Dataset[tuple[torch.Tensor, int]]):
    """The plain way: one file a frame (two a flow field), whole pictures decoded, floats handed on."""

    def __init__(self, folder: Path, videos: list[ClipShape], config: TrainConfig) -> None:
        self.folder, self.videos, self.config = folder, videos, config
        self.mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = key
        video, stream = self.videos[index], self.config.stream
        generator = sample_generator(seed=0, epoch=epoch, sample_id=video.id)
        starts = training_starts(
            num_items=item_count(video, stream),
            clip_len=clip_length(stream),
            num_segments=NUM_SEGMENTS,
            generator=generator,
        )
        crop = draw_training_crop(
            height=video.height,
            width=video.width,
            scales=self.config.augment.scales,
            flip=True,
            generator=generator,
        )
        rows = slice(crop.top, crop.top + crop.height)
        columns = slice(crop.left, crop.left + crop.width)
        size = (self.config.augment.crop_px,) * 2
        folder = self.folder / video.id

        def cut(name: str, flags: int) -> np.ndarray:
            image = cv2.imread(str(folder / name), flags)
            image = cv2.resize(image[rows, columns], size, interpolation=cv2.INTER_LINEAR)
            return image[:, ::-1] if crop.flip else image

        if isinstance(stream, SpatialConfig):
            clips = []
            for start in starts:
                image = cv2.cvtColor(cut(f"img_{start + 1:05d}.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
                tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div(255)
                clips.append((tensor - self.mean) / self.std)
            return torch.stack(clips), video.label
        stacks = flow_stacks(starts=starts, stack_len=stream.stack_len, num_fields=video.num_frames - 1)
        clips = []
        for indices in stacks.indices:
            planes = []
            for field in indices:
                x = cut(f"flow_x_{field + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE)
                y = cut(f"flow_y_{field + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE)
                planes += [255 - x if crop.flip else x, y]
            tensor = torch.from_numpy(np.stack(planes)).float().div(255)
            clips.append((tensor - 0.5) / 0.226)
        return torch.stack(clips), video.label


def write_files(folder: Path, manifest: Manifest, extract: Path, config: TrainConfig) -> None:
    """Write the frames of a run as the single JPEG files that other loaders read."""
    reader = ShardReader(extract, manifest)
    for video in manifest.videos.values():
        place = folder / video.id
        place.mkdir(parents=True)
        if isinstance(config.stream, SpatialConfig):
            for index in range(video.num_frames):
                image = reader.read_rgb(video.id, [index])[0]
                (place / f"img_{index + 1:05d}.jpg").write_bytes(encode_image(image))
            continue
        for index in range(video.num_frames - 1):
            for name, plane in zip("xy", reader.read_flow(video.id, [index])[0], strict=True):
                (place / f"flow_{name}_{index + 1:05d}.jpg").write_bytes(encode_image(plane))


class TouchOnly:
    """Looks a video up as a reader does, and gives a tiny black picture: so a whole list is soon visited."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def read_rgb(self, video_id: str, indices: list[int], window: object = None) -> np.ndarray:
        assert self.reader._index.find(video_id) is not None
        return np.zeros((len(indices), 16, 16, 3), np.uint8)


def loader_memory(manifest: Manifest, extract: Path) -> list[dict[str, Any]]:
    """Return what the loader's processes hold of their own after an epoch, by list and by workers."""
    example = next(iter(manifest.videos.values()))
    rows = []
    for num_videos in (1_000, 40_000):
        many = {
            f"c/{n}.avi": replace(example, id=f"c/{n}.avi", height=16, width=16) for n in range(num_videos)
        }
        clips = TrainingClips(
            [ClipShape.of(video) for video in many.values()],
            TouchOnly(ShardReader(extract, replace(manifest, videos=many))),  # pyright: ignore[reportArgumentType]
            stream=SpatialConfig(),
            augment=AugmentConfig(crop_px=16),
            num_segments=NUM_SEGMENTS,
            seed=0,
        )
        for num_workers in (1, 4):
            steps = num_videos // 50
            sampler = StepSampler(
                num_samples=num_videos, batch_size=50, seed=0, first_step=0, total_steps=steps + 100
            )
            loader = training_loader(clips, sampler, num_workers=num_workers, pin_memory=False)
            with closing(batches_of(loader)) as batches:
                for _ in range(steps):
                    next(batches)
                held = [private_mib(pid) for pid in children_of(os.getpid())]
            row = {"videos": num_videos, "workers": num_workers}
            rows.append(row | {"private_mib_a_worker": round(statistics.mean(held), 1)})
    return rows


def children_of(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def private_mib(pid: int) -> float:
    """Return the memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [line for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(int(line.split()[1]) for line in private) / 1024


def make_shards(folder: Path, count: int) -> Path:
    """Write shards of noise that moves; smooth enough that a frame takes about as much as a real one."""
    extract, coding = folder / "extract", FlowCoding.from_bound(20.0)
    (extract / "shards").mkdir(parents=True)
    videos = {}
    rng = np.random.default_rng(0)
    for first in range(0, count, 16):
        shard = f"{first // 16:05d}"
        attributes = {"flow_zero": coding.zero, "flow_scale": coding.scale}
        with ShardWriter(extract / "shards" / f"{shard}.h5", attributes=attributes) as writer:
            for number in range(first, min(count, first + 16)):
                coarse = cv2.resize(rng.integers(0, 256, (40, 60, 3), np.uint8), (480, 360))
                grain = rng.normal(0, 6, (360, 480, 3))
                picture = np.clip(coarse + grain, 0, 255).astype(np.uint8)
                motion = cv2.resize(rng.normal(128, 12, (24, 16)).astype(np.float32), (340, 512))
                video = writer.begin_video(f"c{number % 2}/v{number}.avi")
                for frame in range(64):
                    video.append_frame(encode_image(picture[frame : frame + 256, frame : frame + 340]))
                    if frame:
                        field = np.clip(np.roll(motion, frame, 1), 1, 255).astype(np.uint8)
                        video.append_field(encode_image(field))
                name = f"c{number % 2}"
                group, meta = video.finish(
                    label=number % 2,
                    class_name=name,
                    height=256,
                    width=340,
                    fps=25.0,
                    source_sha256="",
                    notes={},
                )
                videos[f"{name}/v{number}.avi"] = ManifestVideo(
                    id=f"{name}/v{number}.avi",
                    label=number % 2,
                    num_frames=64,
                    height=256,
                    width=340,
                    fps=25.0,
                    shard=shard,
                    group=group,
                    splits={"1": "train"},
                    digest=meta.digest,
                    group_key=None,
                )
    Manifest(
        dataset="folder",
        classes=("c0", "c1"),
        split_names=("1",),
        split_from="lists",
        split_source="made",
        videos=dict(sorted(videos.items())),
        failed=(),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=20.0,
        flow_backend="made",
        fingerprint="made",
    ).save(extract / "manifest.json")
    return extract


def settings_of(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return what was asked for, as JSON values."""
    config = config_of("spatial", device, options)
    return {
        "source": str(options.run) if options.run else f"{options.made} made videos",
        "backbone": config.stream.backbone,
        "crop_px": config.augment.crop_px,
        "batch_size": config.optim.batch_size,
        "segments": NUM_SEGMENTS,
        "loader_workers": loader_worker_count(options.loader_workers, device),
        "threads": torch.get_num_threads(),
    }


def describe(device: torch.device) -> dict[str, Any]:
    """Return what this ran on."""
    return {
        "cpu_count": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
