import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.pipeline.flow import MIN_SIDE_PX, TVL1Params, pyramid_sizes


def test_defaults_are_those_of_opencvs_cuda_version():
    params = TVL1Params()
    assert (params.tau, params.lambda_, params.theta, params.epsilon) == (0.25, 0.15, 0.3, 0.01)
    assert (params.num_scales, params.scale_step, params.num_warps) == (5, 0.8, 5)
    assert (params.max_iterations, params.check_interval, params.median_filter) == (300, 8, 0)
    assert not params.warm_start
    assert params.threshold == pytest.approx(0.045)
    assert params.dual_step == pytest.approx(0.25 / 0.3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tau", 0.3, "tau must be in (0, 0.25], where the dual update converges, got 0.3"),
        ("tau", 0, "tau must be in (0, 0.25]"),
        ("lambda_", -1, "lambda_ must be > 0, got -1"),
        ("theta", math.nan, "theta must be a finite number, got nan"),
        ("theta", "0.3", "theta must be a finite number, got '0.3'"),
        ("epsilon", -0.1, "epsilon must be >= 0, got -0.1"),
        ("num_warps", 0, "num_warps must be a whole number >= 1, got 0"),
        ("max_iterations", 2.5, "max_iterations must be a whole number >= 1, got 2.5"),
        ("num_scales", True, "num_scales must be a whole number >= 1, got True"),
        ("scale_step", 1.0, "scale_step must be in [0.1, 0.95], got 1.0"),
        ("median_filter", 4, "median_filter must be 0 (off), 3 or 5, got 4"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_value_and_rule(name, value, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(TVL1Params(), **{name: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("size", "scale_step", "expected"),
    [
        ((256, 340), 0.8, [(256, 340), (205, 272), (164, 218), (131, 174), (105, 139)]),
        ((16, 16), 0.8, [(16, 16)]),  # 13 px would be too small
        ((20, 40), 0.8, [(20, 40), (16, 32)]),
        ((256, 340), 0.5, [(256, 340), (128, 170), (64, 85), (32, 42), (16, 21)]),
    ],
)
def test_pyramid_sizes_by_hand(size, scale_step, expected):
    assert pyramid_sizes(*size, TVL1Params(scale_step=scale_step)) == expected


@given(
    height=st.integers(16, 3000),
    width=st.integers(16, 3000),
    scale_step=st.floats(0.1, 0.95),
    num_scales=st.integers(1, 60),
)
def test_no_level_is_too_small_and_levels_shrink(height, width, scale_step, num_scales):
    sizes = pyramid_sizes(height, width, TVL1Params(scale_step=scale_step, num_scales=num_scales))
    assert sizes[0] == (height, width)
    assert 1 <= len(sizes) <= num_scales
    assert all(min(size) >= MIN_SIDE_PX for size in sizes)
    assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(sizes))
