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
_WORKSPACE = (_FLOATS, _FLOATS, _FLOATS, _FLOATS, numba.int32[::1])  # space, coarse, row, scratch, offsets
_CONSTANTS = numba.types.Tuple(
    (
        *[numba.float32] * 3,  # dual step, threshold, theta
        numba.float64,  # epsilon
        *[numba.int64] * 4,  # warps, most iterations, check interval, side of the median
        numba.float64,  # scale step
    )
)
"""What `engine` takes from the parameters, in the order in which `solve` unpacks it."""


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
    """Make the grey pyramid of one frame, and its quads if asked for; `row` is scratch for one row."""
    make_pyramid(frame, levels, samples, weights, row, grey)
    if with_quads:
        make_quads(levels, grey, quads)


@numba.njit(**KERNEL)
def _solve_level(grey0, quads1, levels, i, constants, space, coarse, scratch, offsets, iterations):
    """Warp and iterate at level i until all warps are done; the flow stays in the workspace."""
    dual_step, threshold, theta, epsilon, num_warps, max_iterations, check_interval, side, _ = constants
    height, width, pitch = levels[i, HEIGHT], levels[i, WIDTH], levels[i, PITCH]
    grey_at, grey_pitch = levels[i, GREY_AT] + GREY_MARGIN, levels[i, GREY_PITCH]
    quads_at, stride = levels[i, QUADS_AT], levels[i, QUADS_STRIDE]
    for n in range(num_warps):
        warp(
            space, height, width, pitch, grey0, grey_at, grey_pitch,
            quads1, quads_at, stride, scratch, offsets,
        )  # fmt: skip
        iterations[i, n] = iterate_until_still(
            space, height, width, pitch, dual_step, threshold, theta, epsilon, max_iterations, check_interval
        )
        if side:
            filter_median(space, height, width, pitch, side, coarse, scratch)


@numba.njit(
    numba.void(
        *(_FLOATS, _FLOATS),
        *_TABLES,
        _CONSTANTS,
        *_WORKSPACE,
        numba.float32[:, :, ::1],
        numba.int32[:, ::1],
    ),
    cache=True,
    **KERNEL,
)
def solve(
    grey0, quads1, levels, samples, weights, constants, space, coarse, row, scratch, offsets, flow, iterations
):
    """Solve one pair into `flow` (H, W, 2); `coarse` is room for the flow of a level and for the median."""
    float_mode = flush_denormals()
    scale_step = constants[8]
    coarsest = len(levels) - 1
    for i in range(coarsest, -1, -1):
        height, pitch = levels[i, HEIGHT], levels[i, PITCH]
        if i < coarsest:
            refine_flow(levels, i, samples, weights, row, coarse, np.float32(1 / scale_step), space)
        else:
            _zero_flow(space, height, pitch)
        # Once a level, not once a warp, as OpenCV's CUDA version does.
        _zero_duals(space, height, pitch)
        _solve_level(grey0, quads1, levels, i, constants, space, coarse, scratch, offsets, iterations)
        take_flow(space, height, levels[i, WIDTH], pitch, coarse)

    height, width, pitch = levels[0, HEIGHT], levels[0, WIDTH], levels[0, PITCH]
    for y in range(height):
        for x in range(width):
            flow[y, x, 0] = space[y * NUM_PLANES * pitch + x]
            flow[y, x, 1] = space[(y * NUM_PLANES + 1) * pitch + x]
    restore_denormals(float_mode)
