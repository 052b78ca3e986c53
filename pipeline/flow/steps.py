"""The two steps of one TV-L1 iteration at one pixel, and the weights of its warp.

Every function takes and returns plain scalars and names no back end, so that `numba.njit`, numba's
`cuda.jit(device=True)` and plain Python all compile or run this one definition; the CPU engine also
applies it to whole SIMD vectors. Constants are float32: a Python float would widen float32 to float64.

Legend: u1, u2 flow in x and y; p1x, p1y, p2x, p2y the duals of u1 and u2; `_left` the value one pixel to
the left, `_up` one pixel above (zero outside the image).

Source: Zach et al. 2007, equations 13-15 and the fixed-point update of the dual variables.
"""

import math

import numpy as np

HALF = np.float32(0.5)
ONE = np.float32(1.0)
ONE_AND_HALF = np.float32(1.5)
TINY = np.float32(1e-30)
GRADIENT_FLOOR = np.finfo(np.float32).eps
"""|grad|^2 at or below this (grey levels^2) counts as no gradient: the data term is silent there."""
TWO_AND_HALF = np.float32(2.5)


def update_u(
    u1,
    u2,
    p1x,
    p1x_left,
    p1y,
    p1y_up,
    p2x,
    p2x_left,
    p2y,
    p2y_up,
    warped_gx,
    warped_gy,
    rho_c,
    inv_grad2,
    threshold,
    theta,
):
    """Return the new (u1, u2): v = u + TH(u), then u = v + theta * div p.

    `rho_c` is I1w - gx*u1_0 - gy*u2_0 - I0 of this warp, `inv_grad2` 1/(gx^2 + gy^2) or zero where the
    gradient vanishes, `threshold` lambda * theta.

    Differs: the three cases of the thresholding step are one clamp of rho/|grad|^2 to +-threshold, which
    is the same without a branch.
    """
    rho = rho_c + warped_gx * u1 + warped_gy * u2
    along = min(max(rho * inv_grad2, -threshold), threshold)
    div1 = (p1x - p1x_left) + (p1y - p1y_up)
    div2 = (p2x - p2x_left) + (p2y - p2y_up)
    return u1 - along * warped_gx + theta * div1, u2 - along * warped_gy + theta * div2


def update_p(px, py, ux, uy, dual_step):
    """Return the new dual (px, py) of one flow component with forward differences `ux`, `uy`.

    p = (p + dual_step * grad u) / (1 + dual_step * |grad u|); differences are zero across the last column
    and row, so that the duals there stay zero.

    Differs: a tiny term keeps the root off zero, where estimates of 1/sqrt are infinite; it is far below
    what float32 resolves beside 1.
    """
    shrink = ONE / (ONE + dual_step * math.sqrt(ux * ux + (uy * uy + TINY)))
    return (px + dual_step * ux) * shrink, (py + dual_step * uy) * shrink


def catmull_rom(t):
    """Return the four weights of the samples at -1, 0, 1, 2 for a position `t` in [0, 1) after sample 0.

    The bicubic kernel with a = -0.5, in Horner form. The last weight closes the sum to one.
    """
    before = ((ONE - HALF * t) * t - HALF) * t
    here = (ONE_AND_HALF * t - TWO_AND_HALF) * t * t + ONE
    after_next = (HALF * t - HALF) * t * t
    return before, here, ONE - before - here - after_next, after_next
