"""Pyramids, gradients and resizing of flow on the CPU; `layout` says where everything lies."""

import numba
import numpy as np

from stin_pipe.pipeline.flow.cpu.layout import (
    DOWN_AT,
    GREY_AT,
    GREY_MARGIN,
    GREY_PITCH,
    HEIGHT,
    NUM_PLANES,
    PITCH,
    QUADS_AT,
    QUADS_MARGIN,
    QUADS_STRIDE,
    UP_AT,
    WIDTH,
)
from stin_pipe.pipeline.flow.cpu.simd import INLINED, KERNEL, LANES
from stin_pipe.pipeline.flow.cpu.simd_lanes import spread
from stin_pipe.pipeline.flow.cpu.simd_memory import load, store, store_quads


@numba.njit(**KERNEL)
def make_pyramid(frame, levels, samples, weights, row, grey):
    """Fill the grey pyramid of one (H, W) float32 frame; `row` is scratch for one row."""
    height, width = frame.shape
    for y in range(height):
        at = levels[0, GREY_AT] + y * levels[0, GREY_PITCH] + GREY_MARGIN
        for x in range(width):
            grey[at + x] = frame[y, x]

    for i in range(len(levels)):
        height, width, pitch = levels[i, HEIGHT], levels[i, WIDTH], levels[i, GREY_PITCH]
        at = levels[i, GREY_AT] + GREY_MARGIN
        if i:
            finer, finer_pitch = levels[i - 1, GREY_AT] + GREY_MARGIN, levels[i - 1, GREY_PITCH]
            finer_height, finer_width = levels[i - 1, HEIGHT], levels[i - 1, WIDTH]
            for y in range(height):
                table = levels[i, DOWN_AT]
                first = samples[table + y]
                second = min(first + 1, finer_height - 1)
                _mix_rows(
                    grey,
                    finer + first * finer_pitch,
                    finer + second * finer_pitch,
                    weights[table + y],
                    finer_width,
                    row,
                )
                _pick_columns(
                    row, samples, weights, table + height, grey, at + y * pitch, width, np.float32(1)
                )

        # One repeated pixel on each side, so that gradients need no case for the border.
        for y in range(height):
            begin = at + y * pitch
            grey[begin - 1] = grey[begin]
            grey[begin + width] = grey[begin + width - 1]


@numba.njit(**KERNEL)
def make_quads(levels, grey, quads):
    """Fill the quads of all levels of a grey pyramid."""
    for i in range(len(levels)):
        height, width, pitch = levels[i, HEIGHT], levels[i, WIDTH], levels[i, GREY_PITCH]
        at = levels[i, GREY_AT] + GREY_MARGIN
        _fill_quads(grey, at, pitch, height, width, quads, levels[i, QUADS_AT], levels[i, QUADS_STRIDE])


@numba.njit(**INLINED)
def _mix_rows(source, first, second, weight, width, row):
    """Put first + weight * (second - first) into `row`, with its last value repeated once."""
    weight = spread(weight)
    for x in range(0, width, LANES):
        above = load(source, first + x)
        store(row, x, above + weight * (load(source, second + x) - above))
    row[width] = row[width - 1]


@numba.njit(**INLINED)
def _pick_columns(row, samples, weights, table, target, at, width, factor):
    """Resample `row` at the columns of a table and multiply by `factor`."""
    for x in range(width):
        first = samples[table + x]
        left = row[first]
        target[at + x] = (left + weights[table + x] * (row[first + 1] - left)) * factor


@numba.njit(**KERNEL)
def _fill_quads(grey, at, pitch, height, width, quads, begin, stride):
    """Interleave a level with its centred gradient and replicate the border."""
    half, zero = spread(np.float32(0.5)), spread(np.float32(0))
    for y in range(height):
        here = at + y * pitch
        up, down = at + max(y - 1, 0) * pitch, at + min(y + 1, height - 1) * pitch
        target = begin + ((y + QUADS_MARGIN) * stride + QUADS_MARGIN) * 4
        for x in range(0, width, LANES):
            gx = half * (load(grey, here + x + 1) - load(grey, here + x - 1))
            gy = half * (load(grey, down + x) - load(grey, up + x))
            store_quads(quads, target + 4 * x, load(grey, here + x), gx, gy, zero)
        for channel in range(4):
            for x in range(1, QUADS_MARGIN + 1):
                quads[target - 4 * x + channel] = quads[target + channel]
                quads[target + 4 * (width - 1 + x) + channel] = quads[target + 4 * (width - 1) + channel]

    first, last = begin + QUADS_MARGIN * stride * 4, begin + (QUADS_MARGIN + height - 1) * stride * 4
    for y in range(1, QUADS_MARGIN + 1):
        for x in range(4 * stride):
            quads[first - y * stride * 4 + x] = quads[first + x]
            quads[last + y * stride * 4 + x] = quads[last + x]


@numba.njit(**KERNEL)
def refine_flow(levels, i, samples, weights, row, coarse, factor, space):
    """Resize the flow in `coarse` from level i + 1 into the workspace of level i, times `factor`."""
    height, width, pitch, table = levels[i, HEIGHT], levels[i, WIDTH], levels[i, PITCH], levels[i, UP_AT]
    coarse_height, coarse_width = levels[i + 1, HEIGHT], levels[i + 1, WIDTH]
    coarse_pitch = levels[i + 1, PITCH]
    for y in range(height):
        first = samples[table + y]
        second = min(first + 1, coarse_height - 1)
        for component in range(2):
            begin = component * coarse_height * coarse_pitch
            _mix_rows(
                coarse,
                begin + first * coarse_pitch,
                begin + second * coarse_pitch,
                weights[table + y],
                coarse_width,
                row,
            )
            at = (y * NUM_PLANES + component) * pitch
            _pick_columns(row, samples, weights, table + height, space, at, width, factor)
            for x in range(width, pitch):
                space[at + x] = 0


@numba.njit(**KERNEL)
def take_flow(space, height, width, pitch, flow):
    """Copy u out of the workspace into `flow`: the rows of u1, then those of u2, `pitch` floats each."""
    for component in range(2):
        for y in range(height):
            source, target = (y * NUM_PLANES + component) * pitch, (component * height + y) * pitch
            for x in range(0, width, LANES):
                store(flow, target + x, load(space, source + x))
