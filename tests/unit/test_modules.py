"""Apparent difference and self-attention: what must be zero, what must change sign, what must sum to one."""

import pytest
import torch
from torch.autograd import gradcheck

from stin_pipe.stin.network.modules import ApparentDifference, build_attention, segment_differences

FORMS = ["signed", "abs", "l2"]


@pytest.mark.parametrize("form", FORMS)
def test_identical_frames_have_exactly_zero_difference(form):
    frame = torch.randn(2, 1, 5, 3, 4)
    differences = segment_differences(frame.expand(2, 6, 5, 3, 4), form=form)
    assert differences.shape[:2] == (2, 5)
    assert (differences == 0).all()


def test_reversed_segments_negate_the_signed_difference():
    z = torch.randn(2, 5, 4, 3, 3)
    forward = segment_differences(z, form="signed")
    backward = segment_differences(z.flip(1), form="signed")
    assert torch.equal(backward.flip(1), -forward)
    assert forward.abs().max() > 0


def test_reversed_segments_leave_the_unsigned_differences():
    z = torch.randn(2, 5, 4, 3, 3)
    for form in ("abs", "l2"):
        forward = segment_differences(z, form=form)
        torch.testing.assert_close(segment_differences(z.flip(1), form=form).flip(1), forward)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_differences_compare_segments_that_far_apart(step):
    z = torch.arange(5.0).view(1, 5, 1, 1, 1) ** 2
    expected = [(k + step) ** 2 - k**2 for k in range(5 - step)]
    assert segment_differences(z, form="signed", step=step).flatten().tolist() == expected


@pytest.mark.parametrize("step", [0, 5, -1])
def test_steps_that_leave_the_video_are_refused(step):
    with pytest.raises(ValueError, match=rf"step must be in 1\.\.4 for 5 segments, got {step}"):
        segment_differences(torch.zeros(1, 5, 1, 1, 1), form="signed", step=step)


def test_l2_is_the_length_over_channels_with_a_finite_gradient_at_zero():
    z = torch.zeros(1, 2, 2, 1, 1, requires_grad=True)
    segment_differences(z, form="l2").sum().backward()
    assert (z.grad == 0).all()
    noise = torch.tensor([0.0, 0.0, 1e-7, 0.0]).view(1, 2, 2, 1, 1).requires_grad_()
    segment_differences(noise, form="l2").sum().backward()
    assert noise.grad.abs().max() < 1e-4  # rounding must not push the weights
    z = torch.tensor([0.0, 0.0, 3.0, 4.0]).view(1, 2, 2, 1, 1)
    assert segment_differences(z, form="l2").item() == pytest.approx(5, abs=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_the_difference_module_hands_back_what_it_refined(form):
    module = ApparentDifference(6, channels=4, form=form).eval()
    found = module(torch.randn(2, 4, 6, 5, 5), step=2)
    assert found.features.shape == (2, 2, 4, 5, 5)
    assert found.differences.shape == (2, 2, 1 if form == "l2" else 4, 5, 5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_difference_module_agree_with_finite_differences(form):
    torch.manual_seed(0)
    module = ApparentDifference(3, channels=2, form=form).double().eval()
    x = torch.randn(1, 3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda value: module(value).features, (x,))


@pytest.mark.parametrize("form", ["sagan", "nonlocal", "cbam"])
def test_gradients_of_attention_agree_with_finite_differences(form):
    torch.manual_seed(0)
    module = build_attention(form, 8).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda value: module(value).features, (x,))
    assert gradcheck(lambda value: module(value).weights, (x,))


@pytest.mark.parametrize("form", ["sagan", "nonlocal", "cbam"])
def test_attention_weights_sum_to_one_over_the_places_of_each_clip(form):
    attended = build_attention(form, 16)(torch.randn(3, 16, 4, 5))
    assert attended.features.shape == (3, 16, 4, 5)
    assert attended.weights.shape == (3, 4, 5)
    torch.testing.assert_close(attended.weights.sum((1, 2)), torch.ones(3))
    assert (attended.weights >= 0).all()


@pytest.mark.parametrize("form", ["sagan", "nonlocal"])
def test_self_attention_is_the_textbooks_sum(form):
    torch.manual_seed(0)
    module = build_attention(form, 8)
    x = torch.randn(1, 8, 2, 2)
    places = x[0].flatten(1).T  # (P, C)

    def at(layer):
        return places @ layer.weight[:, :, 0, 0].T

    query, key, value = at(module.query), at(module.key), at(module.value)
    scale = 1 if form == "sagan" else query.shape[1] ** -0.5
    mixed = torch.stack([torch.softmax(key @ q * scale, 0) @ value for q in query])
    if form == "nonlocal":
        mixed = mixed @ module.project.weight[:, :, 0, 0].T
    torch.testing.assert_close(module(x).features[0].flatten(1).T, mixed)


@pytest.mark.parametrize("form", ["sagan", "nonlocal", "cbam"])
def test_attention_does_not_look_at_other_clips(form):
    module = build_attention(form, 8)
    x = torch.randn(2, 8, 3, 3)
    changed = x.clone()
    changed[1] = torch.randn(8, 3, 3)
    assert torch.equal(module(x).features[0], module(changed).features[0])
