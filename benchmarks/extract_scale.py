"""Whether extraction scales: more clips at one rate, longer videos in one memory; and what UCF101 takes.

    python benchmarks/extract_scale.py rate --videos DIR [--clips 6]
        10 and 100 times the clips, as small frames
    python benchmarks/extract_scale.py memory [--frames 3000]
        one worker on a made 1080p clip, against one of 100 frames
    python benchmarks/extract_scale.py project --measured extract.json [--gpu-pairs-per-s R --cores N]
        from the output of benchmarks/extract.py; a projection

All print JSON; `--json FILE` keeps it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stin_pipe.stin.processes.cpus import usable_cpus

UCF101_FRAMES, UCF101_CLIPS = 2_484_199, 13_320
"""Frames as they are usually counted; each clip has a pair less than frames."""

BYTES_A_FRAME, BYTES_A_FIELD = 29_000, 4_700
"""Stored bytes at 340x256, measured on UCF101 clips (EXPERIMENTS.md)."""

WORKER = """
import json, resource, sys
from pathlib import Path
from stin_pipe.pipeline.runners.workers import use_one_thread
use_one_thread()
from stin_pipe.pipeline.shard.from_video import extract_video
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.stin.shards.writer import ShardWriter
clip, shard = Path(sys.argv[1]), Path(sys.argv[2])
params = ExtractParams(size=(340, 256), short_side=None, bound_px=20.0, flow_backend="cpu")
video = ListedVideo(id="c/v", path=clip.name, label=0, class_name="c", splits={})
with ShardWriter(shard, attributes={"flow_zero": 128.0, "flow_scale": 0.1}) as writer:
    outcome = extract_video(video, root=clip.parent, params=params, writer=writer, timeout_s=3600)
