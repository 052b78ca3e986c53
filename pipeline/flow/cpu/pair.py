"""One pair from prepared frames to its flow: the compiled entry points of the CPU engine."""

import numba
import numpy as np

from stin_pipe.pipeline.flow.cpu.layout import (
    GREY_AT,
    GREY_MARGIN,
    GREY_PITCH,
    HEIGHT,
    NUM_PLANES,
    P1X,
    P2Y,
    PITCH,
    QUADS_AT,
    QUADS_STRIDE,
    WIDTH,
)
from stin_pipe.pipeline.flow.cpu.median import filter_median
from stin_pipe.pipeline.flow.cpu.pyramid import make_pyramid, make_quads, refine_flow, take_flow
from stin_pipe.pipeline.flow.cpu.simd import KERNEL, LANES
from stin_pipe.pipeline.flow.cpu.simd_denormals import flush_denormals, restore_denormals
from stin_pipe.pipeline.flow.cpu.solver import iterate_until_still
from stin_pipe.pipeline.flow.cpu.warp import warp

SCRATCH_FLOATS = 32 * LANES
"""Room for what one block of lanes needs: 12 vectors in a warp, 25 in a median."""

_FLOATS, _INTS = numba.float32[::1], numba.int64[:, ::1]
_TABLES = (_INTS, numba.int32[::1], _FLOATS)  # Layout.levels, .samples, .weights


@numba.njit(**KERNEL)
def _zero_flow(space, height, pitch):
    """Set u1 and u2 of all rows to zero, the start of the coarsest level."""
    for y in range(height):
        at = y * NUM_PLANES * pitch
        for x in range(2 * pitch):
            space[at + x] = 0


@numba.njit(**KERNEL)
def _zero_duals(space, height, pitch):
    """Set the four duals of all rows to zero."""
    for y in range(height):
        at = y * NUM_PLANES * pitch
        for x in range(P1X * pitch, (P2Y + 1) * pitch):
            space[at + x] = 0


@numba.njit(
    numba.void(numba.float32[:, ::1], *_TABLES, _FLOATS, _FLOATS, _FLOATS, numba.boolean),
    cache=True,
    **KERNEL,
)
def prepare(frame, levels, samples, weights, row, grey, quads, with_quads):
    """Make the grey pyramid of one frame, and its quads if wanted; `row` is scratch for one row."""
    make_pyramid(frame, levels, samples, weights, row, grey)
    if with_quads:
        make_quads(levels, grey, quads)


@numba.njit(
    numba.void(
        *(_FLOATS, _FLOATS),
        *_TABLES,
        *(numba.float32, numba.float32, numba.float32, numba.float64),
        *(numba.int64, numba.int64, numba.int64, numba.int64, numba.float64),
        *(_FLOATS, _FLOATS, _FLOATS, _FLOATS, numba.int32[::1]),
        numba.float32[:, :, ::1],
        numba.int32[:, ::1],
    ),
    cache=True,
    **KERNEL,
)
def solve(
    grey0,
    quads1,
    levels,
    samples,
    weights,
    dual_step,
    threshold,
    theta,
    epsilon,
    num_warps,
    max_iterations,
    check_interval,
    median_side,
    scale_step,
    space,
    coarse,
    row,
    scratch,
    offsets,
    flow,
    iterations,
):
    """Solve one pair into `flow` (H, W, 2); `coarse` is room for the flow of a level and for the median."""
    float_mode = flush_denormals()
    coarsest = len(levels) - 1
    for i in range(coarsest, -1, -1):
        height, width, pitch = levels[i, HEIGHT], levels[i, WIDTH], levels[i, PITCH]
        if i < coarsest:
            refine_flow(levels, i, samples, weights, row, coarse, np.float32(1 / scale_step), space)
        else:
            _zero_flow(space, height, pitch)
        _zero_duals(space, height, pitch)
        for n in range(num_warps):
            warp(
                space,
                height,
                width,
                pitch,
                grey0,
                levels[i, GREY_AT] + GREY_MARGIN,
                levels[i, GREY_PITCH],
                quads1,
                levels[i, QUADS_AT],
                levels[i, QUADS_STRIDE],
                scratch,
                offsets,
            )
            iterations[i, n] = iterate_until_still(
                space,
                height,
                width,
                pitch,
                dual_step,
                threshold,
                theta,
                epsilon,
                max_iterations,
                check_interval,
            )
            if median_side:
                filter_median(space, height, width, pitch, median_side, coarse, scratch)
        take_flow(space, height, width, pitch, coarse)
    height, width, pitch = levels[0, HEIGHT], levels[0, WIDTH], levels[0, PITCH]
    for y in range(height):
        for x in range(width):
            flow[y, x, 0] = space[y * NUM_PLANES * pitch + x]
            flow[y, x, 1] = space[(y * NUM_PLANES + 1) * pitch + x]
    restore_denormals(float_mode)
