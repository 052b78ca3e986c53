"""Whether decoders and encoders keep a device busy: one slot of some cores around a stand-in for a GPU.

The stand-in sleeps as long as a device of the given rate would work, and returns made-up fields; so the
figures show the pipeline around a device, not a device. Bound: the slower of the device and of cores /
(core-seconds a pair of decode, prepare and encode, each measured alone in the same run).

    python benchmarks/extract_overlap.py --videos DIR [--limit 32] [--device-pairs-per-s 150 400]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.planning.plan import ExtractParams, PlannedShard
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.shard import make_shard as shard_task
from stin_pipe.pipeline.shard.fill import prepare_frame
from stin_pipe.pipeline.shard.make_shard import make_shard
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.shards.codec import encode_image

PARAMS = ExtractParams(size=(340, 256), short_side=None, bound_px=20.0, flow_backend="cpu")


def core_seconds_a_pair(clips: list[Path]) -> float:
    """Decode, prepare and encode, one after another on one core."""
    before, num_pairs = os.times(), 0
    for clip in clips:
        frames = [
            prepare_frame(frame, PARAMS, name=clip.name) for frame in decode_frames(clip, DecodeNotes())
        ]
        still = still_fields(np.stack([frame.grey for frame in frames]))
        for frame in frames:
            encode_image(frame.rgb)
        for field in still:
            encode_image(field)
        num_pairs += len(still)
    after = os.times()
    return sum(after[:4]) / num_pairs - sum(before[:4]) / num_pairs


def still_fields(greys: np.ndarray) -> np.ndarray:
    """Made-up fields with something of the frame's texture, so that encoding costs what it does."""
    levels = np.clip(greys[1:].astype(np.int16) // 16 + 120, 0, 255).astype(np.uint8)
    return np.concatenate([levels, levels], axis=1)


def rate(videos: Path, *, num_threads: int, device: float) -> tuple[float, int]:
    """Pairs a second of one shard of all videos, and the number of calls of the device."""
    calls = 0

    def sleeping(greys: np.ndarray, params: ExtractParams) -> np.ndarray:
        nonlocal calls
        calls += 1
        time.sleep((len(greys) - 1) / device)
        return still_fields(greys)

    listing = list_videos(videos)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "shards").mkdir()
        task = ShardTask(
            extract_dir=Path(name),
            root=videos,
            shard=PlannedShard(name="00000", videos=listing.videos),
            params=PARAMS,
            fingerprint="",
            timeout_s=3600,
        )
        shard_task.packed_fields = sleeping
        start = time.perf_counter()
        report = make_shard(replace(task, num_threads=num_threads))
        return (report.num_frames - report.num_done) / (time.perf_counter() - start), calls


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--device-pairs-per-s", type=float, nargs="+", default=[150.0, 1e6])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    cores = usable_cpus()
    found = sorted(path for path in options.videos.rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    clips = found[:: max(1, len(found) // options.limit)][: options.limit]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clips"
        folder.mkdir()
        for index, clip in enumerate(clips):
            (folder / f"{index:03d}{clip.suffix}").symlink_to(clip.resolve())
        cost = core_seconds_a_pair(clips)
        result: dict[str, object] = {"cores": cores, "core_ms_a_pair_without_flow": round(1e3 * cost, 2)}
        for device in options.device_pairs_per_s:
            bound = min(device, cores / cost)
            for num_threads in (2, 2 * cores):
                pairs_per_s, calls = rate(Path(name), num_threads=num_threads, device=device)
                result[f"device_{device:g}_threads_{num_threads}"] = {
                    "pairs_per_s": round(pairs_per_s, 1),
                    "of_bound": round(pairs_per_s / bound, 3),
                    "device_calls": calls,
                }
    result["machine"] = f"{platform.machine()}, {cores} cores, {len(clips)} clips"
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
