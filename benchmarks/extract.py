"""How fast extraction is, beside its own bound and beside what people do today, in one run.

One worker on one core: seconds a pair of decoding, preparing, flow and encoding, each alone; their sum is
the bound; then the whole stage end to end on the same clips, and the plain loop of cv2.VideoCapture,
cv2.optflow and cv2.imwrite on a sample of the same pairs. Two workers are set against two independent runs.

    python benchmarks/extract.py --videos DIR [--limit 6] [--json OUT.json]
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
from stin_pipe.pipeline.flow import TVL1Params, tvl1_clip
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import prepare_frame
from stin_pipe.stin.shards.codec import encode_image, quantise_flow

SIZE = (340, 256)
PARAMS = ExtractParams(size=SIZE, short_side=None, bound_px=20.0, flow_backend="cpu")


def clips_of(folder: Path, limit: int) -> list[Path]:
    """Take clips spread evenly over the folder."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    if not found:
        sys.exit(f"{folder}: no videos")
    return found[:: max(1, len(found) // limit)][:limit]


def cpu_seconds() -> float:
    """CPU time of this process and of the children it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def stages_alone(clips: list[Path]) -> dict[str, float]:
    """Core-seconds a pair of each stage by itself, over all clips."""
    spent = dict.fromkeys(("decode", "prepare", "flow", "encode"), 0.0)
    num_pairs = 0
    warm = np.zeros((2, SIZE[1], SIZE[0]), np.uint8)
    tvl1_clip(warm, backend="cpu", num_threads=1)  # compile outside of the measurement
    for clip in clips:
        start = cpu_seconds()
        frames = list(decode_frames(clip, DecodeNotes()))
        spent["decode"] += cpu_seconds() - start
        start = cpu_seconds()
        prepared = [prepare_frame(frame, PARAMS, name=clip.name) for frame in frames]
        spent["prepare"] += cpu_seconds() - start
        start = cpu_seconds()
        flow = tvl1_clip(
            np.stack([item.grey for item in prepared]), params=TVL1Params(), backend="cpu", num_threads=1
        )
        spent["flow"] += cpu_seconds() - start
        start = cpu_seconds()
        for item in prepared:
            encode_image(item.rgb)
        for field in quantise_flow(flow, bound_px=PARAMS.bound_px):
            encode_image(field)
        spent["encode"] += cpu_seconds() - start
        num_pairs += len(flow)
    return {name: seconds / num_pairs for name, seconds in spent.items()} | {"pairs": float(num_pairs)}


def link_clips(clips: list[Path], folder: Path) -> Path:
    """Make a data set of one class out of the clips."""
    target = folder / "videos" / "clips"
    target.mkdir(parents=True)
    for number, clip in enumerate(clips):
        (target / f"{number:03d}{clip.suffix}").symlink_to(clip.resolve())
    return folder / "videos"


def start_extract(videos: Path, run: Path, *, workers: int, cores: set[int]) -> subprocess.Popen[str]:
    """Start the command, held to some cores."""
    shutil.rmtree(run, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "stin_pipe",
        "extract",
        "--run",
        str(run),
    ]
    command += ["--videos", str(videos), "--size", "340x256", "--flow", "cpu", "--runner", "local"]
    return subprocess.Popen(
        [*command, "--workers", str(workers), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def finish(process: subprocess.Popen[str]) -> dict:
    """Wait for the command and return its JSON."""
    stdout, _ = process.communicate()
    if process.returncode not in (0, 3):
        sys.exit(f"extract failed with {process.returncode}")
    return json.loads(stdout.splitlines()[-1])


def plain_loop(clips: list[Path], folder: Path, pairs_a_clip: int) -> tuple[float, int]:
    """What people do today, on the first pairs of each clip: seconds and pairs."""
    cv2.setNumThreads(1)
    engine = cv2.optflow.DualTVL1OpticalFlow_create()
    folder.mkdir(parents=True, exist_ok=True)
    num_pairs, start = 0, time.perf_counter()
    for clip in clips:
        capture, last, taken = cv2.VideoCapture(str(clip)), None, 0
        while taken <= pairs_a_clip:
            good, frame = capture.read()
            if not good:
                break
            frame = cv2.resize(frame, SIZE)
            cv2.imwrite(str(folder / f"img_{taken:05d}.jpg"), frame)
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            if last is not None:
                flow = engine.calc(last, grey, None)
                scaled = np.clip(np.rint(255 * (flow + 20) / 40), 0, 255).astype(np.uint8)
                for axis, name in enumerate(("x", "y")):
                    cv2.imwrite(str(folder / f"flow_{name}_{taken:05d}.jpg"), scaled[..., axis])
                num_pairs += 1
            last = grey
            taken += 1
    return time.perf_counter() - start, num_pairs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--plain-pairs", type=int, default=6, help="pairs a clip of the plain loop")
    parser.add_argument("--two-rounds", type=int, default=0, help="only two workers, so many times in turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    clips = clips_of(options.videos, options.limit)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = link_clips(clips, folder)
        if options.two_rounds:
            rounds = [two_workers(videos, folder, cores[:2]) for _ in range(options.two_rounds)]
            ratios = sorted(each["two_over_independent"] for each in rounds)
            report({"rounds": rounds, "median_two_over_independent": ratios[len(ratios) // 2]}, options.json)
            return
        os.sched_setaffinity(0, {cores[0]})
        alone = stages_alone(clips)
        plain_s, plain_pairs = plain_loop(clips, folder / "plain", options.plain_pairs)
        os.sched_setaffinity(0, set(cores))
        one = finish(start_extract(videos, folder / "one", workers=1, cores={cores[0]}))
        result = summary(alone, plain_s / plain_pairs, one)
        if len(cores) >= 2:
            result |= two_workers(videos, folder, cores[:2])
    result["machine"] = f"{platform.machine()}, {len(cores)} cores, {len(clips)} clips"
    report(result, options.json)


def report(result: dict, path: Path | None) -> None:
    """Print the result, and keep it where that was asked for."""
    print(json.dumps(result, indent=1))
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


def summary(alone: dict[str, float], plain_s_a_pair: float, one: dict) -> dict:
    """Set the whole stage beside its bound and beside the plain loop."""
    stages = ("decode", "prepare", "flow", "encode")
    bound = 1.0 / sum(alone[name] for name in stages)
    return {
        "core_ms_a_pair": {name: round(1e3 * alone[name], 2) for name in stages},
        "bound_pairs_per_s": round(bound, 2),
        "one_worker_pairs_per_s": one["pairs_per_s"],
        "of_bound": round(one["pairs_per_s"] / bound, 3),
        "plain_loop_pairs_per_s": round(1 / plain_s_a_pair, 3),
        "over_plain_loop": round(one["pairs_per_s"] * plain_s_a_pair, 2),
    }


def two_workers(videos: Path, folder: Path, cores: list[int]) -> dict:
    """Set two workers beside two independent single-worker runs, each on a core of its own."""
    apart = [start_extract(videos, folder / f"apart{core}", workers=1, cores={core}) for core in cores]
    independent = sum(finish(process)["pairs_per_s"] for process in apart)
    together = finish(start_extract(videos, folder / "two", workers=2, cores=set(cores)))["pairs_per_s"]
    return {
        "two_independent_pairs_per_s": round(independent, 2),
        "two_workers_pairs_per_s": together,
        "two_over_independent": round(together / independent, 3),
    }


if __name__ == "__main__":
    main()
