"""A run as a torch dataset: the clips that the streams see, through the default DataLoader."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from stin_pipe.stin.clips.dataset import ScoringClips, network_input
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.clips.shard_dataset import ShardDataset
from stin_pipe.stin.network.config import SpatialConfig, TemporalConfig
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest

CONFIGS = {"spatial": SpatialConfig(), "temporal": TemporalConfig()}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("stream", "channels"), [("spatial", 3), ("temporal", 10)])
def test_the_default_loader_gives_batches_of_clips_and_labels(tiny_run, stream, channels, num_workers):
    data = ShardDataset(tiny_run, stream=stream, crop_px=24, augment=True)
    num, seen = 0, []
    for clips, labels in DataLoader(data, batch_size=4, num_workers=num_workers):
        assert clips.dtype == torch.float32 and clips.shape[1:] == (3, channels, 24, 24) == data.clip_shape
        assert labels.dtype == torch.int64 and len(labels) == len(clips)
        assert torch.isfinite(clips).all() and clips.std() > 0
        num += len(clips)
        seen += labels.tolist()
    assert num == len(data) == len(data.ids) and seen == list(data.labels)
    assert repr(data).endswith(
        f"{stream}, split 1, train: {num} videos of 3 classes, clips {data.clip_shape})"
    )


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_clips_are_those_that_a_trained_stream_is_scored_on(tiny_run, stream):
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    data = ShardDataset(tiny_run, subset="test", stream=stream, crop_px=24, num_segments=2)
    config = CONFIGS[stream]
    scored = ScoringClips(
        [ClipShape.of(video) for video in manifest.subset("1", "test")],
        ShardReader(tiny_run / "extract", manifest),
        stream=config,
        crop_px=24,
        num_segments=2,
        num_crops=1,
        flip=False,
    )
    assert len(data) == len(scored)
    for index, (clip, label) in enumerate(data):
        expected = network_input(
            scored[index], stream=config, bound_px=manifest.bound_px, device=torch.device("cpu")
        )
        assert torch.equal(clip, expected[0])
        assert label == manifest.videos[data.ids[index]].label and type(label) is int


def test_what_is_drawn_follows_from_seed_and_epoch(tiny_run):
    def clip(epoch=0, **options):
        data = ShardDataset(tiny_run, stream="temporal", crop_px=24, augment=True, **options)
        data.set_epoch(epoch)
        return data[-1][0]

    assert torch.equal(clip(), clip())
    assert not torch.equal(clip(), clip(epoch=1))
    assert not torch.equal(clip(), clip(seed=1))
    fixed = ShardDataset(tiny_run, stream="temporal", crop_px=24)
    first = fixed[0][0]
    fixed.set_epoch(5)
    assert torch.equal(fixed[0][0], first)


def test_it_can_be_sent_to_spawned_workers_and_be_indexed_like_a_list(tiny_run):
    data = ShardDataset(tiny_run, subset="all", crop_px=10_00, num_segments=1)
    assert data.clip_shape[2] < 100  # what the stored videos hold
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    assert set(data.ids) == set(manifest.videos) and data.classes == manifest.classes
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own bytes
    assert torch.equal(copy[0][0], data[0][0])
    for index in (len(data), -len(data) - 1):
        with pytest.raises(IndexError, match=f"index {index} of {len(data)} videos"):
            data[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "flow"}, "stream must be one of spatial, temporal, got 'flow'"),
        ({"subset": "val"}, "subset must be one of train, test, all, got 'val'"),
        ({"num_segments": 0}, "num_segments must be >= 1, got 0"),
        ({"stream": "temporal", "stack_len": 0}, "stack_len must be >= 1, got 0"),
        ({"crop_px": 8}, "crop_px must be in 16..4096, got 8"),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_ones(tiny_run, options, message):
    with pytest.raises(ValueError, match=message):
        ShardDataset(tiny_run, **options)


def test_a_run_or_split_that_is_not_there_is_named(tiny_run, tmp_path):
    with pytest.raises(StinPipeError, match="split '9' is not in this run; its splits are: 1"):
        ShardDataset(tiny_run, split="9")
    with pytest.raises(StinPipeError, match=r"manifest\.json"):
        ShardDataset(tmp_path)
