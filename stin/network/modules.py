"""The two modules that make a stream a STIN stream: apparent difference and self-attention.

Both are reconstructions from the abstract of the STIN paper (see ``streams``); each choice is an argument.

Shapes: B samples (one crop of one video each), K segments, C channels, h x w positions of a feature map, P of
them in all.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stin_pipe.stin.network.config import AttentionForm, DifferenceForm

L2_SMOOTH = 1e-2
"""In the ``l2`` form, differences far below this count as zero; after batch norm, features are of order 1."""


def segment_differences(z_BKCHW: torch.Tensor, *, form: DifferenceForm, step: int = 1) -> torch.Tensor:
    """Return the differences of segments ``step`` apart, within each sample.

    Args:
        z_BKCHW: features of the K segments, in order of time.
        form: ``signed`` is z[k + step] - z[k]; ``abs`` its absolute value; ``l2`` its length over the
            channels (one channel). Only ``signed`` changes sign when time runs backwards.
        step: distance in segments, 1..K-1.

    Returns:
        (B, K - step, C or 1, h, w).

    Raises:
        ValueError: if ``step`` is not in 1..K-1.
    """
    num_segments = z_BKCHW.shape[1]
    if not 1 <= step < num_segments:
        raise ValueError(f"step must be in 1..{num_segments - 1} for {num_segments} segments, got {step}")
    difference = z_BKCHW[:, step:] - z_BKCHW[:, :-step]
    if form == "abs":
        return difference.abs()
    if form == "l2":
        # A length that is smooth at zero, and exactly 0 there. The gradient of the plain length has length 1
        # however small the difference is: frames that differ only by rounding would push the weights at
        # random.
        squares = difference.square().sum(2, keepdim=True)
        return squares / ((squares + L2_SMOOTH**2).sqrt() + L2_SMOOTH)
    return difference


@dataclass(frozen=True, kw_only=True)
class DifferenceFeatures:
    """Output of the apparent-difference module for K segments."""

    differences: torch.Tensor
    """(B, K - step, D, h, w), D channels of Z or 1."""
    features: torch.Tensor
    """(B, K - step, D', h, w), the output of the residual block."""


class ApparentDifference(nn.Module):
    """Differences of reduced features between segments, refined by one 3x3 residual block.

    Z_k = ReLU(BN(conv1x1(X_k))); D_k = Z_{k+1} - Z_k; A_k = residual block of D_k.

    Source: our reading of the STIN abstract; reduction to 128 channels and the refinement are after OFF (Sun
    et al., Optical flow guided feature, CVPR 2018).
    """

    def __init__(self, in_channels: int, *, channels: int, form: DifferenceForm) -> None:
        super().__init__()
        self.form: DifferenceForm = form
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        difference_channels = 1 if form == "l2" else channels
        self.body = nn.Sequential(
            nn.Conv2d(difference_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.num_features = channels

    def forward(self, x_BKCHW: torch.Tensor, *, step: int = 1) -> DifferenceFeatures:
        """Compute differences ``step`` segments apart and their features."""
        z_BKCHW = torch.relu(self.reduce(x_BKCHW.flatten(0, 1))).unflatten(0, x_BKCHW.shape[:2])
        d_BKCHW = segment_differences(z_BKCHW, form=self.form, step=step)
        flat_NCHW = d_BKCHW.flatten(0, 1)
        a_NCHW = torch.relu(flat_NCHW + self.body(flat_NCHW))  # the one channel of l2 is broadcast
        return DifferenceFeatures(differences=d_BKCHW, features=a_NCHW.unflatten(0, d_BKCHW.shape[:2]))


@dataclass(frozen=True, kw_only=True)
class Attended:
    """Output of an attention module for a feature map."""

    features: torch.Tensor
    """(N, C, h, w), added to the features, times gamma."""
    weights: torch.Tensor
    """(N, h, w), how much each position is attended to; sums to 1 over the positions of a clip."""


class SelfAttention(nn.Module):
    """Every position of a feature map attends to every other position of the same clip.

    Args:
        channels: C of the features.
        form: ``sagan`` has keys of C / 8 channels, values of C and no scaling; ``nonlocal`` (embedded
            Gaussian) has C / 2 for all, scaled by 1 / sqrt of that, and a 1x1 convolution back to C.

    Source: Zhang et al., Self-attention GAN, 2019, eq. 1-2; Wang et al., Non-local networks, CVPR 2018, eq.
    6.
    Differs: the non-local form is scaled as in Transformers, because unscaled products of an untrained
    network's features saturate the softmax; gamma lets it start at zero, not its last layer.
    """

    def __init__(self, channels: int, *, form: Literal["sagan", "nonlocal"]) -> None:
        super().__init__()
        key_channels = max(1, channels // (8 if form == "sagan" else 2))
        value_channels = channels if form == "sagan" else key_channels
        self.query = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, value_channels, 1, bias=False)
        self.project = (
            nn.Identity() if form == "sagan" else nn.Conv2d(value_channels, channels, 1, bias=False)
        )
        self.scale = 1.0 if form == "sagan" else key_channels**-0.5

    def forward(self, x_NCHW: torch.Tensor) -> Attended:
        """Attend within each clip."""
        query_NPC = self.query(x_NCHW).flatten(2).transpose(1, 2)
        key_NCP = self.key(x_NCHW).flatten(2)
        value_NPC = self.value(x_NCHW).flatten(2).transpose(1, 2)
        likeness_NPP = (query_NPC @ key_NCP) * self.scale
        wide = torch.promote_types(likeness_NPP.dtype, torch.float32)  # half precision would round the sums
        attention_NPP = torch.softmax(likeness_NPP, dim=2, dtype=wide)
        mixed_NCP = (attention_NPP.to(value_NPC.dtype) @ value_NPC).transpose(1, 2)
        features_NCHW = self.project(mixed_NCP.unflatten(2, x_NCHW.shape[2:]))
        # The weight of a position is the attention it receives, averaged over all positions.
        return Attended(features=features_NCHW, weights=attention_NPP.mean(1).unflatten(1, x_NCHW.shape[2:]))


class ConvolutionalAttention(nn.Module):
    """Channel gates, then a gate for each position (CBAM): attention without pairs of positions.

    Source: Woo et al., CBAM, ECCV 2018, eq. 1-3.
    Differs: the output is added to the features times gamma, like that of the other forms, so that it starts
    at zero.
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_px: int = 7) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.channel_gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        self.place_gate = nn.Conv2d(2, 1, kernel_px, padding=kernel_px // 2)

    def forward(self, x_NCHW: torch.Tensor) -> Attended:
        """Gate the channels, then the positions."""
        gates_NC11 = self.channel_gate(x_NCHW.mean((2, 3), keepdim=True)) + self.channel_gate(
            x_NCHW.amax((2, 3), keepdim=True)
        )
        gated_NCHW = x_NCHW * torch.sigmoid(gates_NC11)
        summary_N2HW = torch.cat([gated_NCHW.mean(1, keepdim=True), gated_NCHW.amax(1, keepdim=True)], dim=1)
        places_N1HW = torch.sigmoid(self.place_gate(summary_N2HW))
        weights_NHW = places_N1HW[:, 0] / places_N1HW[:, 0].sum((1, 2), keepdim=True)
        return Attended(features=gated_NCHW * places_N1HW, weights=weights_NHW)


def build_attention(form: AttentionForm, channels: int) -> SelfAttention | ConvolutionalAttention:
    """Build the attention of this form."""
    return ConvolutionalAttention(channels) if form == "cbam" else SelfAttention(channels, form=form)
