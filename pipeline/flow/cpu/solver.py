"""The iterations of one warp on the CPU, row by row, several iterations in flight.

Layout: one flat float32 workspace a thread. Row r of a level is `NUM_PLANES` planes of `pitch` floats one
after the other: u1, u2, the four duals, the warped gradient, rho_c and 1/|grad|^2. Columns beyond the width
hold zeros in every plane, and stay zero.

Schedule: u of row r needs the duals of rows r-1 and r; p of row r-1 needs u of rows r-1 and r. So one pass
over a row updates u of row r and then p of row r-1, while both lie in registers, and the next iteration may
follow one row behind. `MAX_IN_FLIGHT` iterations run down the image in this way, each some rows behind the
one before: the rows between the first and the last stay in the cache, and memory is read once for all of
them. The order of all sums is fixed, so that the result depends on nothing but the input.
"""

import numba
import numpy as np

from stin_pipe.pipeline.flow.cpu.layout import (
    GX,
    GY,
    INV_GRAD2,
    NUM_PLANES,
    P1X,
    P1Y,
    P2X,
    P2Y,
    RHO_C,
    U1,
    U2,
)
from stin_pipe.pipeline.flow.cpu.simd import INLINED, KERNEL, LANES
from stin_pipe.pipeline.flow.cpu.simd_lanes import (
    lanes_below,
    shift_from_left,
    shift_from_right,
    spread,
    sum_lanes,
)
from stin_pipe.pipeline.flow.cpu.simd_memory import load, store
from stin_pipe.pipeline.flow.steps import update_p, update_u

MAX_IN_FLIGHT = 8

_update_u = numba.njit(**INLINED)(update_u)
_update_p = numba.njit(**INLINED)(update_p)


@numba.njit(**INLINED)
def _u_cell(space, here, pitch, p1y_up, p2y_up, p1x_before, p2x_before, threshold, theta):
    """Update u of one vector; return the new u1, u2, the sum of squared changes, and its p1x, p2x."""
    u1, u2 = load(space, here + U1 * pitch), load(space, here + U2 * pitch)
    p1x, p2x = load(space, here + P1X * pitch), load(space, here + P2X * pitch)
    new1, new2 = _update_u(
        u1,
        u2,
        p1x,
        shift_from_left(p1x_before, p1x),
        load(space, here + P1Y * pitch),
        p1y_up,
        p2x,
        shift_from_left(p2x_before, p2x),
        load(space, here + P2Y * pitch),
        p2y_up,
        load(space, here + GX * pitch),
        load(space, here + GY * pitch),
        load(space, here + RHO_C * pitch),
        load(space, here + INV_GRAD2 * pitch),
        threshold,
        theta,
    )
    store(space, here + U1 * pitch, new1)
    store(space, here + U2 * pitch, new2)
    change1, change2 = new1 - u1, new2 - u2
    return new1, new2, change1 * change1 + change2 * change2, p1x, p2x


@numba.njit(**INLINED)
def _p_cell(space, at, pitch, u, u_after, u_down, py, plane, inside, dual_step):
    """Update the dual of one component of one vector; `inside` is 0 from the last column on."""
    ux = (shift_from_right(u, u_after) - u) * inside
    px, py = _update_p(load(space, at + plane * pitch), py, ux, u_down - u, dual_step)
    store(space, at + plane * pitch, px)
    store(space, at + (plane + 1) * pitch, py)


