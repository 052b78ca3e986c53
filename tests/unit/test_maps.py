"""Attention and difference maps: where the network saw what, laid over the stored picture."""

import numpy as np
import pytest
import torch

from stin_pipe.stin.clips.read_clips import ClipShape, MemoryClip
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig, TemporalConfig
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.scoring.maps import stream_maps
from stin_pipe.stin.shards.schema import FlowCoding

HEIGHT, WIDTH = 48, 80


def model_of(stream: StreamConfig) -> TrainedModel:
    torch.manual_seed(1)
    info = ModelInfo(stream=stream, classes=("a", "b"), num_segments=3, crop_px=64, flip=False, bound_px=4.0)
    return TrainedModel(
        network=build_stream(stream, num_classes=2).eval(), info=info, digest="", device=torch.device("cpu")
    )


def clip_with_change(num_frames: int = 12) -> tuple[MemoryClip, ClipShape]:
    """Still noise, but for a patch at the right end that is new in every frame; flow moves there alone."""
    rng = np.random.default_rng(0)
    rgb = np.repeat(rng.integers(0, 255, (1, HEIGHT, WIDTH, 3)), num_frames, 0).astype(np.uint8)
    rgb[:, 16:32, 64:80] = rng.integers(0, 255, (num_frames, 16, 16, 3))
    flow = np.full((num_frames - 1, 2, HEIGHT, WIDTH), 128, np.uint8)
    flow[:, 0, 16:32, 64:80] = 220
    clip = MemoryClip(rgb=rgb, flow=flow, coding=FlowCoding.from_bound(4.0))
    return clip, ClipShape(id="v", label=0, num_frames=num_frames, height=HEIGHT, width=WIDTH)


def test_differences_lie_where_the_picture_changes() -> None:
    clip, video = clip_with_change()
    model = model_of(SpatialConfig(backbone="resnet18", tap="layer2", difference_channels=16))
    maps = stream_maps(model, clip, video, num_segments=6)
    assert maps is not None
    assert maps.step == 2 and maps.values_MHW.shape == (4, HEIGHT, WIDTH)  # 6 of a training with 3: 2 apart
    assert maps.starts.tolist() == [1, 3, 5, 7, 9, 11]
    inside = maps.values_MHW[:, 16:32, 64:80].mean()
    assert inside > 5 * maps.values_MHW[:, :, :32].mean()  # the left crops see nothing change


def test_attention_is_in_multiples_of_even_attention() -> None:
    clip, video = clip_with_change()
    model = model_of(TemporalConfig(backbone="resnet18", tap="layer3"))
    maps = stream_maps(model, clip, video, num_segments=4)
    assert maps is not None
    assert (maps.step, maps.values_MHW.shape) == (0, (4, HEIGHT, WIDTH))
    assert maps.values_MHW.min() >= 0 and maps.values_MHW.mean() == pytest.approx(1.0, abs=0.25)
    even = model_of(TemporalConfig(backbone="resnet18", tap="layer3"))
    torch.nn.init.zeros_(even.network.attention.query.weight)  # pyright: ignore
    uniform = stream_maps(even, clip, video, num_segments=4)
    assert uniform is not None
    np.testing.assert_allclose(uniform.values_MHW, 1.0, atol=1e-5)  # no preference, no seams


def test_a_plain_stream_has_no_maps_and_one_segment_is_refused() -> None:
    clip, video = clip_with_change()
    assert stream_maps(model_of(SpatialConfig(difference="none")), clip, video, num_segments=4) is None
    with pytest.raises(ValueError, match="num_segments must be >= 2 to compare segments, got 1"):
        stream_maps(model_of(SpatialConfig(backbone="resnet18")), clip, video, num_segments=1)
