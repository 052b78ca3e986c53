"""Several videos around one device: chunks are joined, and nothing of a result depends on that."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.planning.plan import ExtractParams, PlannedShard
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.shard.fill import packed_fields
from stin_pipe.pipeline.shard.flow_batches import FlowBatches
from stin_pipe.pipeline.shard.make_shard import make_shard
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Mark

PARAMS = ExtractParams(size=(48, 32), short_side=None, bound_px=2.5, flow_backend="cpu")


def chunk(seed: int, num_frames: int, shape: tuple[int, int] = (32, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, *shape), dtype=np.uint8)


class Device:
    """Solves on the CPU; the first call waits until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[int] = []
        self.threads: set[int] = set()

    def solve(self, greys: np.ndarray, params: ExtractParams) -> np.ndarray:
        self.calls.append(len(greys))
        self.threads.add(threading.get_ident())
        assert self.go.wait(60)
        return packed_fields(greys, params)


def gathered(device: Device, chunks: list[np.ndarray], max_pairs: int) -> list[np.ndarray]:
    """Give one chunk to the device and the others while it works on that."""
    with (
        FlowBatches(device.solve, PARAMS, max_pairs=max_pairs) as flow,
        ThreadPoolExecutor(len(chunks)) as threads,
    ):
        answers = []
        for number, greys in enumerate(chunks):
            answers.append(threads.submit(flow, greys, PARAMS))
            deadline = time.monotonic() + 30
            while (len(device.calls), len(flow._waiting)) != (1, number) and time.monotonic() < deadline:
                time.sleep(0.001)
        device.go.set()
        return [answer.result(timeout=60) for answer in answers]


def test_waiting_chunks_of_one_size_are_solved_together_with_equal_fields() -> None:
    chunks = [chunk(0, 4), chunk(1, 3), chunk(2, 5, (40, 56)), chunk(3, 2), chunk(4, 6), chunk(5, 4)]
    device = Device()
    found = gathered(device, chunks, max_pairs=10)
    # alone; 3 + 2 joined, where 6 would be 12 frames and 4 more fit; the odd size; what was left
    assert device.calls == [4, 3 + 2 + 6, 5, 4]
    assert len(device.threads) == 1
    for greys, fields in zip(chunks, found, strict=True):
        assert np.array_equal(fields, packed_fields(greys, PARAMS))


def test_a_device_that_fails_fails_all_that_wait_for_it() -> None:
    def broken(greys: np.ndarray, params: ExtractParams) -> np.ndarray:
        raise StinPipeError("the device is gone")

    with FlowBatches(broken, PARAMS) as flow:
        for _ in range(2):
            with pytest.raises(StinPipeError, match="the device is gone"):
                flow(chunk(0, 3), PARAMS)


def shard_of(extract_dir: Path, videos: Path, num_threads: int) -> tuple[ShardTask, Mark]:
    listing = list_videos(videos)
    params = replace(PARAMS, size=None, short_side=32)
    (extract_dir / "shards").mkdir(parents=True)
    task = ShardTask(
        extract_dir=extract_dir,
        root=videos,
        shard=PlannedShard(name="00000", videos=listing.videos),
        params=params,
        fingerprint=params.fingerprint(),
        timeout_s=60,
        num_threads=num_threads,
    )
    report = make_shard(task)
    mark = Mark.load(extract_dir / "shards" / "00000.json")
    assert report.num_done + report.num_failed == len(listing.videos)
    return task, mark


def test_a_shard_made_by_threads_has_the_same_content_and_order(made_videos, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for index, source in enumerate(sorted(made_videos.videos.glob("*-up/*.avi"))):
        target = videos / "ab"[index % 2] / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() if index != 3 else b"no video")
    _, alone = shard_of(tmp_path / "alone", videos, 1)
    for number in range(3):
        _, together = shard_of(tmp_path / f"together{number}", videos, 4)
        assert together.digest == alone.digest
        for ours, theirs in zip(together.outcomes, alone.outcomes, strict=True):
            assert (ours.id, ours.group, ours.reason) == (theirs.id, theirs.group, theirs.reason)
    assert sum(outcome.state == "failed" for outcome in alone.outcomes) == 1
    numbers = [outcome.group for outcome in alone.outcomes if outcome.group]
    assert len(numbers) == len(alone.outcomes) - 1 and numbers == sorted(numbers)


def test_trouble_with_the_shard_ends_all_threads(made_videos, tmp_path: Path, monkeypatch) -> None:
    from stin_pipe.stin.shards import writer

    def full(self: object, content: bytes) -> None:
        raise OSError(28, "No space left on device", "00000.h5")

    monkeypatch.setattr(writer.VideoWriter, "append_frame", full)
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        shard_of(tmp_path, made_videos.videos, 4)
    assert threading.active_count() == before
    assert not list((tmp_path / "shards").iterdir())
