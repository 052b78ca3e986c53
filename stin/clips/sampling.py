"""Which frames and flow fields of a video a stream looks at.

Pure functions of counts: they know neither shards nor tensors, and each returns the indices it chose, so that
a caller can show them. A *segment* is one of K equal parts of a video; a *clip* is what one segment
yields: one frame, or a stack of ``stack_len`` consecutive flow fields. Field i is the motion from frame i to
frame i + 1, so a video of T frames has T - 1 fields.
"""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class FlowStacks:
    """The fields of K flow stacks, and how many of them are repeated."""

    indices: np.ndarray
    """int64 (K, stack_len), field indices in 0..num_fields-1, never decreasing within a stack."""
    num_repeated: int
    """How many of the K * stack_len entries repeat the last field because the video is shorter than a
    stack."""


def sample_generator(*, seed: int, epoch: int, sample_id: str, view: int = 0) -> np.random.Generator:
    """Make the generator that decides everything random about one sample in one epoch.

    It depends only on its arguments: not on the process, the worker, the batch or what was drawn before. So a
    resumed training sees the very same clips and crops.
    """
    key = f"{seed}\n{epoch}\n{view}\n{sample_id}".encode("utf-8", "surrogateescape")
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little"))


def training_starts(
    *, num_items: int, clip_len: int, num_segments: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw one clip start from each of ``num_segments`` equal parts of the possible starts.

    Args:
        num_items: frames or fields in the video, >= 1.
        clip_len: items of one clip, >= 1.
        num_segments: K, >= 1.
        generator: from ``sample_generator``.

    Returns:
        int64 (K,), never decreasing, each in 0..max(0, num_items - clip_len). Where there are fewer starts
        than segments, neighbouring segments share one.

    Raises:
        ValueError: for a count below 1.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016, section 3.1.
    Differs: the usual code cuts parts of floor(n / K) starts, and so never draws the last n mod K starts;
    here the parts cover all starts and differ in size by at most one.
    """
    first, end = _part_bounds(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    # An empty part (fewer starts than segments) takes the start where it would begin. It draws all the same,
    # so that later draws from this generator do not depend on the length of the video.
    width = np.maximum(end - first, 1)
    return first + np.floor(generator.random(num_segments) * width).astype(np.int64)


def evenly_spaced_starts(*, num_items: int, clip_len: int, num_segments: int) -> np.ndarray:
    """Return the middle start of each of ``num_segments`` equal parts: int64 (K,), never decreasing.

    Raises:
        ValueError: for a count below 1.
    """
    num_starts = _num_starts(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    return ((2 * np.arange(num_segments, dtype=np.int64) + 1) * num_starts) // (2 * num_segments)


def flow_stacks(*, starts: np.ndarray, stack_len: int, num_fields: int) -> FlowStacks:
    """Expand stack starts to field indices; where a stack runs past the end, the last field is repeated.

    Raises:
        ValueError: if ``num_fields`` or ``stack_len`` is below 1, or a start lies outside 0..num_fields-1.
    """
    _require_positive(num_fields=num_fields, stack_len=stack_len)
    if starts.size and (starts.min() < 0 or starts.max() >= num_fields):
        raise ValueError(
            f"starts must lie in 0..{num_fields - 1}, got {int(starts.min())}..{int(starts.max())}"
        )
    fields = starts[:, None] + np.arange(stack_len, dtype=np.int64)[None, :]
    return FlowStacks(
        indices=np.minimum(fields, num_fields - 1),
        num_repeated=int((fields >= num_fields).sum()),
    )


def epoch_order(*, num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation in which one epoch visits the samples: int64 (num_samples,)."""
    return sample_generator(seed=seed, epoch=epoch, sample_id="\0order").permutation(num_samples)


def _part_bounds(*, num_items: int, clip_len: int, num_segments: int) -> tuple[np.ndarray, np.ndarray]:
    num_starts = _num_starts(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    edges = (np.arange(num_segments + 1, dtype=np.int64) * num_starts) // num_segments
    return edges[:-1], edges[1:]


def _num_starts(*, num_items: int, clip_len: int, num_segments: int) -> int:
    _require_positive(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    return max(1, num_items - clip_len + 1)


def _require_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
