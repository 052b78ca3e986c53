import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import reference

rng = np.random.default_rng(3)


def _random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def test_divergence_is_minus_the_adjoint_of_the_forward_difference():
    u, px, py = _random(11, 13), _random(11, 13), _random(11, 13)
    px[:, -1] = py[-1] = 0  # as the duals are, where the difference is zero
    ux = torch.nn.functional.pad(u[:, 1:] - u[:, :-1], (0, 1))
    uy = torch.nn.functional.pad(u[1:] - u[:-1], (0, 0, 0, 1))
    assert (ux * px + uy * py).sum().item() == pytest.approx(-(u * reference.divergence(px, py)).sum().item())


def test_duals_of_the_last_row_and_column_stay_zero():
    px = py = torch.zeros(5, 6, dtype=torch.float64)
    px, py = reference.update_dual(px, py, _random(5, 6), 0.8)
    assert not px[:, -1].any() and not py[-1].any()
    assert px[:, :-1].all() and py[:-1].all()


def test_a_warp_by_nothing_changes_nothing_and_by_whole_pixels_shifts():
    image = _random(9, 12)
    zero = torch.zeros_like(image)
    torch.testing.assert_close(reference.warp(image, zero, zero), image)
    shifted = reference.warp(image, zero + 2, zero - 1)
    torch.testing.assert_close(shifted[1:, :-2], image[:-1, 2:])
    torch.testing.assert_close(shifted[1:, -1], image[:-1, -1])  # the border is replicated
    torch.testing.assert_close(reference.warp(image, zero + 1e4, zero)[:, 0], image[:, -1])


def test_gradient_is_centred_with_the_border_replicated():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    gx, gy = reference.centred_gradient(3 * x - 2 * y)
    assert (gx[:, 1:-1] == 3).all() and (gx[:, [0, -1]] == 1.5).all()
    assert (gy[1:-1] == -2).all() and (gy[[0, -1]] == -1).all()


def test_resize_keeps_pixel_zero_and_follows_the_ratio():
    ramp = torch.arange(20.0).repeat(10, 1)
    small = reference.resize(ramp, (8, 16), 1.25)
    torch.testing.assert_close(small[0], torch.arange(16.0) * 1.25)
    back = reference.resize(small, (10, 20), (0.8, 0.8))
    torch.testing.assert_close(back[0, :16], ramp[0, :16])


@pytest.mark.parametrize("side", [3, 5])
def test_median_takes_single_outliers_away(side):
    image = torch.zeros(9, 9)
    image[4, 4] = 100
    assert not reference.median(image, side).any()
    steps = torch.arange(9.0).repeat(9, 1)
    torch.testing.assert_close(reference.median(steps, side)[:, 2:-2], steps[:, 2:-2])
