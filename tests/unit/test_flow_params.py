import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.pipeline.flow import MIN_SIDE_PX, TVL1Params, pyramid_sizes, require_support, set_params


def test_defaults_are_those_of_opencvs_cuda_version():
    params = TVL1Params()
    assert (params.tau, params.lambda_, params.theta, params.epsilon) == (0.25, 0.15, 0.3, 0.01)
    assert (params.num_scales, params.scale_step, params.num_warps) == (5, 0.8, 5)
    assert (params.max_iterations, params.check_interval, params.median_filter) == (300, 8, 0)
    assert params.threshold == pytest.approx(0.045)
    assert params.dual_step == pytest.approx(0.25 / 0.3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tau", 0.3, "tau must be in (0, 0.25], where the dual update converges, got 0.3"),
        ("tau", 0, "tau must be in (0, 0.25]"),
        ("lambda_", -1, "lambda must be > 0, got -1"),
        ("theta", math.nan, "theta must be a finite number, got nan"),
        ("theta", "0.3", "theta must be a finite number, got '0.3'"),
        ("epsilon", -0.1, "epsilon must be >= 0, got -0.1"),
        ("num_warps", 0, "num_warps must be a whole number from 1 to 10000, got 0"),
        ("max_iterations", 2.5, "max_iterations must be a whole number from 1 to 10000, got 2.5"),
        ("num_scales", True, "num_scales must be a whole number from 1 to 10000, got True"),
        ("num_warps", 10**6, "num_warps must be a whole number from 1 to 10000, got 1000000"),
        ("scale_step", 1.0, "scale_step must be in [0.1, 0.95], got 1.0"),
        ("median_filter", 4, "median_filter must be 0 (off), 3 or 5, got 4"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_value_and_rule(name, value, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(TVL1Params(), **{name: value})
    assert message in str(caught.value)


def test_settings_change_the_defaults_and_whole_numbers_become_floats():
    params = set_params({"lambda": 1, "num_scales": 7, "median_filter": 3})
    assert params == TVL1Params(lambda_=1.0, num_scales=7, median_filter=3)
    assert isinstance(params.lambda_, float)
    assert set_params({}) == TVL1Params() == set_params({"tau": 0.25})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_scale", 7, "TV-L1 has no parameter 'num_scale'; did you mean num_scales?"),
        ("warm_start", True, "TV-L1 has no parameter 'warm_start'"),
        (
            "gamma",
            0,
            "its parameters are tau, lambda, theta, epsilon, scale_step, num_warps",
        ),
        ("num_scales", 7.5, "num_scales must be a whole number from 1 to 10000, got 7.5"),
        ("tau", "fast", "tau must be a finite number, got 'fast'"),
        ("tau", True, "tau must be a finite number, got True"),
    ],
)
def test_a_setting_that_tvl1_does_not_have_is_refused_by_name(name, value, message):
    with pytest.raises(ValueError) as caught:
        set_params({name: value})
    assert message in str(caught.value)


def test_a_record_is_that_of_0_1_0_and_is_read_back():
    record = TVL1Params(num_scales=7).as_record()
    assert json.dumps(record, sort_keys=True) == (
        '{"check_interval": 8, "epsilon": 0.01, "lambda_": 0.15, "max_iterations": 300, "median_filter": 0, '
        '"num_scales": 7, "num_warps": 5, "scale_step": 0.8, "tau": 0.25, "theta": 0.3, "warm_start": false}'
    )
    assert TVL1Params.from_record(record) == TVL1Params(num_scales=7)
    with pytest.raises(ValueError, match=r"warm_start .* was removed after"):
        TVL1Params.from_record({**record, "warm_start": True})
    with pytest.raises(ValueError, match="TV-L1 has no parameter 'image'"):
        TVL1Params.from_record({"image": "img_%05d"})


def test_a_back_end_that_lacks_a_parameter_says_so():
    for name, value in {"num_scales": 3, "median_filter": 5, "epsilon": 0.1, "scale_step": 0.5}.items():
        for backend in ("cpu", "opencv", "cuda", "reference"):
            require_support(backend, set_params({name: value}))
    with pytest.raises(ValueError, match=r"opencv .* has no check_interval, got 4; leave it at 8"):
        require_support("opencv", TVL1Params(check_interval=4))


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
