"""Running scores: equal to scoring the part of the video that was seen, and blind to what comes after."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stin_pipe.stin.clips.read_clips import ClipShape, MemoryClip
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig, TemporalConfig
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.scoring.score_split import score_clip
from stin_pipe.stin.scoring.scorer import TestProtocol
from stin_pipe.stin.scoring.windows import running_scores, window_ends
from stin_pipe.stin.shards.schema import FlowCoding

NUM_FRAMES, HEIGHT, WIDTH = 30, 24, 40
SPATIAL = SpatialConfig(backbone="resnet18", tap="layer2", difference_channels=8)
TEMPORAL = TemporalConfig(backbone="resnet18", tap="layer3", aux_at_test=0.5)


def model_of(stream: StreamConfig) -> TrainedModel:
    torch.manual_seed(1)
    info = ModelInfo(
        stream=stream, classes=("a", "b", "c"), num_segments=3, crop_px=32, flip=False, bound_px=4.0
    )
    network = build_stream(stream, num_classes=3).eval()
    return TrainedModel(network=network, info=info, digest="", device=torch.device("cpu"))


@pytest.fixture
def clip() -> MemoryClip:
    rng = np.random.default_rng(0)
    return MemoryClip(
        rgb=rng.integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8),
        flow=rng.integers(1, 255, (NUM_FRAMES - 1, 2, HEIGHT, WIDTH)).astype(np.uint8),
        coding=FlowCoding.from_bound(4.0),
    )


SHAPE = ClipShape(id="v", label=0, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH)


@pytest.mark.parametrize("stream", [SPATIAL, TEMPORAL], ids=["spatial", "temporal"])
def test_a_look_equals_scoring_the_frames_it_sees(stream: StreamConfig, clip: MemoryClip) -> None:
    model = model_of(stream)
    ends = np.array([1, 4, 11, 29])
    found = running_scores(model, clip, SHAPE, ends=ends, window_frames=12)
    assert clip.rgb is not None and clip.flow is not None
    for end, logits in zip(ends, found.logits, strict=True):
        first = max(0, end + 1 - 12)
        alone = score_clip(
            model,
            rgb=clip.rgb[first : end + 1],
            flow=clip.flow[first:end],
            coding=clip.coding,
            protocol=TestProtocol(num_segments=3, num_crops=1),
        )
        np.testing.assert_allclose(logits, alone.logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stream", [SPATIAL, TEMPORAL], ids=["spatial", "temporal"])
def test_nothing_after_the_end_is_seen(stream: StreamConfig, clip: MemoryClip) -> None:
    model = model_of(stream)
    assert clip.rgb is not None and clip.flow is not None
    other = replace(clip, rgb=clip.rgb.copy(), flow=clip.flow.copy())
    other.rgb[11:], other.flow[10:] = 7, 7
    ends = np.array([3, 10, 20])
    first, second = (
        running_scores(model, item, SHAPE, ends=ends, window_frames=99).logits for item in (clip, other)
    )
    np.testing.assert_array_equal(first[:2], second[:2])
    assert np.abs(first[2] - second[2]).max() > 0


def test_auxiliary_scores_are_left_out_where_told(clip: MemoryClip) -> None:
    model, ends = model_of(TEMPORAL), np.array([9])
    own, none, all_of_it = (
        running_scores(model, clip, SHAPE, ends=ends, window_frames=99, aux_share=share).logits
        for share in (None, 0.0, 1.0)
    )
    np.testing.assert_allclose(own, (none + all_of_it) / 2, rtol=1e-5, atol=1e-7)  # its own share is 0.5
    assert np.abs(own - none).max() > 1e-5


def test_windows_are_told_as_they_are_scored(clip: MemoryClip) -> None:
    told: list[int] = []
    ends = np.arange(1, 11)
    running_scores(model_of(SPATIAL), clip, SHAPE, ends=ends, window_frames=99, on_window=told.append)
    assert told == [8, 2]


def test_maps_lie_in_the_crop(clip: MemoryClip) -> None:
    found = running_scores(model_of(TEMPORAL), clip, SHAPE, ends=np.array([5, 9]), window_frames=99)
    assert found.maps is not None and found.maps.mean((1, 2)) == pytest.approx([1.0, 1.0])
    picture = found.map_over_picture(1, height=HEIGHT, width=WIDTH, outside=-1.0)
    inside = picture[1:22, 9:30]  # the centre crop: 21 of 24 x 40
    assert inside.shape == (21, 21) and inside.min() > 0
    assert (picture == -1).sum() == HEIGHT * WIDTH - 21 * 21
    plain = model_of(TemporalConfig(backbone="resnet18", attention="none"))
    assert running_scores(plain, clip, SHAPE, ends=np.array([5]), window_frames=9).maps is None


def test_looks_by_hand() -> None:
    assert window_ends(num_frames=25, fps=25, per_second=5, at_most=99).tolist() == [1, 7, 12, 18, 24]
    assert window_ends(num_frames=2, fps=25, per_second=5, at_most=99).tolist() == [1]
    assert len(window_ends(num_frames=10_000, fps=10, per_second=5, at_most=240)) == 240
    with pytest.raises(ValueError, match="num_frames must be >= 2 to see any motion, got 1"):
        window_ends(num_frames=1, fps=25, per_second=5, at_most=99)
    with pytest.raises(ValueError, match=r"ends must be frames in 1\.\.29, at least one, got \[ 0 30\]"):
        running_scores(model_of(SPATIAL), None, SHAPE, ends=np.array([0, 30]), window_frames=9)  # pyright: ignore
