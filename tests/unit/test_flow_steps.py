import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.pipeline.flow.steps import GRADIENT_FLOOR, catmull_rom, update_p, update_u

number = st.floats(-50, 50)
THRESHOLD, THETA = 0.045, 0.3


@given(u1=number, u2=number, gx=number, gy=number, rho_c=st.floats(-300, 300))
def test_the_clamp_is_the_thresholding_step_of_the_paper(u1, u2, gx, gy, rho_c):
    grad2 = gx * gx + gy * gy
    inv_grad2 = 1 / grad2 if grad2 > GRADIENT_FLOOR else 0.0
    rho = rho_c + gx * u1 + gy * u2
    if grad2 <= GRADIENT_FLOOR:
        step = 0.0
    elif rho < -THRESHOLD * grad2:
        step = THRESHOLD
    elif rho > THRESHOLD * grad2:
        step = -THRESHOLD
    else:
        step = -rho / grad2
    new1, new2 = update_u(u1, u2, 0, 0, 0, 0, 0, 0, 0, 0, gx, gy, rho_c, inv_grad2, THRESHOLD, THETA)
    assert math.isclose(new1, u1 + step * gx, rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(new2, u2 + step * gy, rel_tol=1e-9, abs_tol=1e-9)


def test_each_dual_enters_the_divergence_of_its_own_component_once():
    duals = {
        "p1x": 1,
        "p1x_left": -1,
        "p1y": 1,
        "p1y_up": -1,
        "p2x": 1,
        "p2x_left": -1,
        "p2y": 1,
        "p2y_up": -1,
    }
    still = {"warped_gx": 0.0, "warped_gy": 0.0, "rho_c": 0.0, "inv_grad2": 0.0}
    for name, sign in duals.items():
        values = dict.fromkeys(duals, 0.0) | {name: 2.0}
        new = update_u(5.0, 7.0, **values, **still, threshold=THRESHOLD, theta=THETA)
        moved = (THETA * sign * 2.0, 0.0) if name.startswith("p1") else (0.0, THETA * sign * 2.0)
        np.testing.assert_allclose(new, (5.0 + moved[0], 7.0 + moved[1]))


@given(angle=st.floats(0, 6.28), radius=st.floats(0, 1), ux=number, uy=number)
def test_duals_stay_in_the_unit_disc(angle, radius, ux, uy):
    px, py = update_p(radius * math.cos(angle), radius * math.sin(angle), ux, uy, 0.25 / 0.3)
    assert math.hypot(px, py) <= 1 + 1e-9


@given(t=st.floats(0, 1, exclude_max=True), coefficients=st.tuples(number, number, number))
def test_bicubic_weights_reproduce_parabolas(t, coefficients):
    a, b, c = coefficients
    weights = catmull_rom(np.float64(t))
    assert math.isclose(sum(weights), 1, abs_tol=1e-12)
    value = sum(w * (a * x * x + b * x + c) for w, x in zip(weights, (-1, 0, 1, 2), strict=True))
    assert math.isclose(value, a * t * t + b * t + c, abs_tol=1e-9)


def test_bicubic_weights_are_the_kernel_with_a_of_minus_half():
    # w(x) = (a+2)x^3 - (a+3)x^2 + 1 up to 1; ax^3 - 5ax^2 + 8ax - 4a up to 2
    a, t = -0.5, 0.3
    near = [(a + 2) * x**3 - (a + 3) * x**2 + 1 for x in (t, 1 - t)]
    far = [a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a for x in (1 + t, 2 - t)]
    np.testing.assert_allclose(catmull_rom(np.float64(t)), (far[0], near[0], near[1], far[1]), atol=1e-12)
