"""Intervals: against published formulas elsewhere, at the edges, and by simulation."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from stin_pipe.stin.results.comparison import compare_drawn, recording_numbers
from stin_pipe.stin.results.intervals import (
    difference_interval,
    exact_mcnemar,
    resample,
    share_interval,
    worth_by_class,
)


@given(right=st.integers(0, 60), more=st.integers(0, 60))
def test_without_a_bootstrap_it_is_wilson(right, more):
    num = right + more
    if num == 0:
        return
    expected = binomtest(right, num).proportion_ci(method="wilson")
    found = share_interval(right / num, standard_error=0.0, largest_n=num)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)


@given(first=st.integers(0, 200), second=st.integers(0, 200))
def test_mcnemar_is_the_sign_test(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert exact_mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert exact_mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64)
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(3, 3) == 1.0
    assert exact_mcnemar(2000, 10) < 1e-300


def test_bootstrap_errors_are_the_formula_s_for_independent_videos():
    rng = np.random.default_rng(3)
    right = (rng.random(400) < 0.7).astype(float)
    labels = np.arange(400) % 4
    drawn = resample(right[:, None], labels, np.arange(400), num_resamples=4000)
    assert drawn.overall.mean() == pytest.approx(right.mean(), abs=0.002)
    assert drawn.overall.std() == pytest.approx(right.std(ddof=1) / sqrt(400), rel=0.04)
    within = [right[labels == label] for label in range(4)]
    expected = sqrt(sum(part.var(ddof=1) / 100 for part in within)) / 4
    assert drawn.by_class.std() == pytest.approx(expected, rel=0.04)


def test_videos_of_one_recording_count_as_what_they_are():
    """Ten copies of each answer are worth no more than the answer."""
    right = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0], float)
    copies = np.repeat(right, 10)
    alone = resample(right[:, None], np.zeros(12, int), np.arange(12))
    together = resample(copies[:, None], np.zeros(120, int), np.repeat(np.arange(12), 10))
    assert together.overall.std() == pytest.approx(alone.overall.std(), rel=1e-9)
    wide = share_interval(2 / 3, standard_error=together.overall.std(), largest_n=120)
    narrow = share_interval(2 / 3, standard_error=0.0, largest_n=120)
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_nine_of_nine_is_not_certain():
    found = share_interval(1.0, standard_error=0.0, largest_n=9)
    assert found.low == pytest.approx(9 / (9 + 1.959964**2), rel=1e-6) and found.high == 1.0
    none = difference_interval(0.0, standard_error=0.0, disagreement=0.0, largest_n=9)
    assert none.low < -0.1 and none.high == -none.low


def test_a_mean_over_classes_is_worth_its_smallest_classes():
    assert worth_by_class(np.array([0, 0, 2, 2])) == 4.0
    assert worth_by_class(np.array([0] * 100 + [1])) == pytest.approx(4 / 1.01)


def test_recordings_of_two_classes_are_two():
    numbers = recording_numbers(
        ("a", "b", "c", "d"), np.array([0, 0, 1, 1]), {"a": "g1", "b": "g1", "c": "g1"}
    )
    assert numbers.tolist() == [0, 0, 1, 2]


# classes, recordings a class, videos a recording, chances of the classes, spread of a recording's chance
DESIGNS = [
    (9, 1, 1, (0.9, 0.9), 0.0),
    (10, 7, 1, (0.88, 0.99), 0.0),
    (10, 6, 4, (0.6, 0.95), 0.3),
]


@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_the_truth_as_often_as_they_claim(design):
    """95 % within what 400 repeats can tell; shorter lists err on the wide side."""
    num_classes, num_recordings, num_videos, (low, high), spread = design
    rng = np.random.default_rng(5)
    chances = np.linspace(low, high, num_classes)
    labels = np.repeat(np.arange(num_classes), num_recordings * num_videos)
    recordings = np.repeat(np.arange(num_classes * num_recordings), num_videos)
    repeats, held = 400, np.zeros(4)
    for seed in range(repeats):
        answers = []
        for _ in range(2):
            own = np.repeat(chances, num_recordings)
            if spread:
                total = own * (1 - own) / np.minimum(spread, 0.9 * np.sqrt(own * (1 - own))) ** 2 - 1
                own = rng.beta(own * total, (1 - own) * total)
            answers.append(rng.random(len(labels)) < np.repeat(own, num_videos))
        drawn = resample(np.column_stack(answers), labels, recordings, num_resamples=300, seed=seed)
        top1 = share_interval(
            answers[0].mean(), standard_error=drawn.overall[:, 0].std(), largest_n=len(labels)
        )
        by_class = share_interval(
            answers[0].mean(), standard_error=drawn.by_class[:, 0].std(), largest_n=worth_by_class(labels)
        )
        pair = compare_drawn("a", answers[0], "b", answers[1], labels, drawn=drawn, columns=(0, 1))
        found = [(top1, chances.mean()), (by_class, chances.mean())]
        found += [(pair.top1.interval, 0.0), (pair.mean_class.interval, 0.0)]
        held += [interval.low <= truth <= interval.high for interval, truth in found]
    coverage = held / repeats
    assert (coverage >= 0.925).all(), coverage
    if num_recordings > 1:
        assert (coverage <= 0.99).all(), coverage
