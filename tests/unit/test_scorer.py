"""Scoring when memory is short, and in another precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stin_pipe.stin.clips.dataset import Batch
from stin_pipe.stin.network.model_file import ModelInfo, TrainedModel
from stin_pipe.stin.network.streams import build_stream
from stin_pipe.stin.scoring.scorer import Scorer, TestProtocol
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    config = override(resolve_recipe("small", "spatial"), backbone="resnet18-w8").stream
    torch.manual_seed(0)
    network = build_stream(config, num_classes=3).eval().requires_grad_(False)
    info = ModelInfo(
        stream=config, classes=("a", "b", "c"), num_segments=4, crop_px=32, flip=True, bound_px=4.0
    )
    return TrainedModel(network=network, info=info, digest="", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def sample() -> Batch:
    clips = np.random.default_rng(0).integers(0, 256, (10, 5, 3, 32, 32), np.uint8)
    return Batch(
        clips=torch.from_numpy(clips),
        labels=torch.tensor([0]),
        flow_zero=torch.zeros(1),
        flow_scale=torch.zeros(1),
        ids=("a/v.avi",),
        num_repeated=0,
    )


class Crowded(torch.nn.Module):
    """A network that has memory for so many crops at once."""

    def __init__(self, network, largest):
        super().__init__()
        self.network, self.largest, self.sizes = network, largest, []

    def forward(self, clips, **options):
        if len(clips) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(clips))
        return self.network(clips, **options)


def test_memory_that_runs_out_makes_passes_smaller_and_is_told(model, sample):
    protocol = TestProtocol(num_segments=5, num_crops=10)
    whole = Scorer(model, protocol, print).score_sample(sample)
    told = []
    crowded = Crowded(model.network, largest=4)
    scorer = Scorer(replace(model, network=crowded), protocol, told.append)
    found = scorer.score_sample(sample)
    np.testing.assert_allclose(found.logits, whole.logits, rtol=1e-4, atol=1e-6)
    assert crowded.sizes == [3, 3, 3, 1] and len(told) == 3  # 25 crops a pass, then 12, 6, 3
    assert told[-1].startswith("out of GPU memory: from now on 3 crops a pass")
    scorer.score_sample(sample)  # stays small: nothing is tried again
    assert crowded.sizes == 2 * [3, 3, 3, 1] and len(told) == 3


def test_a_crop_that_does_not_fit_is_named(model, sample):
    scorer = Scorer(
        replace(model, network=Crowded(model.network, largest=0)), TestProtocol(num_segments=5), print
    )
    with pytest.raises(StinPipeError) as caught:
        scorer.score_sample(sample)
    assert str(caught.value) == (
        "a/v.avi: the 5 clips of one crop do not fit into the GPU's memory; give fewer --segments, or "
        "--device cpu"
    )


def test_precision_is_that_of_the_protocol(model, sample):
    exact, rough = (
        Scorer(model, TestProtocol(num_segments=5, precision=precision), print).score_sample(sample).logits
        for precision in ("fp32", "bf16")
    )
    assert exact.dtype == rough.dtype == np.float32
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(exact, rough, atol=0.02)


def test_scores_that_are_not_finite_blame_the_model(model, sample):
    class Overflowing(torch.nn.Module):
        def forward(self, clips, **options):
            found = model.network(clips, **options)
            return replace(found, logits=found.logits * float("inf"))

    broken = replace(model, network=Overflowing())
    protocol = TestProtocol(num_segments=5, num_crops=10)
    with pytest.raises(StinPipeError, match=r"a/v\.avi: the spatial model's scores are not finite; train it"):
        Scorer(broken, protocol, print).score_sample(sample)