def _make_row_pass(checked: bool):
    """Build the pass that updates u of row `here` and p of the row `above` it."""

    @numba.njit(**KERNEL)
    def row_pass(space, here, above, pitch, width, dual_step, threshold, theta):
        zero, one = spread(np.float32(0)), spread(np.float32(1))
        dual_step, threshold, theta = spread(dual_step), spread(threshold), spread(theta)
        last = (width - 1) // LANES * LANES
        total = p1x = p2x = zero

        # One vector behind, p of the row above is updated while u of this vector is under way: two
        # independent chains of instructions hide each other's latency.
        p1y, p2y = load(space, above + P1Y * pitch), load(space, above + P2Y * pitch)
        down1, down2, change, p1x, p2x = _u_cell(space, here, pitch, p1y, p2y, zero, zero, threshold, theta)
        if checked:
            total = total + change
        u1, u2 = load(space, above + U1 * pitch), load(space, above + U2 * pitch)

        for x in range(LANES, width, LANES):
            p1y_here, p2y_here = load(space, above + P1Y * pitch + x), load(space, above + P2Y * pitch + x)
            new1, new2, change, p1x, p2x = _u_cell(
                space, here + x, pitch, p1y_here, p2y_here, p1x, p2x, threshold, theta
            )
            if checked:
                total = total + change
            after1, after2 = load(space, above + U1 * pitch + x), load(space, above + U2 * pitch + x)
            at = above + x - LANES
            _p_cell(space, at, pitch, u1, after1, down1, p1y, P1X, one, dual_step)
            _p_cell(space, at, pitch, u2, after2, down2, p2y, P2X, one, dual_step)
            u1, u2, down1, down2, p1y, p2y = after1, after2, new1, new2, p1y_here, p2y_here

        # The last vector of the row above is still due; differences across the last column are zero.
        inside = lanes_below(width - 1 - last)
        _p_cell(space, above + last, pitch, u1, zero, down1, p1y, P1X, inside, dual_step)
        _p_cell(space, above + last, pitch, u2, zero, down2, p2y, P2X, inside, dual_step)
        return sum_lanes(total) if checked else 0.0

    return row_pass


_row_pass = _make_row_pass(checked=False)
_row_pass_checked = _make_row_pass(checked=True)


@numba.njit(**KERNEL)
def _first_row(space, here, pitch, width, threshold, theta):
    """Update u of row 0, which has no row above; return the sum of squared changes."""
    zero = spread(np.float32(0))
    threshold, theta = spread(threshold), spread(theta)
    total = p1x = p2x = zero
    for x in range(0, width, LANES):
        _, _, change, p1x, p2x = _u_cell(space, here + x, pitch, zero, zero, p1x, p2x, threshold, theta)
        total = total + change
    return sum_lanes(total)


@numba.njit(**KERNEL)
def _last_row(space, here, pitch, width, dual_step):
    """Update p of the last row, where the differences downwards are zero."""
    zero, dual_step = spread(np.float32(0)), spread(dual_step)
    for x in range(0, width, LANES):
        inside = lanes_below(width - 1 - x)
        at = here + x
        u1, u2 = load(space, at + U1 * pitch), load(space, at + U2 * pitch)
        # Beyond the last vector this reads the next plane's start, which `inside` then ignores.
        after1, after2 = load(space, at + U1 * pitch + LANES), load(space, at + U2 * pitch + LANES)
        p1y, p2y = load(space, at + P1Y * pitch), load(space, at + P2Y * pitch)
        _p_cell(space, at, pitch, u1, after1, u1, p1y, P1X, inside, dual_step)
        _p_cell(space, at, pitch, u2, after2, u2, p2y, P2X, inside, dual_step)
    return zero


@numba.njit(**KERNEL)
def _iterate(space, height, width, pitch, count, check_last, dual_step, threshold, theta):
    """Do `count` iterations; return the sum of squared changes of the last one if it is to be checked."""
    row_floats = NUM_PLANES * pitch
    total = 0.0
    for front in range(height + count):
        for behind in range(count):
            row = front - behind
            if row < 0:
                break
            here = row * row_floats
            checked = check_last and behind == count - 1
            if row == 0:
                change = _first_row(space, here, pitch, width, threshold, theta)
                if checked:
                    total += change
            elif row == height:
                _last_row(space, here - row_floats, pitch, width, dual_step)
            elif row < height and checked:
                total += _row_pass_checked(
                    space, here, here - row_floats, pitch, width, dual_step, threshold, theta
                )
            elif row < height:
                _row_pass(space, here, here - row_floats, pitch, width, dual_step, threshold, theta)
    return total


@numba.njit(**KERNEL)
def iterate_until_still(
    space, height, width, pitch, dual_step, threshold, theta, epsilon, max_iterations, check_interval
):
    """Iterate until the stop rule holds after a whole number of intervals; return the iterations done."""
    done = 0
    # At most to the next check: iterations in flight cannot be taken back when the rule holds.
    while done < max_iterations:
        next_check = (done // check_interval + 1) * check_interval
        count = min(MAX_IN_FLIGHT, next_check - done, max_iterations - done)
        check = done + count == next_check
        change = _iterate(space, height, width, pitch, count, check, dual_step, threshold, theta)
        done += count
        if check and change <= epsilon * epsilon * height * width:
            break
    return done
