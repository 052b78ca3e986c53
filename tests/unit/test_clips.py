"""Windows equal crops of whole pictures, neighbours read at once equal single reads, lists kept in arrays."""

import pickle

import numpy as np
import pytest

from stin_pipe.stin.clips.read_clips import ClipShape, ShapeTable, read_clips
from stin_pipe.stin.clips.transforms import Crop, crop_fields, crop_frames
from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardFile, ShardReader
from stin_pipe.stin.shards.schema import Manifest

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


def test_a_table_of_shapes_is_the_list_it_was_made_of():
    shapes = [
        ClipShape(id=name, label=place, num_frames=9 + place, height=32, width=40)
        for place, name in enumerate(("a/ä.avi", "b/\udcff raw.avi", "", "c/longer name.mp4"))
    ]
    table = pickle.loads(pickle.dumps(ShapeTable(shapes)))  # noqa: S301 - our own
    assert list(table) == shapes
    assert table[-1] == shapes[-1]
    assert list(table[1:3]) == shapes[1:3]
    assert len(ShapeTable([])) == 0 and list(ShapeTable([])) == []
    with pytest.raises(IndexError):
        table[4]


def test_each_video_is_found_where_the_manifest_says(tiny_run, manifest):
    reader = ShardReader(tiny_run / "extract", manifest)
    for video in manifest.videos.values():
        assert len(reader.read_rgb(video.id, [video.num_frames - 1])) == 1
    for absent in ("", "falls/v01", "falls/v01.avi2", "zzz"):
        with pytest.raises(StinPipeError, match="is not in the manifest"):
            reader.read_rgb(absent, [0])
