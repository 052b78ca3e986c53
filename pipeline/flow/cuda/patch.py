"""One thread's part of the iterations on a tile: its patch of 4 x 4 pixels, and the edges it exchanges.

Shared memory holds the data term's constants of each pixel (16 bytes, read once an iteration) and the
edges of each patch: after the u step the left column and the top row of u, after the p step the right
column of the x duals and the bottom row of the y duals. Everything else stays in registers; that is why
the four pixels of a row are spelled out: a loop over an array would live in slow local memory.

`patch_functions` builds the functions for one compiler: numba's for the device, and its other one for the
processor, where the tests drive this very code thread by thread at real sizes.

Legend: a row is a tuple of 4 floats; a patch a tuple of 4 rows; `shared` float32 shared memory; t the
thread; `slot` names follow `tiles.neighbour_slots`. Names of the steps are those of `steps`.
"""

import types
from collections.abc import Callable

import numpy as np

from stin_pipe.pipeline.flow import steps

ZERO = np.float32(0.0)
ONE = np.float32(1.0)
GRADIENT_FLOOR = np.float32(np.finfo(np.float32).eps)
EDGES = 8
"""Published edges of a patch: four of the duals, then four of u; each is one row or column (16 bytes)."""
CONSTANTS = 64
"""Floats of constants of a patch: gx, gy, rho_c, 1/|grad|^2 of 16 pixels."""


def shared_floats(threads: int) -> int:
    """Floats of shared memory of one block; each list of edges has one more slot, which holds zeros."""
    return CONSTANTS * threads + EDGES * 4 * (threads + 1)


