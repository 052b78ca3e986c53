"""Our residual networks are torchvision's: names, shapes, counts; and their halves join without a seam."""

import pytest
import torch

from stin_pipe.stin.network.backbones import ResNet, build_backbone
from stin_pipe.stin.network.config import TAPS

# From the papers' tables and torchvision's documentation of its pretrained weights (1000 classes, 3
# channels).
PUBLISHED_COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_parameter_counts_are_the_published_ones(name):
    network = ResNet(name, num_classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED_COUNTS[name]


# Entries of torchvision's state dictionaries, written down by hand: a few of each kind, and how many there
# are.
@pytest.mark.parametrize(
    ("name", "num_entries", "shapes"),
    [
        (
            "resnet18",
            122,
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_var": (64,),
                "layer1.0.conv1.weight": (64, 64, 3, 3),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer2.0.downsample.1.running_mean": (128,),
                "layer4.1.conv2.weight": (512, 512, 3, 3),
                "layer4.1.bn2.num_batches_tracked": (),
                "fc.weight": (1000, 512),
            },
        ),
        ("resnet34", 218, {"layer3.5.conv2.weight": (256, 256, 3, 3), "layer2.3.bn1.weight": (128,)}),
        (
            "resnet50",
            320,
            {
                "layer1.0.conv1.weight": (64, 64, 1, 1),
                "layer1.0.conv3.weight": (256, 64, 1, 1),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer4.2.bn3.bias": (2048,),
                "fc.weight": (1000, 2048),
            },
        ),
        ("resnet101", 626, {"layer3.22.conv3.weight": (1024, 256, 1, 1)}),
    ],
)
def test_state_dictionaries_are_torchvisions(name, num_entries, shapes):
    state = ResNet(name, num_classes=1000).state_dict()
    assert len(state) == num_entries
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape, key


def test_strides_are_torchvisions():
    network = build_backbone("resnet50", in_channels=3)
    strides = [module.stride[0] for module in network.layer2[0].modules() if hasattr(module, "stride")]
    assert strides == [1, 2, 1, 2]  # conv1, conv2 (the 3x3), conv3, downsample
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 2048, 2, 3)


BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


def published_entries(name, width=64):
    """All entries of torchvision's state dictionary without fc, written from the paper's table 1."""
    wide = name in ("resnet50", "resnet101")

    def norm(at, channels):
        sizes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
        return {f"{at}.{part}": size for part, size in (sizes | {"num_batches_tracked": ()}).items()}

    found = {"conv1.weight": (width, 3, 7, 7), **norm("bn1", width)}
    given = width
    for stage, count in enumerate(BLOCKS[name]):
        inner = width * 2**stage
        made = 4 * inner if wide else inner
        for block in range(count):
            at = f"layer{stage + 1}.{block}"
            kernels = ((inner, given, 1), (inner, inner, 3), (made, inner, 1))
            kernels = kernels if wide else ((inner, given, 3), (inner, inner, 3))
            for number, (out, into, size) in enumerate(kernels, start=1):
                found[f"{at}.conv{number}.weight"] = (out, into, size, size)
                found |= norm(f"{at}.bn{number}", out)
            if given != made or (block == 0 and stage):
                found[f"{at}.downsample.0.weight"] = (made, given, 1, 1)
                found |= norm(f"{at}.downsample.1", made)
            given = made
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_every_entry_has_the_published_name_and_shape(name):
    with torch.device("meta"):
        state = build_backbone(name, in_channels=3).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_entries(name)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_plain_second_writing_gives_the_same_output(name):
    torch.manual_seed(0)
    network = ResNet(name, width=8, num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 64, 64)
    state = network.state_dict()
    wide = name in ("resnet50", "resnet101")

    def conv(y, at, stride):
        weight = state[f"{at}.weight"]
        return torch.nn.functional.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(y, at):
        shape = (1, -1, 1, 1)
        mean, var, weight, bias = (
            state[f"{at}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / torch.sqrt(var + 1e-5) * weight + bias

    y = torch.relu(norm(conv(x, "conv1", 2), "bn1"))
    y = torch.nn.functional.max_pool2d(y, 3, 2, 1)
    for stage, count in enumerate(BLOCKS[name], start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            strides = (1, stride, 1) if wide else (stride, 1)
            inner = y
            for number, step in enumerate(strides, start=1):
                inner = norm(conv(inner, f"{at}.conv{number}", step), f"{at}.bn{number}")
                inner = torch.relu(inner) if number < len(strides) else inner
            if f"{at}.downsample.0.weight" in state:
                y = norm(conv(y, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            y = torch.relu(inner + y)
    expected = y.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18-w8", "resnet50-w8"])
def test_the_halves_join_at_every_tap(name):
    torch.manual_seed(0)
    network = build_backbone(name, in_channels=10).eval()
    x = torch.randn(2, 10, 32, 32)
    for tap in TAPS:
        features = network.to_tap(x, tap)
        assert features.shape[1] == network.tap_channels(tap)
        assert torch.equal(network.from_tap(features, tap), network(x))
    assert network(x).shape[1] == network.num_features


def test_width_scales_every_layer():
    # Without fc the full network has 11,176,512 parameters: 9,600 of norms and 9,408 of conv1, which halve,
    # and convolutions between layers, of which a quarter remains.
    narrow_count = 9_600 // 2 + 9_408 // 2 + (11_176_512 - 9_600 - 9_408) // 4
    narrow = build_backbone("resnet18-w32", in_channels=3)
    assert sum(parameter.numel() for parameter in narrow.parameters()) == narrow_count
    assert narrow.num_features == 256


@pytest.mark.parametrize("name", ["resnet19", "resnet18-w0", "vgg16", ""])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown backbone .*resnet18, resnet34, resnet50, resnet101"):
        build_backbone(name, in_channels=3)


def test_timm_gives_its_features_or_one_clear_error():
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):  # the latter from a torchvision that does not fit torch
        with pytest.raises(ValueError, match="backbone timm:resnet18 needs timm"):
            build_backbone("timm:resnet18", in_channels=3)
    else:
        network = build_backbone("timm:resnet18", in_channels=10)
        assert network.to_tap(torch.zeros(1, 10, 64, 64), "layer4").shape[1] == network.num_features
