"""Residual networks with torchvision's parameter names, so that its weight files load by path.

torchvision itself is not a dependency: its plain wheel cannot be imported beside a CPU-only torch. A backbone
ends at its last feature map, to which the streams add their own heads. It runs in two halves, so that a
stream can look at, and add to, the features between them: ``to_tap(x)``, then ``from_tap(features)``.

Names: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``; a suffix ``-w32`` sets the width of the first
stage (64 in the published ones), for training from scratch on small data; ``timm:NAME`` takes a model of
timm, if it is installed.

Source: He et al., Deep residual learning, CVPR 2016, table 1. As in torchvision, the stride of a bottleneck
is in its 3x3 convolution ("v1.5").
"""

import re

import torch
from torch import nn

from stin_pipe.stin.network.config import TAPS, Tap
from stin_pipe.stin.shards.errors import ArgumentError

_BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
_BOTTLENECK = ("resnet50", "resnet101")
KNOWN_BACKBONES = tuple(_BLOCKS)
_RESNET_NAME = r"(resnet\d+)(?:-w(\d{1,4}))?"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride=stride)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return (N, channels, h, w) at 1 / stride of the size."""
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        y_NCHW = torch.relu(self.bn1(self.conv1(x_NCHW)))
        return torch.relu(self.bn2(self.conv2(y_NCHW)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride=stride)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return (N, 4 * channels, h, w) at 1 / stride of the size."""
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        y_NCHW = torch.relu(self.bn1(self.conv1(x_NCHW)))
        y_NCHW = torch.relu(self.bn2(self.conv2(y_NCHW)))
        return torch.relu(self.bn3(self.conv3(y_NCHW)) + shortcut)


class ResNet(nn.Module):
    """A residual network; with ``num_classes``, it has torchvision's final layer ``fc``."""

    def __init__(
        self, name: str, *, in_channels: int = 3, width: int = 64, num_classes: int | None = None
    ) -> None:
        super().__init__()
        block = Bottleneck if name in _BOTTLENECK else BasicBlock
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

        channels_in = width
        self._tap_channels: dict[str, int] = {}
        for stage, num_blocks in enumerate(_BLOCKS[name]):
            channels = width << stage
            blocks = []
            for index in range(num_blocks):
                blocks.append(block(channels_in, channels, stride=2 if stage and index == 0 else 1))
                channels_in = channels * block.expansion
            self.add_module(TAPS[stage], nn.Sequential(*blocks))
            self._tap_channels[TAPS[stage]] = channels_in

        self.num_features = channels_in
        self.fc = None if num_classes is None else nn.Linear(channels_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def tap_channels(self, tap: Tap) -> int:
        """Return the channels of the features at the end of a stage."""
        return self._tap_channels[tap]

    def to_tap(self, x_NCHW: torch.Tensor, tap: Tap) -> torch.Tensor:
        """Run from the input to the end of stage ``tap``."""
        y_NCHW = self.maxpool(torch.relu(self.bn1(self.conv1(x_NCHW))))
        for stage in TAPS[: TAPS.index(tap) + 1]:
            y_NCHW = self.get_submodule(stage)(y_NCHW)
        return y_NCHW

    def from_tap(self, features_NCHW: torch.Tensor, tap: Tap) -> torch.Tensor:
        """Run from the end of stage ``tap`` to the last feature map."""
        for stage in TAPS[TAPS.index(tap) + 1 :]:
            features_NCHW = self.get_submodule(stage)(features_NCHW)
        return features_NCHW

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the last feature map, or the logits where the network has its ``fc``."""
        features_NCHW = self.to_tap(x_NCHW, "layer4")
        return features_NCHW if self.fc is None else self.fc(features_NCHW.mean((2, 3)))


class TimmBackbone(nn.Module):
    """A model of timm up to its last feature map; its end is the only tap, named ``layer4``."""

    def __init__(self, name: str, *, in_channels: int) -> None:
        super().__init__()
        try:
            import timm  # pyright: ignore[reportMissingImports]
        except Exception as error:
            raise ValueError(
                f"backbone timm:{name} needs timm, which cannot be imported ({error}); install a timm and "
                f"torchvision that fit torch {torch.__version__}, or take one of {', '.join(KNOWN_BACKBONES)}"
            ) from error
        self.body = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool="", in_chans=in_channels
        )
        self.num_features = int(self.body.num_features)

    def tap_channels(self, tap: Tap) -> int:
        """Return the channels of the last feature map."""
        if tap != "layer4":
            raise ValueError(f"a timm backbone can be tapped only at layer4, got {tap}")
        return self.num_features

    def to_tap(self, x_NCHW: torch.Tensor, tap: Tap) -> torch.Tensor:
        """Run the whole model."""
        features = self.body.forward_features(x_NCHW)
        if features.ndim != 4 or features.shape[1] != self.num_features:
            raise ValueError(
                f"a backbone must end in features (N, {self.num_features}, h, w), "
                f"this one returns {tuple(features.shape)}"
            )
        return features

    def from_tap(self, features_NCHW: torch.Tensor, tap: Tap) -> torch.Tensor:
        """Return the features as they are."""
        return features_NCHW


def check_backbone_name(name: str) -> None:
    """Refuse a name that ``build_backbone`` does not know, before any work starts.

    Raises:
        ValueError: lists the known names.
    """
    match = re.fullmatch(_RESNET_NAME, name)
    is_resnet = match is not None and match[1] in _BLOCKS and int(match[2] or 64) > 0
    if not is_resnet and not name.startswith("timm:"):
        raise ArgumentError(
            f"unknown backbone {name!r}; known: {', '.join(KNOWN_BACKBONES)}, each also with a first-stage "
            f"width as in resnet18-w32, and timm:NAME where timm is installed",
            "backbone",
        )


def build_backbone(name: str, *, in_channels: int) -> ResNet | TimmBackbone:
    """Build the backbone of this name for inputs of ``in_channels`` (3, or 2 * stack_len for flow).

    Raises:
        ValueError: if the name is unknown, or timm cannot be imported.
    """
    check_backbone_name(name)
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"), in_channels=in_channels)
    match = re.fullmatch(_RESNET_NAME, name)
    assert match is not None, name
    return ResNet(match[1], in_channels=in_channels, width=int(match[2] or 64))


def _shortcut(in_channels: int, channels: int, *, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
