"""Damaged copies of real clips: each ends in a shard or with a reason, nothing hangs, no count is wrong."""

from pathlib import Path

import numpy as np
import pytest

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
from stin_pipe.stin.shards.schema import Manifest


def mutate(content: bytes, other: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """Cut, flip bytes, splice another file in, zero a block, or swap two blocks."""
    damaged = bytearray(content)
    place = int(rng.integers(len(damaged)))
    if kind == 0:
        return bytes(damaged[:place])
    if kind == 1:
        for index in rng.integers(0, len(damaged), int(rng.integers(1, 200))):
            damaged[index] = int(rng.integers(256))
    elif kind == 2:
        start = int(rng.integers(len(other)))
        damaged[place : place + 4096] = other[start : start + 4096]
    elif kind == 3:
        damaged[place : place + 8192] = bytes(min(8192, len(damaged) - place))
    else:
        half = len(damaged) // 2
        damaged = damaged[half:] + damaged[:half] if rng.random() < 0.3 else damaged[place:]
    return bytes(damaged)


@pytest.mark.shared_data
@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_mutated_copies_of_real_clips(shared_data: Path, tmp_path: Path, count: int, call) -> None:
    sources = [
        *sorted((shared_data / "clips" / "ucf101").rglob("*.avi")),
        *sorted((shared_data / "egogestar" / "videos" / "up").glob("*.mp4"))[:4],
        *sorted((shared_data / "odd" / "derived").glob("*.mkv")),
    ]
    rng = np.random.default_rng(count)
    videos = tmp_path / "videos" / "mutated"
    videos.mkdir(parents=True)
    for number in range(count):
        first, second = (sources[index] for index in rng.integers(0, len(sources), 2))
        content = mutate(first.read_bytes(), second.read_bytes(), number % 5, rng)
        (videos / f"{number:03d}{first.suffix}").write_bytes(content)
    called = call(
        *("extract", "--run", tmp_path / "run", "--videos", tmp_path / "videos", "--size", "32x24"),
        *("--runner", "local", "--max-failure-rate", 1, "--timeout", 120, "--json"),
    )
    assert called.code == 0, called.stderr
    assert called.json["done"] + called.json["failed"] == count
    assert called.json["failures"].keys().isdisjoint({"internal", "timeout", "stalled"}), called.json
    manifest = Manifest.load(tmp_path / "run" / "extract" / "manifest.json")
    for name in list(manifest.videos)[:: max(1, count // 40)]:
        notes = DecodeNotes()
        decoded = sum(1 for _ in decode_frames(tmp_path / "videos" / name, notes))
        assert manifest.videos[name].num_frames == decoded
    for video in manifest.failed[:20]:
        try:
            decoded = sum(1 for _ in decode_frames(tmp_path / "videos" / video.id, DecodeNotes()))
        except DecodeError as error:
            assert error.reason == video.reason
        else:
            assert decoded < 2 and video.reason == "too_short"
