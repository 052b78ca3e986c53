"""The spatial and the temporal injection network, and each without its injection.

The only source is the abstract of STIN (Signal, Image and Video Processing 17(4), 2023, DOI
10.1007/s11760-022-02324-x); everything below is a RECONSTRUCTION, and each guess is a field of the
configuration. ``difference="none"`` and ``attention="none"`` are the plain two-stream networks of TSN.

Shapes: clip_BKCHW holds B samples (one crop of one video each) of K segments; C is 3 for RGB and 2 *
stack_len for flow (x and y of each field in turn). Only batch norm, in training, mixes samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from stin_pipe.stin.network.auxiliary import with_auxiliary
from stin_pipe.stin.network.backbones import build_backbone
from stin_pipe.stin.network.config import SpatialConfig, StreamConfig, TemporalConfig
from stin_pipe.stin.network.modules import ApparentDifference, build_attention


@dataclass(frozen=True, kw_only=True)
class StreamOutput:
    """Logits of one forward pass, before softmax, averaged over the segments."""

    logits: torch.Tensor
    """(B, num_classes) of the main head."""
    aux_logits: torch.Tensor | None
    """(B, num_classes) of the auxiliary head; None in a plain stream."""
    maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """On request: ``differences`` (B, K - step, h, w), mean over channels of |D|; ``attention`` (B, K, h,
    w)."""


class SpatialStream(nn.Module):
    """Frames of K segments to class scores, with apparent differences injected."""

    def __init__(self, config: SpatialConfig, *, num_classes: int) -> None:
        super().__init__()
        self.config = config
        # The plain parts come first, so that one seed starts them equally with and without the injection.
        self.backbone = build_backbone(config.backbone, in_channels=3)
        self.head = _linear(self.backbone.num_features, num_classes)
        self.dropout = nn.Dropout(config.dropout)
        self.difference = self.aux_head = self.inject = None
        if config.difference != "none":
            tap_channels = self.backbone.tap_channels(config.tap)
            self.difference = ApparentDifference(
                tap_channels, channels=config.difference_channels, form=config.difference_form
            )
            self.aux_head = _linear(self.difference.num_features, num_classes)
        if self.difference is not None and config.difference == "inject":
            self.inject = nn.Conv2d(self.difference.num_features, tap_channels, 1, bias=False)
            nn.init.zeros_(self.inject.weight)

    def forward(
        self, clip_BKCHW: torch.Tensor, *, difference_step: int = 1, return_maps: bool = False
    ) -> StreamOutput:
        """Score clips; ``difference_step`` is the distance, in segments, of the compared features."""
        num_samples, num_segments = clip_BKCHW.shape[:2]
        x_NCHW = self.backbone.to_tap(clip_BKCHW.flatten(0, 1), self.config.tap)
        aux = None
        if self.difference is not None:
            aux = self.difference(x_NCHW.unflatten(0, (num_samples, num_segments)), step=difference_step)
            if self.inject is not None:
                # Segment k receives its difference to a later one; the last segments have none, and receive
                # the last difference.
                last = aux.features.shape[1] - 1
                source = torch.arange(num_segments, device=x_NCHW.device).clamp(max=last)
                injected_NCHW = self.inject(aux.features.flatten(0, 1)).unflatten(0, aux.features.shape[:2])
                x_NCHW = x_NCHW + injected_NCHW[:, source].flatten(0, 1)

        main_NC = self.backbone.from_tap(x_NCHW, self.config.tap).mean((2, 3))
        logits = self.head(self.dropout(main_NC)).unflatten(0, (num_samples, num_segments)).mean(1)
        if aux is None or self.aux_head is None:
            return StreamOutput(logits=logits, aux_logits=None)
        pooled_BKC = self.dropout(aux.features.mean((3, 4)))
        maps = {"differences": aux.differences.abs().mean(2)} if return_maps else {}
        return StreamOutput(logits=logits, aux_logits=self.aux_head(pooled_BKC).mean(1), maps=maps)


class TemporalStream(nn.Module):
    """Flow stacks of K segments to class scores, with self-attention over the positions of each clip."""

    def __init__(self, config: TemporalConfig, *, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, in_channels=2 * config.stack_len)
        self.head = _linear(self.backbone.num_features, num_classes)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = self.aux_head = self.gamma = None
        if config.attention != "none":
            tap_channels = self.backbone.tap_channels(config.tap)
            self.attention = build_attention(config.attention, tap_channels)
            self.gamma = nn.Parameter(torch.zeros(()))
            self.aux_head = _linear(tap_channels, num_classes)

    def forward(
        self, clip_BKCHW: torch.Tensor, *, difference_step: int = 1, return_maps: bool = False
    ) -> StreamOutput:
        """Score clips; ``difference_step`` is accepted, as by the spatial stream, and has no effect."""
        num_samples, num_segments = clip_BKCHW.shape[:2]
        x_NCHW = self.backbone.to_tap(clip_BKCHW.flatten(0, 1), self.config.tap)
        attended, tapped_NCHW = None, x_NCHW
        if self.attention is not None and self.gamma is not None:
            attended = self.attention(x_NCHW)
            x_NCHW = x_NCHW + self.gamma * attended.features

        main_NC = self.backbone.from_tap(x_NCHW, self.config.tap).mean((2, 3))
        logits = self.head(self.dropout(main_NC)).unflatten(0, (num_samples, num_segments)).mean(1)
        if attended is None or self.aux_head is None:
            return StreamOutput(logits=logits, aux_logits=None)

        # Features are pooled by the attention's weights, not by gamma's branch: so the attention learns where
        # to look from the first step on, while gamma is still zero.
        weights_NHW = attended.weights.to(tapped_NCHW.dtype)
        pooled_NC = (tapped_NCHW * weights_NHW[:, None]).sum((2, 3))
        aux_logits = self.aux_head(self.dropout(pooled_NC)).unflatten(0, (num_samples, num_segments)).mean(1)
        maps = {}
        if return_maps:
            maps["attention"] = attended.weights.unflatten(0, (num_samples, num_segments))
        return StreamOutput(logits=logits, aux_logits=aux_logits, maps=maps)


Stream = SpatialStream | TemporalStream


def build_stream(config: StreamConfig, *, num_classes: int) -> Stream:
    """Build a stream with random weights from torch's global generator."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2, got {num_classes}")
    if isinstance(config, SpatialConfig):
        return SpatialStream(config, num_classes=num_classes)
    return TemporalStream(config, num_classes=num_classes)


def stream_scores(output: StreamOutput, *, aux_at_test: float) -> torch.Tensor:
    """Return the score of each sample (B, num_classes); see ``with_auxiliary``."""
    return with_auxiliary(output.logits, output.aux_logits, share=aux_at_test)


def _linear(in_features: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(in_features, num_classes)
    # As in TSN: scores start near zero, so that the first loss is log(num_classes).
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer
