"""The SIMD type against numpy, lane by lane."""

import math

import numba
import numpy as np
import pytest

from stin_pipe.pipeline.flow.cpu import simd_lanes, simd_memory
from stin_pipe.pipeline.flow.cpu.simd import KERNEL, LANES

load, store = simd_memory.load, simd_memory.store
TWO = np.float32(2)


def _apply(function, *arrays: np.ndarray) -> np.ndarray:
    """Apply a function of vectors to one, two or three arrays of LANES values."""
    compiled = numba.njit(**KERNEL)(function)

    @numba.njit(**KERNEL)
    def one(a, out):
        store(out, 0, compiled(load(a, 0)))

    @numba.njit(**KERNEL)
    def two(a, b, out):
        store(out, 0, compiled(load(a, 0), load(b, 0)))

    out = np.zeros(LANES, np.float32)
    (one if len(arrays) == 1 else two)(*arrays, out)
    return out


def _values(seed: int = 0, low: float = -40, high: float = 40) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, LANES).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a + b, lambda a, b: a + b),
        (lambda a, b: a - b, lambda a, b: a - b),
        (lambda a, b: a * b, lambda a, b: a * b),
        (lambda a, b: min(a, b), np.minimum),
        (lambda a, b: max(a, b), np.maximum),
        (lambda a, b: TWO * a - b * TWO, lambda a, b: 2 * a - 2 * b),
        (lambda a, b: -a, lambda a, b: -a),
        (lambda a, b: simd_lanes.floor_lanes(a), lambda a, b: np.floor(a)),
        (lambda a, b: simd_lanes.shift_from_left(a, b), lambda a, b: np.r_[a[-1:], b[:-1]]),
        (lambda a, b: simd_lanes.shift_from_right(a, b), lambda a, b: np.r_[a[1:], b[:1]]),
    ],
)
def test_lanes_do_what_numpy_does(function, expected):
    a, b = _values(1), _values(2)
    np.testing.assert_array_equal(_apply(function, a, b), expected(a, b))


def test_division_and_root_are_good_to_a_few_units_in_the_last_place():
    for seed in range(200):
        scale = 10.0 ** (seed % 20 - 10)
        a, b = _values(seed) * np.float32(scale), _values(seed + 1000, 1e-3, 1e3) * np.float32(scale)
        exact = a.astype(np.float64) / b
        np.testing.assert_allclose(_apply_divide(a, b), exact, rtol=3e-7)
        np.testing.assert_allclose(_apply_root(b), np.sqrt(b.astype(np.float64)), rtol=3e-7)


@numba.njit(**KERNEL)
def _divide(a, b, out):
    store(out, 0, load(a, 0) / load(b, 0))


@numba.njit(**KERNEL)
def _root(a, out):
    store(out, 0, math.sqrt(load(a, 0)))


def _apply_divide(a, b):
    out = np.zeros(LANES, np.float32)
    _divide(a, b, out)
    return out


def _apply_root(a):
    out = np.zeros(LANES, np.float32)
    _root(a, out)
    return out


def test_reciprocal_is_zero_up_to_the_floor():
    values = np.zeros(LANES, np.float32)
    values[:4] = 0, 0.5, 2, -4
    floor = np.full(LANES, 0.5, np.float32)
    out = _apply(lambda a, b: simd_lanes.reciprocal_above(a, b), values, floor)
    np.testing.assert_allclose(out[:4], (0, 0, 0.5, 0))


@pytest.mark.parametrize("count", [-1, 0, 1, LANES - 1, LANES, LANES + 5])
def test_lanes_below(count):
    @numba.njit(**KERNEL)
    def fill(count, out):
        store(out, 0, simd_lanes.lanes_below(count))
        store(out, LANES, simd_lanes.lane_numbers())

    out = np.zeros(2 * LANES, np.float32)
    fill(count, out)
    np.testing.assert_array_equal(out[:LANES], np.arange(LANES) < count)
    np.testing.assert_array_equal(out[LANES:], np.arange(LANES))


def test_sum_of_lanes_is_in_double_precision():
    @numba.njit(**KERNEL)
    def total(a):
        return simd_lanes.sum_lanes(load(a, 0))

    values = np.full(LANES, 1, np.float32)
    values[0] = 2**25
    assert total(values) == 2**25 + LANES - 1  # in float32 the ones would be lost


def test_quads_interleave_and_come_apart():
    channels = np.arange(4 * LANES, dtype=np.float32).reshape(4, LANES)

    @numba.njit(**KERNEL)
    def there_and_back(flat, quads, out):
        first, second = load(flat, 0), load(flat, LANES)
        simd_memory.store_quads(quads, 1, first, second, load(flat, 2 * LANES), load(flat, 3 * LANES))
        a, b, c = simd_memory.load_quads(quads, 1)
        store(out, 0, a)
        store(out, LANES, b)
        store(out, 2 * LANES, c)

    quads, out = np.zeros(4 * LANES + 2, np.float32), np.zeros(3 * LANES, np.float32)
    there_and_back(channels.ravel(), quads, out)
    np.testing.assert_array_equal(quads[1:-1].reshape(LANES, 4), channels.T)
    np.testing.assert_array_equal(out.reshape(3, LANES), channels[:3])
    assert quads[0] == quads[-1] == 0  # nothing is written beside them