def patch_functions(
    jit: Callable, load4: Callable, store4: Callable, select: Callable, threads: int
) -> types.SimpleNamespace:
    """Compile the functions of a patch.

    Args:
        jit: Decorator that compiles a function for the target.
        load4: (pointer, index) -> the 4 floats at that index, 16 bytes in one access.
        store4: (pointer, index, a, b, c, d) -> None.
        select: (condition, yes, no) -> yes or no, without a branch.
        threads: Threads of a block: a compile-time constant, so that shared memory is addressed by offsets.
    """
    update_u, update_p = jit(steps.update_u), jit(steps.update_p)
    pixel = 4 * threads
    edges_at = CONSTANTS * threads
    edge = 4 * (threads + 1)

    # Whole patches between memory and registers.
    @jit
    def store_row(target, at, row):
        store4(target, at, row[0], row[1], row[2], row[3])

    @jit
    def load_patch(source, at, pitch):
        return (
            load4(source, at),
            load4(source, at + pitch),
            load4(source, at + 2 * pitch),
            load4(source, at + 3 * pitch),
        )

    @jit
    def store_patch(target, at, pitch, patch):
        store_row(target, at, patch[0])
        store_row(target, at + pitch, patch[1])
        store_row(target, at + 2 * pitch, patch[2])
        store_row(target, at + 3 * pitch, patch[3])

    @jit
    def zero_patch():
        row = (ZERO, ZERO, ZERO, ZERO)
        return row, row, row, row

    # What a thread shares with others, or with itself one iteration later.
    @jit
    def keep_pixel(shared, at, gx, gy, rho_c):
        grad2 = gx * gx + gy * gy
        store4(
            shared, at, gx, gy, rho_c, select(grad2 > GRADIENT_FLOOR, ONE / max(grad2, GRADIENT_FLOOR), ZERO)
        )

    @jit
    def keep_constants(shared, t, gx, gy, rho_c):
        """Put a patch's constants into shared memory, each pixel's four side by side."""
        at = 4 * t
        keep_pixel(shared, at, gx[0][0], gy[0][0], rho_c[0][0])
        keep_pixel(shared, at + pixel, gx[0][1], gy[0][1], rho_c[0][1])
        keep_pixel(shared, at + 2 * pixel, gx[0][2], gy[0][2], rho_c[0][2])
        keep_pixel(shared, at + 3 * pixel, gx[0][3], gy[0][3], rho_c[0][3])
        keep_pixel(shared, at + 4 * pixel, gx[1][0], gy[1][0], rho_c[1][0])
        keep_pixel(shared, at + 5 * pixel, gx[1][1], gy[1][1], rho_c[1][1])
        keep_pixel(shared, at + 6 * pixel, gx[1][2], gy[1][2], rho_c[1][2])
        keep_pixel(shared, at + 7 * pixel, gx[1][3], gy[1][3], rho_c[1][3])
        keep_pixel(shared, at + 8 * pixel, gx[2][0], gy[2][0], rho_c[2][0])
        keep_pixel(shared, at + 9 * pixel, gx[2][1], gy[2][1], rho_c[2][1])
        keep_pixel(shared, at + 10 * pixel, gx[2][2], gy[2][2], rho_c[2][2])
        keep_pixel(shared, at + 11 * pixel, gx[2][3], gy[2][3], rho_c[2][3])
        keep_pixel(shared, at + 12 * pixel, gx[3][0], gy[3][0], rho_c[3][0])
        keep_pixel(shared, at + 13 * pixel, gx[3][1], gy[3][1], rho_c[3][1])
        keep_pixel(shared, at + 14 * pixel, gx[3][2], gy[3][2], rho_c[3][2])
        keep_pixel(shared, at + 15 * pixel, gx[3][3], gy[3][3], rho_c[3][3])

    @jit
    def publish_p(shared, t, p1x, p1y, p2x, p2y):
        at = edges_at + 4 * t
        store4(shared, at, p1x[0][3], p1x[1][3], p1x[2][3], p1x[3][3])
        store4(shared, at + edge, p2x[0][3], p2x[1][3], p2x[2][3], p2x[3][3])
        store_row(shared, at + 2 * edge, p1y[3])
        store_row(shared, at + 3 * edge, p2y[3])

    @jit
    def publish_u(shared, t, u1, u2):
        at = edges_at + 4 * edge + 4 * t
        store4(shared, at, u1[0][0], u1[1][0], u1[2][0], u1[3][0])
        store4(shared, at + edge, u2[0][0], u2[1][0], u2[2][0], u2[3][0])
        store_row(shared, at + 2 * edge, u1[0])
        store_row(shared, at + 3 * edge, u2[0])

    @jit
    def clear_edges(shared):
        """Make the slot of zeros that tiles read beyond their first column and row."""
        at = edges_at + 4 * threads
        store4(shared, at, ZERO, ZERO, ZERO, ZERO)
        store4(shared, at + edge, ZERO, ZERO, ZERO, ZERO)
        store4(shared, at + 2 * edge, ZERO, ZERO, ZERO, ZERO)
        store4(shared, at + 3 * edge, ZERO, ZERO, ZERO, ZERO)

    # The u step: pixel, row, patch.
    @jit
    def u_pixel(shared, at, u1, u2, p1x, p1x_left, p1y, p1y_up, p2x, p2x_left, p2y, p2y_up, threshold, theta):
        gx, gy, rho_c, inv_grad2 = load4(shared, at)
        return update_u(
            u1, u2, p1x, p1x_left, p1y, p1y_up, p2x, p2x_left, p2y, p2y_up,
            gx, gy, rho_c, inv_grad2, threshold, theta,
        )  # fmt: skip

    @jit
    def u_row(shared, at, u1, u2, p1x, left1, p1y, up1, p2x, left2, p2y, up2, threshold, theta):
        a0, b0 = u_pixel(shared, at, u1[0], u2[0], p1x[0], left1, p1y[0], up1[0],
                         p2x[0], left2, p2y[0], up2[0], threshold, theta)  # fmt: skip
        a1, b1 = u_pixel(shared, at + pixel, u1[1], u2[1], p1x[1], p1x[0], p1y[1], up1[1],
                         p2x[1], p2x[0], p2y[1], up2[1], threshold, theta)  # fmt: skip
        a2, b2 = u_pixel(shared, at + 2 * pixel, u1[2], u2[2], p1x[2], p1x[1], p1y[2], up1[2],
                         p2x[2], p2x[1], p2y[2], up2[2], threshold, theta)  # fmt: skip
        a3, b3 = u_pixel(shared, at + 3 * pixel, u1[3], u2[3], p1x[3], p1x[2], p1y[3], up1[3],
                         p2x[3], p2x[2], p2y[3], up2[3], threshold, theta)  # fmt: skip
        return (a0, a1, a2, a3), (b0, b1, b2, b3)

    @jit
    def u_patch(shared, t, left_slot, up_slot, u1, u2, p1x, p1y, p2x, p2y, threshold, theta):
        """Do the u step of a patch; its neighbours' duals come from their published edges."""
        left1 = load4(shared, edges_at + 4 * left_slot)
        left2 = load4(shared, edges_at + edge + 4 * left_slot)
        up1 = load4(shared, edges_at + 2 * edge + 4 * up_slot)
        up2 = load4(shared, edges_at + 3 * edge + 4 * up_slot)
        at = 4 * t
        a0, b0 = u_row(shared, at, u1[0], u2[0], p1x[0], left1[0], p1y[0], up1,
                       p2x[0], left2[0], p2y[0], up2, threshold, theta)  # fmt: skip
        a1, b1 = u_row(shared, at + 4 * pixel, u1[1], u2[1], p1x[1], left1[1], p1y[1], p1y[0],
                       p2x[1], left2[1], p2y[1], p2y[0], threshold, theta)  # fmt: skip
        a2, b2 = u_row(shared, at + 8 * pixel, u1[2], u2[2], p1x[2], left1[2], p1y[2], p1y[1],
                       p2x[2], left2[2], p2y[2], p2y[1], threshold, theta)  # fmt: skip
        a3, b3 = u_row(shared, at + 12 * pixel, u1[3], u2[3], p1x[3], left1[3], p1y[3], p1y[2],
                       p2x[3], left2[3], p2y[3], p2y[2], threshold, theta)  # fmt: skip
        return (a0, a1, a2, a3), (b0, b1, b2, b3)

    # The p step: row, patch.
    @jit
    def p_row(px, py, u, u_right, below, dual_step):
        x0, y0 = update_p(px[0], py[0], u[1] - u[0], below[0] - u[0], dual_step)
        x1, y1 = update_p(px[1], py[1], u[2] - u[1], below[1] - u[1], dual_step)
        x2, y2 = update_p(px[2], py[2], u[3] - u[2], below[2] - u[2], dual_step)
        x3, y3 = update_p(px[3], py[3], u_right - u[3], below[3] - u[3], dual_step)
        return (x0, x1, x2, x3), (y0, y1, y2, y3)

    @jit
    def p_patch(px, py, u, right, below, dual_step):
        """Do the p step of one flow component; `right` and `below` are the neighbours' edges."""
        x0, y0 = p_row(px[0], py[0], u[0], right[0], u[1], dual_step)
        x1, y1 = p_row(px[1], py[1], u[1], right[1], u[2], dual_step)
        x2, y2 = p_row(px[2], py[2], u[2], right[2], u[3], dual_step)
        x3, y3 = p_row(px[3], py[3], u[3], right[3], below, dual_step)
        return (x0, x1, x2, x3), (y0, y1, y2, y3)

    @jit
    def load_edges_u(shared, t, down_slot):
        """Return the right neighbour's left columns and the lower neighbour's top rows, of u1 and u2."""
        at = edges_at + 4 * edge
        return (
            load4(shared, at + 4 * (t + 1)),
            load4(shared, at + edge + 4 * (t + 1)),
            load4(shared, at + 2 * edge + 4 * down_slot),
            load4(shared, at + 3 * edge + 4 * down_slot),
        )

    # The image's border, which may run through a patch.
    @jit
    def extend_row(row, last):
        """Repeat column `last` to its right, so that differences across the image's border are zero."""
        b = select(last >= 1, row[1], row[0])
        c = select(last >= 2, row[2], b)
        d = select(last >= 3, row[3], c)
        return row[0], b, c, d

    @jit
    def select_row(condition, yes, no):
        return (
            select(condition, yes[0], no[0]),
            select(condition, yes[1], no[1]),
            select(condition, yes[2], no[2]),
            select(condition, yes[3], no[3]),
        )

    @jit
    def extend_patch(patch, last_x, last_y):
        """Repeat the image's last column and row, at `last_x` and `last_y` of this patch, beyond them."""
        row0 = extend_row(patch[0], last_x)
        row1 = select_row(last_y >= 1, extend_row(patch[1], last_x), row0)
        row2 = select_row(last_y >= 2, extend_row(patch[2], last_x), row1)
        row3 = select_row(last_y >= 3, extend_row(patch[3], last_x), row2)
        return row0, row1, row2, row3

    @jit
    def last_column(patch):
        return patch[0][3], patch[1][3], patch[2][3], patch[3][3]

    # The stop rule's sum.
    @jit
    def change_row(new, old, last_x):
        """Sum of squared differences of a row's pixels up to column `last_x`."""
        d0, d1, d2, d3 = new[0] - old[0], new[1] - old[1], new[2] - old[2], new[3] - old[3]
        d1, d2, d3 = (
            select(last_x >= 1, d1, ZERO),
            select(last_x >= 2, d2, ZERO),
            select(last_x >= 3, d3, ZERO),
        )
        return (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)

    @jit
    def change_patch(new, old, last_x, last_y):
        """Sum of squared differences of the patch's pixels inside the image."""
        row0 = change_row(new[0], old[0], last_x)
        row1 = select(last_y >= 1, change_row(new[1], old[1], last_x), ZERO)
        row2 = select(last_y >= 2, change_row(new[2], old[2], last_x), ZERO)
        row3 = select(last_y >= 3, change_row(new[3], old[3], last_x), ZERO)
        return (row0 + row1) + (row2 + row3)

    return types.SimpleNamespace(
        load_patch=load_patch,
        store_patch=store_patch,
        zero_patch=zero_patch,
        keep_constants=keep_constants,
        publish_p=publish_p,
        publish_u=publish_u,
        clear_edges=clear_edges,
        u_patch=u_patch,
        p_patch=p_patch,
        load_edges_u=load_edges_u,
        extend_patch=extend_patch,
        select_row=select_row,
        last_column=last_column,
        change_patch=change_patch,
    )
