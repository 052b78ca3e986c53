"""Which frames and fields are chosen: hand tables for the policies, properties for all counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.stin.clips.sampling import (
    epoch_order,
    evenly_spaced_starts,
    flow_stacks,
    sample_generator,
    training_starts,
)

COUNTS = {
    "num_items": st.integers(1, 400),
    "clip_len": st.integers(1, 12),
    "num_segments": st.integers(1, 30),
}


@given(seed=st.integers(0, 2**31), **COUNTS)
def test_training_starts_stay_in_their_parts(seed, num_items, clip_len, num_segments):
    generator = np.random.default_rng(seed)
    starts = training_starts(
        num_items=num_items, clip_len=clip_len, num_segments=num_segments, generator=generator
    )
    num_starts = max(1, num_items - clip_len + 1)
    assert starts.shape == (num_segments,)
    assert (np.diff(starts) >= 0).all()
    for k, start in enumerate(starts):
        first = k * num_starts // num_segments
        assert first <= start <= max(first, (k + 1) * num_starts // num_segments - 1)


@given(**COUNTS)
def test_evenly_spaced_starts_are_symmetric_in_time(num_items, clip_len, num_segments):
    starts = evenly_spaced_starts(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    last = max(0, num_items - clip_len)
    assert starts.min() >= 0 and starts.max() <= last
    assert (np.diff(starts) >= 0).all()
    # Reversed time gives the mirrored starts, up to the one place that rounding moves a middle.
    assert np.abs((last - starts)[::-1] - starts).max() <= 1


@pytest.mark.parametrize(
    ("num_items", "clip_len", "num_segments", "expected"),
    [
        (9, 1, 3, [1, 4, 7]),  # the middle of each third
        (10, 1, 1, [5]),
        (25, 1, 25, list(range(25))),
        (3, 1, 6, [0, 0, 1, 1, 2, 2]),  # fewer frames than segments: neighbours share one
        (5, 5, 3, [0, 0, 0]),  # exactly one stack fits
        (2, 5, 3, [0, 0, 0]),  # shorter than a stack
        (1, 5, 1, [0]),
    ],
)
def test_evenly_spaced_starts_by_hand(num_items, clip_len, num_segments, expected):
    starts = evenly_spaced_starts(num_items=num_items, clip_len=clip_len, num_segments=num_segments)
    assert starts.tolist() == expected


def test_training_draws_reach_every_start_of_every_part():
    generator = np.random.default_rng(0)
    drawn = np.array(
        [training_starts(num_items=11, clip_len=1, num_segments=3, generator=generator) for _ in range(500)]
    )
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]


def test_stacks_repeat_the_last_field_and_say_how_often():
    stacks = flow_stacks(starts=np.array([0, 0]), stack_len=5, num_fields=3)
    assert stacks.indices.tolist() == [[0, 1, 2, 2, 2]] * 2
    assert stacks.num_repeated == 4
    whole = flow_stacks(starts=np.array([0, 3]), stack_len=5, num_fields=8)
    assert whole.indices.tolist() == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]
    assert whole.num_repeated == 0


def test_generator_depends_on_every_argument_and_on_nothing_else():
    base = {"seed": 3, "epoch": 5, "sample_id": "a/b.avi", "view": 0}
    first = sample_generator(**base).random(4)
    sample_generator(seed=9, epoch=9, sample_id="other").random(100)
    assert (sample_generator(**base).random(4) == first).all()
    for name, other in {"seed": 4, "epoch": 6, "sample_id": "a/c.avi", "view": 1}.items():
        assert (sample_generator(**{**base, name: other}).random(4) != first).any(), name


def test_generator_takes_names_that_are_not_utf8():
    name = b"class/\xff.avi".decode("utf-8", "surrogateescape")
    assert 0 <= sample_generator(seed=0, epoch=0, sample_id=name).random() < 1


def test_epoch_order_is_a_permutation_that_changes_with_the_epoch():
    first, second = (epoch_order(num_samples=50, seed=1, epoch=epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("name", ["num_items", "clip_len", "num_segments"])
def test_counts_below_one_are_refused_by_name(name):
    counts = {"num_items": 5, "clip_len": 1, "num_segments": 3, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        evenly_spaced_starts(**counts)


def test_starts_outside_the_video_are_refused():
    with pytest.raises(ValueError, match=r"starts must lie in 0\.\.4, got 0\.\.5"):
        flow_stacks(starts=np.array([0, 5]), stack_len=2, num_fields=5)
