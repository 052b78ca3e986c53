"""The shard contract: round trips, checksums, and what a reader refuses."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stin_pipe.stin.shards.codec import decode_field, decode_rgb, dequantise_flow, encode_image, quantise_flow
from stin_pipe.stin.shards.errors import ShardError, StinPipeError
from stin_pipe.stin.shards.reader import ShardFile, content_digest
from stin_pipe.stin.shards.schema import FlowCoding, Manifest, Mark
from stin_pipe.stin.shards.writer import ShardWriter

SETTINGS = {"flow_zero": 128.0, "flow_scale": 20.0 / 127.0}


def write_shard(path: Path, *, num_frames: int = 5, codec: str = "png", video_id: str = "a/b.avi"):
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (num_frames, 20, 24, 3), dtype=np.uint8)
    fields = rng.integers(1, 256, (num_frames - 1, 40, 24), dtype=np.uint8)
    with ShardWriter(path, attributes=SETTINGS) as writer:
        video = writer.begin_video(video_id)
        for frame in frames:
            video.append_frame(encode_image(frame, codec=codec))
        for field in fields:
            video.append_field(encode_image(field, codec=codec))
        about = {"label": 2, "class_name": "a", "height": 20, "width": 24, "fps": 25.0}
        group, meta = video.finish(**about, source_sha256="0" * 64, notes={"decoded": num_frames})
    return frames, fields, group, meta


def test_lossless_round_trip(tmp_path: Path) -> None:
    frames, fields, group, meta = write_shard(tmp_path / "00000.h5")
    shard = ShardFile(tmp_path / "00000.h5")
    assert meta.num_frames == 5
    assert shard.flow_coding == FlowCoding()
    assert shard.video(group).attributes["notes"] == {"decoded": 5}
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(decode_rgb(shard.read_bytes(group, "rgb", index)), frame)
    for index, field in enumerate(fields):
        stored = decode_field(shard.read_bytes(group, "flow", index))
        np.testing.assert_array_equal(stored, field.reshape(2, 20, 24))
    assert content_digest(shard, group) == meta.digest
    with pytest.raises(IndexError, match=r"flow index must be in 0\.\.3, got 4"):
        shard.read_bytes(group, "flow", 4)


def test_digest_depends_on_content_and_identity(tmp_path: Path) -> None:
    digest = write_shard(tmp_path / "0.h5")[3].digest
    assert write_shard(tmp_path / "1.h5")[3].digest == digest
    assert write_shard(tmp_path / "2.h5", video_id="a/c.avi")[3].digest != digest
    assert write_shard(tmp_path / "3.h5", num_frames=6)[3].digest != digest


def test_nothing_is_published_when_writing_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        ShardWriter(tmp_path / "00000.h5", attributes=SETTINGS) as writer,
    ):
        writer.begin_video("a").append_frame(b"x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_video_leaves_no_group(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "00000.h5", attributes=SETTINGS) as writer:
        video = writer.begin_video("bad")
        video.append_frame(b"x" * 1000)
        video.abandon()
    assert ShardFile(tmp_path / "00000.h5").group_names() == []


def test_a_long_video_streams_in(tmp_path: Path) -> None:
    """More bytes than one buffer holds, so several blocks are written."""
    content = np.random.default_rng(0).bytes(700_000)
    with ShardWriter(tmp_path / "00000.h5", attributes=SETTINGS) as writer:
        video = writer.begin_video("a")
        for _ in range(20):
            video.append_frame(content)
        for _ in range(19):
            video.append_field(b"field")
        about = {"label": 0, "class_name": "a", "height": 16, "width": 16, "fps": 0.0}
        group, _ = video.finish(**about, source_sha256="", notes={})
    shard = ShardFile(tmp_path / "00000.h5")
    assert all(shard.read_bytes(group, "rgb", index).tobytes() == content for index in range(20))


def test_read_by_plain_h5py_as_the_format_is_documented(tmp_path: Path) -> None:
    """The twenty lines of ARCHITECTURE.md, and nothing of ours."""
    frames, fields, _, _ = write_shard(tmp_path / "00000.h5")
    with h5py.File(tmp_path / "00000.h5", "r", locking=False) as file:
        zero, scale = file.attrs["flow_zero"], file.attrs["flow_scale"]
        group = file["videos/000000"]
        count = group.attrs["num_frames"]
        height = group.attrs["height"]
        images = {}
        for stream, number in (("rgb", count), ("flow", count - 1)):
            content, offsets = group[stream]["bytes"][...], group[stream]["offsets"][...]
            assert len(offsets) == number + 1
            images[stream] = [
                cv2.imdecode(content[offsets[i] : offsets[i + 1]], cv2.IMREAD_UNCHANGED)
                for i in range(number)
            ]
    np.testing.assert_array_equal(np.stack(images["rgb"])[..., ::-1], frames)
    field = images["flow"][0]
    x_px, y_px = ((plane.astype(float) - zero) * scale for plane in (field[:height], field[height:]))
    np.testing.assert_allclose(x_px, (fields[0][:20].astype(float) - 128) * 20 / 127)
    np.testing.assert_allclose(y_px, (fields[0][20:].astype(float) - 128) * 20 / 127)


def test_each_kind_of_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00000.h5"
    write_shard(path)
    with h5py.File(path, "r+") as file:
        file["videos/000000/rgb/bytes"][100] ^= 1  # fletcher32 is renewed, so the crc32 alone can tell
    with pytest.raises(
        ShardError, match=r"00000\.h5: video a/b\.avi, rgb 0: .*differ from their crc32\); `stin-pipe verify"
    ):
        for index in range(5):
            ShardFile(path).read_bytes("000000", "rgb", index)
    write_shard(path)
    with h5py.File(path, "r+") as file:
        file["videos/000000"].attrs["label"] = 7
    with pytest.raises(ShardError, match="attributes of video 000000 differ from their crc32"):
        ShardFile(path).video("000000")
    write_shard(path)
    with h5py.File(path, "r+") as file:
        file.attrs["flow_scale"] = 1.0
    with pytest.raises(ShardError, match="attributes of the file differ"):
        ShardFile(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"damaged or not readable .*verify --run RUN --repair"):
        ShardFile(path).video("000000")
    path.unlink()
    with pytest.raises(ShardError, match="the shard is missing"):
        ShardFile(path)


@given(
    flow=hnp.arrays(np.float32, (4, 5, 2), elements=st.floats(-60, 60, width=32)),
    bound_px=st.sampled_from([1.0, 5.0, 20.0]),
)
@settings(max_examples=50, deadline=None)
def test_quantisation_is_within_half_a_step_and_keeps_zero(flow: np.ndarray, bound_px: float) -> None:
    coding = FlowCoding.from_bound(bound_px)
    stacked = quantise_flow(flow, bound_px=bound_px)
    assert stacked.shape == (8, 5) and stacked.min() >= 1
    back = dequantise_flow(stacked.reshape(2, 4, 5), coding)
    expected = np.clip(np.moveaxis(flow, -1, 0), -bound_px, bound_px)
    assert np.abs(back - expected).max() <= coding.scale * 0.501
    zero = quantise_flow(np.zeros((4, 5, 2), np.float32), bound_px=bound_px)
    assert (dequantise_flow(zero, coding) == 0).all()


def test_quantisation_puts_x_above_y_and_batches() -> None:
    flow = np.zeros((3, 2, 2, 2), np.float32)
    flow[..., 0], flow[..., 1] = 20.0, -20.0
    stacked = quantise_flow(flow, bound_px=20.0)
    assert stacked.shape == (3, 4, 2)
    assert (stacked[:, :2] == 255).all() and (stacked[:, 2:] == 1).all()
    with pytest.raises(ValueError, match="bound_px must be > 0, got 0"):
        quantise_flow(flow, bound_px=0)


def test_json_records_refuse_other_versions_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(StinPipeError, match="run `stin-pipe extract` on this run first"):
        Manifest.load(path)
    path.write_text('{"format_version": 99}')
    with pytest.raises(StinPipeError, match="format version 99, but this program reads 1 and 2"):
        Manifest.load(path)
    path.write_text('{"format_version": 1}')
    with pytest.raises(StinPipeError, match="the manifest has no"):
        Manifest.load(path)
    path.write_text("{half")
    with pytest.raises(StinPipeError, match="the mark cannot be read"):
        Mark.load(path)
