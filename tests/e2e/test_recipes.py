"""The TSN recipes run as they are on tiny shards, from scratch and from ImageNet-like weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from stin_pipe.stin.network.backbones import ResNet
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime, train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe


def two_steps(run, out, recipe, stream, **changes):
    """Train two steps of a recipe, everything else as it is; return result, log and weights."""
    settings = override(resolve_recipe(recipe, stream), length=2, log_every_steps=1, **changes)
    result = train_stream(
        settings,
        manifest=Manifest.load(run / "extract" / "manifest.json"),
        extract_dir=run / "extract",
        out_dir=out,
        split="1",
        runtime=Runtime(device="cpu", tensorboard=False),
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return result, [line for line in lines if line["kind"] == "train"], load_file(out / "model.safetensors")


def imagenet_like(path, name, width):
    torch.manual_seed(7)
    network = ResNet(name, width=width, num_classes=1000)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), path)
    return {f"backbone.{key}": value for key, value in network.state_dict().items()}


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
@pytest.mark.parametrize("recipe", ["tsn-ucf101", "tsn-hmdb51"])
def test_two_steps_from_scratch_and_from_weights(tiny_run, tmp_path, recipe, stream):
    rate = {"spatial": 1e-3, "temporal": 5e-3}[stream]
    result, lines, weights = two_steps(tiny_run, tmp_path / "scratch", recipe, stream, backbone="resnet18-w8")
    assert (result.steps, result.recipe, result.num_train) == (2, recipe, 11)  # one is held out
    assert [line["lr"] for line in lines] == [rate, pytest.approx(rate / 10)]  # two of two steps: one drop
    assert weights["backbone.layer1.0.bn1.running_mean"].abs().max() > 0  # all norms learn from scratch

    published = imagenet_like(tmp_path / "weights.pth", "resnet18", 8)
    result, lines, weights = two_steps(
        tiny_run,
        tmp_path / "pretrained",
        recipe,
        stream,
        backbone="resnet18-w8",
        init=str(tmp_path / "weights.pth"),
    )
    assert result.steps == 2 and len(lines) == 2
    assert any("initialised at random" in notice for notice in result.notices)
    # All norms but the first stay as they were pretrained; convolutions learn.
    frozen = [key for key in published if ".bn" in key and "backbone.bn1" not in key and "num_" not in key]
    assert len(frozen) == 16 * 4
    for key in frozen:
        assert torch.equal(weights[key], published[key]), key
    assert not torch.equal(weights["backbone.bn1.running_mean"], published["backbone.bn1.running_mean"])
    assert not torch.equal(
        weights["backbone.layer4.1.conv2.weight"], published["backbone.layer4.1.conv2.weight"]
    )
    first = weights["backbone.conv1.weight"]
    assert first.shape[1] == (3 if stream == "spatial" else 10)
    if stream == "temporal":
        mean = published["backbone.conv1.weight"].mean(1, keepdim=True)
        torch.testing.assert_close(first, mean.expand_as(first), rtol=0, atol=0.05)


@pytest.mark.slow
def test_the_recipe_of_ucf101_with_its_own_backbone(tiny_run, tmp_path):
    imagenet_like(tmp_path / "resnet50.pth", "resnet50", 64)
    result, lines, _ = two_steps(
        tiny_run, tmp_path / "out", "tsn-ucf101", "spatial", init=str(tmp_path / "resnet50.pth")
    )
    assert result.steps == 2
    # ResNet-50 without fc, three classes, and the difference module with its head and injection.
    assert result.num_parameters > 23_508_032
    assert all(line["grad_norm"] > 0 for line in lines)
    assert result.flops_per_sample > 3 * 80e6
