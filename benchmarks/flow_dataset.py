"""Flow of a whole folder of videos on the CPU, and cv2.optflow's time by extrapolation from a sample.

    python benchmarks/flow_dataset.py --videos ../shared/data/egogestar/videos --json flow_dataset.json

Decoding by ffmpeg to grey at the videos' own size is in the clock's seconds, writing shards is not.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import flow_pairs
import numpy as np

from stin_pipe.pipeline.flow import tvl1_clip
from stin_pipe.stin.processes.cpus import usable_cpus


def decode(path: Path) -> np.ndarray:
    """All frames of a video as (T, H, W) grey."""
    ffmpeg = flow_pairs.find_ffmpeg()
    probe = subprocess.run(
        [ffmpeg, "-hide_banner", "-i", str(path)], capture_output=True, text=True, check=False
    )
    size = re.search(r"Video:.* (\d{2,5})x(\d{2,5})", probe.stderr)
    if size is None:
        raise ValueError(f"{path}: ffmpeg finds no video size in it")
    command = [ffmpeg, "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-pix_fmt", "gray"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, int(size[2]), int(size[1]))


def main() -> None:
    """Measure and write what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--sample-every", type=int, default=10, help="cv2 solves one pair of each n-th video")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    tvl1_clip(np.zeros((2, 32, 32), np.uint8), backend="cpu")  # compiles
    solvers = {
        "cv2_median_off": {"innnerIterations": 300, "outerIterations": 1, "medianFiltering": 1},
        "cv2_defaults": {},
    }
    sampled: dict[str, list[float]] = {name: [] for name in solvers}
    pairs = videos = 0
    wall = cpu = decoding = 0.0
    for number, path in enumerate(sorted(arguments.videos.glob("*/*.mp4"))):
        begin = time.perf_counter()
        frames = decode(path)
        decoding += time.perf_counter() - begin
        if len(frames) < 2:
            continue
        begin_cpu = time.process_time()
        begin = time.perf_counter()
        tvl1_clip(frames, backend="cpu", num_threads=arguments.threads)
        wall += time.perf_counter() - begin
        cpu += time.process_time() - begin_cpu
        pairs, videos = pairs + len(frames) - 1, videos + 1
        print(f"{videos} videos, {pairs} pairs, {cpu:.0f} CPU seconds of flow", file=sys.stderr)
        if number % arguments.sample_every == 0:
            i = len(frames) // 2 - 1
            for name, chosen in solvers.items():
                begin_cpu = time.process_time()
                cv2.optflow.DualTVL1OpticalFlow_create(**chosen).calc(frames[i], frames[i + 1], None)
                sampled[name].append(time.process_time() - begin_cpu)
    result = {
        "videos": videos,
        "pairs": pairs,
        "threads": arguments.threads,
        "decode_s": decoding,
        "flow_s": wall,
        "flow_cpu_s": cpu,
        "pairs_per_s_of_flow": pairs / wall,
        "pairs_per_cpu_s": pairs / cpu,
        "minutes_on_undisturbed_threads": cpu / arguments.threads / 60,
    }
    for name, seconds in sampled.items():
        result[name] = {
            "sampled_pairs": len(seconds),
            "mean_s": float(np.mean(seconds)),
            "quartiles_s": np.percentile(seconds, (25, 50, 75)).tolist(),
            "extrapolated_minutes_on_as_many_threads": np.mean(seconds) * pairs / arguments.threads / 60,
            "speed_over_it": float(np.mean(seconds)) * pairs / cpu,
        }
    text = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
