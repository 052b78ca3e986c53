"""Random single-byte damage in a shard: right data, or an error that names the shard; never wrong data."""

from pathlib import Path

import numpy as np
import pytest

from stin_pipe.stin.shards.codec import encode_image
from stin_pipe.stin.shards.errors import ShardError
from stin_pipe.stin.shards.reader import ShardFile, content_digest
from stin_pipe.stin.shards.writer import ShardWriter

NUM_FRAMES = 6


def write(path: Path) -> list[str]:
    rng = np.random.default_rng(1)
    groups = []
    with ShardWriter(path, attributes={"flow_zero": 128.0, "flow_scale": 0.15}) as writer:
        for number in range(3):
            video = writer.begin_video(f"class/{number}.avi")
            for _ in range(NUM_FRAMES):
                video.append_frame(encode_image(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
            for _ in range(NUM_FRAMES - 1):
                video.append_field(encode_image(rng.integers(0, 256, (64, 32), dtype=np.uint8)))
            about = {"label": number, "class_name": "class", "height": 32, "width": 32, "fps": 25.0}
            groups.append(video.finish(**about, source_sha256="s", notes={})[0])
    return groups


def read_all(path: Path, groups: list[str]) -> dict[tuple[str, str, int], bytes]:
    """Everything that the later stages take from a shard: images, labels, sizes, flow coding."""
    shard = ShardFile(path)
    try:
        found = {}
        for group in groups:
            video = shard.video(group)
            about = sorted((key, str(value)) for key, value in video.attributes.items())
            found[group, "about", 0] = repr((about, shard.flow_coding)).encode()
            for stream, count in (("rgb", NUM_FRAMES), ("flow", NUM_FRAMES - 1)):
                for index in range(count):
                    found[group, stream, index] = shard.read_bytes(group, stream, index).tobytes()
        return found
    finally:
        shard.close()


@pytest.mark.parametrize("num_flips", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_flips_never_give_wrong_data(tmp_path: Path, num_flips: int) -> None:
    path = tmp_path / "00000.h5"
    groups = write(path)
    whole, right = path.read_bytes(), read_all(path, groups)
    rng = np.random.default_rng(num_flips)
    num_refused = num_harmless = 0
    for _ in range(num_flips):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert read_all(path, groups) == right
            num_harmless += 1
        except ShardError as error:
            assert "00000.h5" in str(error)
            num_refused += 1
    print(f"{num_flips} flips: {num_refused} refused, {num_harmless} without effect on the data")  # noqa: T201
    assert num_refused > num_flips / 2


def test_verify_finds_what_the_digest_covers(tmp_path: Path) -> None:
    path = tmp_path / "00000.h5"
    groups = write(path)
    shard = ShardFile(path)
    digests = [shard.video(group).attributes["digest"] for group in groups]
    assert [content_digest(shard, group) for group in groups] == digests
