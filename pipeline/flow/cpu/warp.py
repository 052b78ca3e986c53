"""The bicubic warp on the CPU: one pass over the pixels, no path for the border.

Sixteen pixels' positions and weights are computed as vectors. Then each pixel takes its 4 x 4 neighbours
from the quads, four 64-byte loads that bring grey value and both gradients together. Positions beyond the
border are clamped to where the replicated margin already gives the border's value.
"""

import numba
import numpy as np

from stin_pipe.pipeline.flow.cpu.layout import GX, GY, INV_GRAD2, NUM_PLANES, QUADS_MARGIN, RHO_C, U1, U2
from stin_pipe.pipeline.flow.cpu.simd import INLINED, KERNEL, LANES
from stin_pipe.pipeline.flow.cpu.simd_lanes import (
    floor_lanes,
    lane_numbers,
    lanes_below,
    reciprocal_above,
    spread,
)
from stin_pipe.pipeline.flow.cpu.simd_memory import (
    load,
    load_quads,
    sample_quad,
    store,
    store_offsets,
    store_quads,
)
from stin_pipe.pipeline.flow.steps import GRADIENT_FLOOR, catmull_rom

_catmull_rom = numba.njit(**INLINED)(catmull_rom)

# Scratch of one block of lanes: column weights (quads), row weights (vectors), sums (quads).
_COLUMNS, _ROWS, _SUMS = 0, 4 * LANES, 8 * LANES


@numba.njit(**KERNEL)
def warp(space, height, width, pitch, grey0, grey_at, grey_pitch, quads1, quads_at, stride, scratch, offsets):
    """Warp frame 1 and its gradient by u; write gradient, rho_c and 1/|grad|^2 into the workspace."""
    corner = quads_at + ((QUADS_MARGIN - 1) * stride + QUADS_MARGIN - 1) * 4
    reach_x, reach_y = spread(np.float32(width + 1)), spread(np.float32(height + 1))
    before = spread(np.float32(-2))
    floor = spread(np.float32(GRADIENT_FLOOR))

    for y in range(height):
        here, grey_row = y * NUM_PLANES * pitch, grey_at + y * grey_pitch
        row = spread(np.float32(y))
        for x in range(0, width, LANES):
            at = here + x
            u1, u2 = load(space, at + U1 * pitch), load(space, at + U2 * pitch)

            column = min(max(spread(np.float32(x)) + lane_numbers() + u1, before), reach_x)
            line = min(max(row + u2, before), reach_y)
            left, top = floor_lanes(column), floor_lanes(line)
            x0, x1, x2, x3 = _catmull_rom(column - left)
            y0, y1, y2, y3 = _catmull_rom(line - top)
            store_quads(scratch, _COLUMNS, x0, x1, x2, x3)
            store(scratch, _ROWS, y0)
            store(scratch, _ROWS + LANES, y1)
            store(scratch, _ROWS + 2 * LANES, y2)
            store(scratch, _ROWS + 3 * LANES, y3)
            store_offsets(offsets, 0, top, left, np.int32(stride))

            # Pixel by pixel: neighbouring pixels may have neighbourhoods far apart.
            for lane in range(LANES):
                sample_quad(
                    quads1,
                    corner + 4 * np.intp(offsets[lane]),
                    4 * stride,
                    scratch,
                    _COLUMNS + 4 * lane,
                    scratch,
                    _ROWS + lane,
                    LANES,
                    scratch,
                    _SUMS + 4 * lane,
                )

            # Columns beyond the width hold zeros in every plane of the workspace, and must stay zero.
            frame1, gx, gy = load_quads(scratch, _SUMS)
            inside = lanes_below(width - x)
            gx, gy = gx * inside, gy * inside
            rho_c = (frame1 - gx * u1 - gy * u2 - load(grey0, grey_row + x)) * inside
            store(space, at + GX * pitch, gx)
            store(space, at + GY * pitch, gy)
            store(space, at + RHO_C * pitch, rho_c)
            store(space, at + INV_GRAD2 * pitch, reciprocal_above(gx * gx + gy * gy, floor))
