"""What frames alone cost, and what it costs to add their flow later, against both streams from the start.

One worker in this process, CPU seconds of it and of its decoders, so that a busy machine changes little. Each
round extracts both streams, then frames alone, then adds the flow to these; the content of frames and flow is
compared bit for bit, and that of the frames' shards before and after the addition.

    python benchmarks/extract_streams.py --videos DIR [--limit 8] [--rounds 3] [--json OUT.json]
"""

import argparse
import hashlib
import json
import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np

from stin_pipe.pipeline.extraction import ExtractResult, make_shards
from stin_pipe.pipeline.flow import TVL1Params, resolve_backend, tvl1_clip
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.planning.ledger import find_ledger
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.runners.workers import use_one_thread
from stin_pipe.pipeline.shard.make_shard import make_shard
from stin_pipe.stin.shards.reader import ShardFile, stream_digest
from stin_pipe.stin.shards.schema import Manifest, Stream, Streams

BOTH = ExtractParams(
    size=(340, 256),
    short_side=None,
    bound_px=20.0,
    flow_backend=resolve_backend("cpu"),
    flow=TVL1Params().as_record(),
)


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    use_one_thread()
    tvl1_clip(np.zeros((2, 32, 32), np.uint8), backend="cpu", num_threads=1)  # compile beforehand
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            rounds.append(measure(Path(folder) / str(number), options.videos, options.limit))
            print(rounds[-1])

    values = {
        "rounds": len(rounds),
        "videos": rounds[0]["videos"],
        "frames": rounds[0]["frames"],
        **{
            name: round(statistics.median(item[name] for item in rounds), 3)
            for name in ("both_over_rgb", "rgb_and_later_flow_over_both", "rgb_bytes_over_both")
        },
        **{
            name: all(item[name] for item in rounds)
            for name in ("frames_equal", "flow_equal", "old_shards_untouched")
        },
    }
    print(json.dumps(values))
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, videos: Path, limit: int) -> dict[str, float]:
    """Extract both ways once, and return ratios and whether the contents are equal."""
    both, both_s = extract(folder / "both", videos, limit, "both")
    _, rgb_s = extract(folder / "rgb", videos, limit, "rgb")
    before, rgb_bytes = file_digests(folder / "rgb"), stored_bytes(folder / "rgb")
    _, later_s = extract(folder / "rgb", videos, limit, "both")
    after = file_digests(folder / "rgb")

    return {
        "videos": both.done,
        "frames": both.frames,
        "both_over_rgb": both_s / rgb_s,
        "rgb_and_later_flow_over_both": (rgb_s + later_s) / both_s,
        "rgb_bytes_over_both": rgb_bytes / stored_bytes(folder / "both"),
        "frames_equal": contents(folder / "rgb", "rgb") == contents(folder / "both", "rgb"),
        "flow_equal": contents(folder / "rgb", "flow") == contents(folder / "both", "flow"),
        "old_shards_untouched": before.items() < after.items(),
    }


def extract(extract_dir: Path, videos: Path, limit: int, streams: Streams) -> tuple[ExtractResult, float]:
    """Make what is missing in this process; return the result and the CPU seconds."""
    (extract_dir / "shards").mkdir(parents=True, exist_ok=True)
    started = cpu_seconds()
    result = make_shards(
        extract_dir,
        find_ledger(extract_dir),
        list_videos(videos, limit=limit),
        BOTH.only(streams),
        run_tasks=lambda tasks: map(make_shard, tasks),
    )
    return result, cpu_seconds() - started


def cpu_seconds() -> float:
    """CPU time of this process and of the decoders that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def contents(extract_dir: Path, stream: Stream) -> dict[str, bytes]:
    """Return the digest of a stream of each video, wherever it is stored."""
    found = {}
    for video in Manifest.load(extract_dir / "manifest.json").videos.values():
        at = video.companion if video.companion and stream != video.streams else video
        shard = ShardFile(extract_dir / "shards" / f"{at.shard}.h5")
        found[video.id] = stream_digest(shard, at.group, stream)
        shard.close()
    return found


def file_digests(extract_dir: Path) -> dict[str, str]:
    """Return the digest of each shard and mark."""
    files = (extract_dir / "shards").iterdir()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stored_bytes(extract_dir: Path) -> int:
    """Return the size of all shards."""
    return sum(path.stat().st_size for path in (extract_dir / "shards").glob("*.h5"))


if __name__ == "__main__":
    main()
