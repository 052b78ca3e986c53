"""The configurations of the two streams: a network is built from one, and a model file holds it.

Only the abstract of STIN is the source (see ``streams``), so each guess is a field that can be changed.
"""

from dataclasses import dataclass
from typing import Literal

StreamName = Literal["spatial", "temporal"]
Tap = Literal["layer1", "layer2", "layer3", "layer4"]
TAPS: tuple[Tap, ...] = ("layer1", "layer2", "layer3", "layer4")
DifferenceForm = Literal["signed", "abs", "l2"]
AttentionForm = Literal["sagan", "nonlocal", "cbam"]

MIN_CROP_PX, MAX_CROP_PX = 16, 4096


@dataclass(frozen=True, kw_only=True)
class SpatialConfig:
    """The RGB stream.

    Attributes:
        name: which stream it is, for JSON.
        backbone: a name that ``backbones.build_backbone`` knows.
        difference: ``none`` is the plain stream; ``loss`` trains a head of the differences beside the main
            one; ``inject`` also adds the features of the differences to those of the frames.
        difference_form: see ``modules.segment_differences``.
        difference_channels: channels that features are reduced to before differences are taken.
        tap: the backbone's stage after which differences are taken and injected.
        dropout: before both heads.
        aux_weight: weight of the auxiliary loss, w_s.
        aux_at_test: weight of the auxiliary scores in the stream's score; 0 leaves them out.
    """

    name: Literal["spatial"] = "spatial"
    backbone: str = "resnet50"
    difference: Literal["none", "loss", "inject"] = "inject"
    difference_form: DifferenceForm = "signed"
    difference_channels: int = 128
    tap: Tap = "layer4"
    dropout: float = 0.8
    aux_weight: float = 0.5
    aux_at_test: float = 0.5

    def __post_init__(self) -> None:
        _check_shared(self.tap, self.dropout, self.aux_weight, self.aux_at_test)
        if self.difference_channels < 1:
            raise ValueError(f"difference_channels must be >= 1, got {self.difference_channels}")

    @property
    def is_plain(self) -> bool:
        """Whether the stream is that of a plain two-stream network, without STIN's module."""
        return self.difference == "none"


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """The flow stream.

    Attributes:
        name: which stream it is, for JSON.
        backbone: a name that ``backbones.build_backbone`` knows.
        stack_len: flow fields of one clip.
        attention: ``none`` is the plain stream; the other forms are in ``modules``.
        tap: the backbone's stage after which attention works.
        dropout: before both heads.
        aux_weight: weight of the auxiliary loss, w_t.
        aux_at_test: weight of the auxiliary scores in the stream's score; 0 leaves them out.
    """

    name: Literal["temporal"] = "temporal"
    backbone: str = "resnet50"
    stack_len: int = 5
    attention: AttentionForm | Literal["none"] = "sagan"
    tap: Tap = "layer4"
    dropout: float = 0.7
    aux_weight: float = 0.5
    aux_at_test: float = 0.0

    def __post_init__(self) -> None:
        _check_shared(self.tap, self.dropout, self.aux_weight, self.aux_at_test)
        if self.stack_len < 1:
            raise ValueError(f"stack_len must be >= 1, got {self.stack_len}")

    @property
    def is_plain(self) -> bool:
        """Whether the stream is that of a plain two-stream network, without STIN's module."""
        return self.attention == "none"


StreamConfig = SpatialConfig | TemporalConfig


def _check_shared(tap: str, dropout: float, aux_weight: float, aux_at_test: float) -> None:
    if tap not in TAPS:
        raise ValueError(f"tap must be one of {', '.join(TAPS)}, got {tap!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    for name, value in (("aux_weight", aux_weight), ("aux_at_test", aux_at_test)):
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
