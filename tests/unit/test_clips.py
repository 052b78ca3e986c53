"""Clips read in one window equal those cut from whole pictures; neighbours read at once equal single reads."""

import numpy as np
import pytest

from stin.clips import ClipShape, read_clips
from stin.shards.reader import ShardFile, ShardReader
from stin.shards.schema import Manifest
from stin.streams import SpatialConfig, TemporalConfig
from stin.transforms import Crop, crop_fields, crop_frames

CROP = Crop(top=3, left=5, height=24, width=20, flip=True)


@pytest.fixture(scope="module")
def manifest(tiny_run):
    return Manifest.load(tiny_run / "extract" / "manifest.json")


def test_one_crop_equals_the_crop_of_whole_pictures(tiny_run, manifest):
    reader = ShardReader(tiny_run / "extract", manifest)
    video = ClipShape.of(manifest.videos["falls/v01.avi"])
    starts = np.array([0, 4, 4])
    cut = read_clips(reader, video, starts=starts, crops=(CROP,), stream=SpatialConfig(), crop_px=16).clips[0]
    whole = crop_frames(reader.read_rgb(video.id, [0, 4, 4]), crop=CROP, size_px=16)
    np.testing.assert_array_equal(cut, whole)

    stream = TemporalConfig(stack_len=3)
    cut = read_clips(reader, video, starts=starts, crops=(CROP,), stream=stream, crop_px=16).clips[0]
    fields = reader.read_flow(video.id, [0, 1, 2, 4, 5, 6, 4, 5, 6])
    whole = crop_fields(fields, crop=CROP, size_px=16, zero=reader.flow_coding(video.id).zero)
    np.testing.assert_array_equal(cut, whole.reshape(3, 6, 16, 16))


def test_several_crops_read_the_same_pictures(tiny_run, manifest):
    reader = ShardReader(tiny_run / "extract", manifest)
    video = ClipShape.of(manifest.videos["rises/v00.avi"])
    other = Crop(top=0, left=0, height=32, width=32, flip=False)
    for stream in (SpatialConfig(), TemporalConfig(stack_len=2)):
        both = read_clips(
            reader, video, starts=np.array([1, 6]), crops=(CROP, other), stream=stream, crop_px=16
        ).clips
        for number, crop in enumerate((CROP, other)):
            alone = read_clips(
                reader, video, starts=np.array([1, 6]), crops=(crop,), stream=stream, crop_px=16
            ).clips
            np.testing.assert_array_equal(both[number], alone[0])


def test_neighbours_read_at_once_equal_single_reads_in_any_order(tiny_run, manifest):
    video = manifest.videos["stands/v02.avi"]
    shard = ShardFile(tiny_run / "extract" / "shards" / f"{video.shard}.h5")
    asked = [5, 6, 7, 2, 2, 0, 9, 10]
    together = shard.read_many(video.group, "flow", asked)
    for index, content in zip(asked, together, strict=True):
        np.testing.assert_array_equal(content, shard.read_bytes(video.group, "flow", index))
    assert shard.read_many(video.group, "rgb", []) == []
    with pytest.raises(IndexError, match="flow index must be in"):
        shard.read_many(video.group, "flow", [0, 99])
    shard.close()
