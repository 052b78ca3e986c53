"""Published numbers that belong beside ours, and how their protocol differs.

Top-1 in 0..1, on the official test lists, pretrained on ImageNet alone. STIN's own numbers are not among
them: only its abstract was at hand.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Scope = Literal["split 1", "mean of 3 splits"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a paper; a number that it does not give is None."""

    method: str
    scope: Scope
    spatial: float | None
    temporal: float | None
    fused: float | None
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


_TSN = "TSN, BN-Inception, 3 segments"
_TSN_SOURCE = (
    "Wang et al., Temporal Segment Networks, ECCV 2016; single splits: the authors' reference results"
)
_OFF = "OFF, BN-Inception"
_OFF_SOURCE = "Sun et al., Optical Flow Guided Feature, CVPR 2018"
_I3D = "I3D, ImageNet alone"
_I3D_SOURCE = "Carreira and Zisserman, Quo Vadis, CVPR 2017"


def _row(method: str, scope: Scope, source: str, *shares: float | None) -> Published:
    spatial, temporal, fused = shares
    return Published(
        method=method, scope=scope, spatial=spatial, temporal=temporal, fused=fused, source=source
    )


_ROWS: Mapping[str, tuple[Published, ...]] = {
    "ucf101": (
        _row(_TSN, "split 1", _TSN_SOURCE, 0.855, 0.876, 0.935),
        _row(_TSN, "mean of 3 splits", _TSN_SOURCE, 0.851, 0.897, 0.940),
        _row(_OFF, "mean of 3 splits", _OFF_SOURCE, None, None, 0.960),
        _row(_I3D, "split 1", _I3D_SOURCE, 0.845, 0.906, 0.934),
    ),
    "hmdb51": (
        _row(_TSN, "split 1", _TSN_SOURCE, 0.544, 0.624, 0.695),
        _row(_TSN, "mean of 3 splits", _TSN_SOURCE, 0.510, 0.632, 0.685),
        _row(_OFF, "mean of 3 splits", _OFF_SOURCE, None, None, 0.742),
        _row(_I3D, "split 1", _I3D_SOURCE, 0.498, 0.619, 0.664),
    ),
}


def published(dataset: str, scope: Scope) -> tuple[Published, ...]:
    """Return the published rows of one data set, of this scope alone: a mean belongs beside a mean."""
    return tuple(row for row in _ROWS.get(dataset, ()) if row.scope == scope)


def differences(
    *, backbones: Mapping[str, str], num_segments: int, num_crops: int, num_held_out: int
) -> tuple[str, ...]:
    """Say how our protocol differs from TSN's.

    Args:
        backbones: stream -> backbone of its model.
        num_segments: clips of a test video.
        num_crops: views of a clip.
        num_held_out: videos of the training list that were not trained on.
    """
    ours = ", ".join(f"{stream} {name}" for stream, name in backbones.items())
    sentences = [f"TSN's backbone is BN-Inception with ImageNet weights; here: {ours or 'scores from files'}"]
    if (num_segments, num_crops) != (25, 10):
        sentences.append(f"TSN tests 25 clips in 10 crops; here {num_segments} in {num_crops}")
    sentences.append(
        "TSN's flow is OpenCV's CUDA TV-L1; here it is this program's own, which solves the same "
        "equations and stores zero motion exactly"
    )
    if num_held_out:
        sentences.append(
            f"TSN trains on the whole training list; here {num_held_out} of its videos are held out "
            "(--val-share)"
        )
    sentences.append(
        "a single stream on one split varies from training to training; papers compare the fused mean of "
        "three splits"
    )
    return tuple(sentences)
