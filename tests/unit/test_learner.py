"""A network is built once; what is asked of it before the first step costs no values and changes none."""

import hashlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stin_pipe.stin.device import Runtime
from stin_pipe.stin.network.config import SpatialConfig
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.training import learner as learner_module
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.learner import (
    _is_narrow,
    build_learner,
    flops_per_sample,
    require_enough_values,
)
from stin_pipe.stin.training.ranks import Ranks
from stin_pipe.stin.training.recipes import resolve_recipe


def settings(stream, **changes):
    base = {"backbone": "resnet18-w8", "flip": False, "num_segments": 3, "crop_px": 32}
    return override(resolve_recipe("small", stream), **{**base, **changes})


def built(config):
    return build_learner(
        config,
        num_classes=3,
        bound_px=20.0,
        runtime=Runtime(device="cpu"),
        device=torch.device("cpu"),
        notify=print,
        load_init=False,
        ranks=Ranks(),
    )


def digest(network):
    parts = [value.numpy().tobytes() for value in network.state_dict().values()]
    return hashlib.sha256(b"".join(parts) + torch.get_rng_state().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_a_training_builds_its_network_once(tiny_run, tmp_path, monkeypatch, stream):
    built_streams = []

    def counted(*args, **more):
        built_streams.append(args)
        return build_stream(*args, **more)

    monkeypatch.setattr(learner_module, "build_stream", counted)
    monkeypatch.setattr("stin_pipe.stin.network.model_file.build_stream", counted)
    monkeypatch.setattr("stin_pipe.stin.network.streams.build_stream", counted)
    train_stream(
        settings(
            stream, batch_size=2, accumulate=2, length=2, unit="steps"
        ),  # parts of one video are checked
        manifest=Manifest.load(tiny_run / "extract" / "manifest.json"),
        extract_dir=tiny_run / "extract",
        out_dir=tmp_path,
        split="1",
        runtime=Runtime(device="cpu", tensorboard=False),
    )
    assert len(built_streams) == 1


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_operations_are_counted_without_values(stream):
    config = settings(stream)
    torch.manual_seed(0)
    network = build_stream(config.stream, num_classes=3)
    channels = 3 if stream == "spatial" else 10
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, channels, 32, 32))
    before = digest(network)
    assert flops_per_sample(network, config) == counter.get_total_flops() > 0
    assert digest(network) == before


def test_a_batch_norm_needs_more_than_one_value():
    learner = built(settings("spatial", crop_px=16, num_segments=2))
    before = digest(learner.network)
    require_enough_values(learner, num_samples=2)
    with pytest.raises(StinPipeError, match="2 segments of 16 px of a single video are too little"):
        require_enough_values(learner, num_samples=1)
    assert digest(learner.network) == before


@pytest.mark.parametrize(("backbone", "narrow"), [("resnet18-w8", True), ("resnet18-w16", False)])
def test_narrow_networks_keep_the_plain_layout_on_a_cpu(backbone: str, narrow: bool) -> None:
    """With AVX-512, oneDNN writes past its memory in their strided shortcuts if channels come last."""
    network = build_stream(SpatialConfig(backbone=backbone), num_classes=2)
    assert _is_narrow(network, torch.device("cpu")) == narrow
    assert not _is_narrow(network, torch.device("cuda"))