assert outcome.meta is not None, outcome.message
who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
own, children = (resource.getrusage(one).ru_maxrss / 1024 for one in who)
peaks = {"worker_mib": round(own, 1), "ffmpeg_mib": round(children, 1)}
print(json.dumps({"frames": outcome.meta.num_frames, **peaks, "seconds": round(outcome.seconds, 2)}))
"""


def rate(options: argparse.Namespace) -> dict:
    """Extract 10 and 100 times the same clips with one worker."""
    clips = sorted(path for path in options.videos.rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    clips = clips[:: max(1, len(clips) // options.clips)][: options.clips]
    found: dict[str, object] = {"clips": len(clips), "size": options.size}
    with tempfile.TemporaryDirectory() as name:
        for times in (10, 100):
            folder = Path(name) / f"videos{times}" / "clips"
            folder.mkdir(parents=True)
            for number in range(times):
                for index, clip in enumerate(clips):
                    (folder / f"{number:03d}-{index:02d}{clip.suffix}").symlink_to(clip.resolve())
            command = [
                sys.executable,
                "-m",
                "stin_pipe",
                "extract",
                "--json",
            ]
            command += ["--run", f"{name}/run{times}", "--videos", str(folder.parent), "--size", options.size]
            command += ["--flow", "cpu", "--runner", "local", "--workers", "1", "--max-failure-rate", "1"]
            start, before = time.monotonic(), os.times()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wall_s, after = time.monotonic() - start, os.times()
            core_s = after.children_user + after.children_system
            core_s -= before.children_user + before.children_system
            result = json.loads(done.stdout.splitlines()[-1])
            marks = (Path(name) / f"run{times}" / "extract" / "shards").glob("*.json")
            worker_s = sum(
                video["seconds"] for mark in marks for video in json.loads(mark.read_text())["outcomes"]
            )
            found[f"times_{times}"] = {
                "videos": result["videos"],
                "pairs": result["flow_pairs"],
                "pairs_per_s": result["pairs_per_s"],
                "pairs_per_worker_s": round(result["flow_pairs"] / worker_s, 2),
                "wall_s": round(wall_s, 2),
                "core_ms_a_pair": round(1e3 * core_s / result["flow_pairs"], 3),
            }
    few, many = found["times_10"], found["times_100"]
    assert isinstance(few, dict) and isinstance(many, dict)
    found["rate_100_over_10"] = round(many["pairs_per_s"] / few["pairs_per_s"], 3)
    within = many["pairs_per_worker_s"] / few["pairs_per_worker_s"]
    found["rate_100_over_10_without_start"] = round(within, 3)
    found["core_time_100_over_10"] = round(many["core_ms_a_pair"] / few["core_ms_a_pair"], 3)
    return found


def memory(options: argparse.Namespace) -> dict:
    """Peak memory of one worker on a long and a short made clip."""
    from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg

    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        for frames in (100, options.frames):
            clip = Path(name) / f"{frames}.mp4"
            source = f"testsrc2=size=1920x1080:rate=25:duration={frames / 25}"
            command = [find_ffmpeg().path, "-loglevel", "error", "-f", "lavfi", "-i", source]
            subprocess.run([*command, "-c:v", "mpeg4", "-q:v", "4", "-bf", "0", str(clip)], check=True)
            done = subprocess.run(
                [sys.executable, "-c", WORKER, str(clip), str(Path(name) / f"{frames}.h5")],
                capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            found[f"frames_{frames}"] = json.loads(done.stdout)
            clip.unlink()
    short, long = found["frames_100"], found[f"frames_{options.frames}"]
    assert isinstance(short, dict) and isinstance(long, dict)
    found["long_over_short"] = round(long["worker_mib"] / short["worker_mib"], 3)
    return found


def project(options: argparse.Namespace) -> dict:
    """Hours and disk for UCF101: a projection, not a measurement."""
    measured = json.loads(options.measured.read_text())
    cores = options.cores or usable_cpus()
    pairs = UCF101_FRAMES - UCF101_CLIPS
    stages = measured["core_ms_a_pair"]
    other_ms = sum(stages[name] for name in ("decode", "prepare", "encode"))
    cpu_rate = measured["one_worker_pairs_per_s"] * cores
    found: dict[str, object] = {
        "kind": "projection",
        "frames": UCF101_FRAMES,
        "disk_gb": round((UCF101_FRAMES * BYTES_A_FRAME + pairs * BYTES_A_FIELD) / 1e9, 1),
        "cpu": {
            "cores": cores,
            "pairs_per_s": round(cpu_rate, 1),
            "hours": round(pairs / cpu_rate / 3600, 2),
        },
    }
    if options.gpu_pairs_per_s:
        rate_of = {"gpu": options.gpu_pairs_per_s, "cores": cores * 1e3 / other_ms}
        slowest = min(rate_of, key=lambda name: rate_of[name])
        found["gpu_node"] = {
            "cores": cores,
            "flow_pairs_per_s": options.gpu_pairs_per_s,
            "flow_rate_is": "a model, not measured",
            "decode_and_encode_pairs_per_s": round(rate_of["cores"], 1),
            "limited_by": slowest,
            "hours": round(pairs / rate_of[slowest] / 3600, 2),
        }
    return found


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("rate")
    one.add_argument("--videos", type=Path, required=True)
    one.add_argument("--clips", type=int, default=6)
    one.add_argument("--size", default="64x48")
    one.set_defaults(measure=rate)
    one = commands.add_parser("memory")
    one.add_argument("--frames", type=int, default=3000)
    one.set_defaults(measure=memory)
    one = commands.add_parser("project")
    one.add_argument("--measured", type=Path, required=True, help="JSON of benchmarks/extract.py")
    one.add_argument("--cores", type=int)
    one.add_argument("--gpu-pairs-per-s", type=float, help="flow rate of a GPU at 340x256")
    one.set_defaults(measure=project)
    for each in commands.choices.values():
        each.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = options.measure(options)
    found["machine"] = f"{platform.machine()}, {usable_cpus()} cores"
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
