"""Crops, flips and normalisation, against arithmetic done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.stin.clips.transforms import (
    FLOW_BOUND_NORMALISED,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Crop,
    crop_fields,
    crop_frames,
    draw_training_crop,
    flip_quantised,
    normalise_flow,
    normalise_rgb,
    protocol_crops,
)

SCALES = (1.0, 0.875, 0.75, 0.66)


@given(seed=st.integers(0, 2**31), height=st.integers(16, 300), width=st.integers(16, 300))
def test_training_crops_lie_inside_and_keep_near_to_square(seed, height, width):
    crop = draw_training_crop(
        height=height, width=width, scales=SCALES, flip=True, generator=np.random.default_rng(seed)
    )
    assert crop.top >= 0 and crop.top + crop.height <= height
    assert crop.left >= 0 and crop.left + crop.width <= width
    short = min(height, width)
    sides = [round(short * scale) for scale in SCALES]
    steps = [
        min(range(4), key=lambda i, side=side: abs(sides[i] - side)) for side in (crop.height, crop.width)
    ]
    assert abs(steps[0] - steps[1]) <= 1


def test_training_crops_use_all_places_scales_and_both_sides():
    generator = np.random.default_rng(0)
    crops = [
        draw_training_crop(height=64, width=80, scales=SCALES, flip=True, generator=generator)
        for _ in range(2000)
    ]
    assert {(crop.height, crop.width) for crop in crops} == {
        (a, b)
        for a in (64, 56, 48, 42)
        for b in (64, 56, 48, 42)
        if abs([64, 56, 48, 42].index(a) - [64, 56, 48, 42].index(b)) <= 1
    }
    whole = {(crop.top, crop.left) for crop in crops if (crop.height, crop.width) == (48, 48)}
    assert whole == {(y * 16 // 4, x * 32 // 4) for x in range(5) for y in range(5)} & {
        (y * 16 // 4, x * 32 // 4)
        for x, y in [
            *[(x, y) for x in (0, 2, 4) for y in (0, 2, 4)],
            *[(x, y) for x in (1, 3) for y in (1, 3)],
        ]
    }
    assert 0.4 < np.mean([crop.flip for crop in crops]) < 0.6


def test_without_flip_nothing_is_mirrored_and_the_crop_is_the_same():
    pairs = [
        [
            draw_training_crop(
                height=64, width=80, scales=SCALES, flip=flip, generator=np.random.default_rng(seed)
            )
            for flip in (True, False)
        ]
        for seed in range(50)
    ]
    assert not any(without.flip for _, without in pairs)
    assert all((a.top, a.left, a.height, a.width) == (b.top, b.left, b.height, b.width) for a, b in pairs)


def test_protocol_crops_of_the_stored_size_are_the_ten_crops_of_tsn():
    crops = protocol_crops(height=256, width=340, num_crops=10, flip=True)
    places = [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    assert [(crop.top, crop.left) for crop in crops] == places * 2
    assert {(crop.height, crop.width) for crop in crops} == {(224, 224)}
    assert [crop.flip for crop in crops] == [False] * 5 + [True] * 5
    assert len(protocol_crops(height=256, width=340, num_crops=10, flip=False)) == 5
    assert protocol_crops(height=256, width=340, num_crops=1, flip=True) == (crops[4],)


@pytest.mark.parametrize("num_crops", [0, 2, 11])
def test_other_numbers_of_crops_are_refused(num_crops):
    with pytest.raises(ValueError, match=f"num_crops must be 1, 5 or 10, got {num_crops}"):
        protocol_crops(height=10, width=10, num_crops=num_crops, flip=True)


@pytest.mark.parametrize("scales", [(), (1.2,), (0.0, 1.0)])
def test_scales_outside_the_picture_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be shares"):
        draw_training_crop(height=9, width=9, scales=scales, flip=False, generator=np.random.default_rng(0))


def test_a_crop_takes_the_same_pixels_from_every_frame():
    frames = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)
    cut = crop_frames(frames, crop=Crop(top=1, left=2, height=4, width=4, flip=False), size_px=4)
    assert (cut == frames[:, 1:5, 2:6].transpose(0, 3, 1, 2)).all()
    mirrored = crop_frames(frames, crop=Crop(top=1, left=2, height=4, width=4, flip=True), size_px=4)
    assert (mirrored == cut[..., ::-1]).all()


@given(seed=st.integers(0, 2**31), zero=st.sampled_from([128.0, 127.5, 127.0]))
def test_flipping_quantised_fields_equals_flipping_the_motion(seed, zero):
    low = 1 if zero == 128.0 else 0  # our own writer never stores 0
    quantised = np.random.default_rng(seed).integers(low, 255, (3, 2, 4, 5), dtype=np.uint8)
    scale = 0.25
    motion = (quantised.astype(np.float64) - zero) * scale
    flipped = (flip_quantised(quantised, zero=zero).astype(np.float64) - zero) * scale
    assert (flipped[:, 0] == -motion[:, 0, :, ::-1]).all()
    assert (flipped[:, 1] == motion[:, 1, :, ::-1]).all()


def test_flipping_twice_is_nothing():
    fields = np.random.default_rng(0).integers(1, 256, (2, 2, 3, 4), dtype=np.uint8)
    assert (flip_quantised(flip_quantised(fields, zero=128), zero=128) == fields).all()


def test_a_mirrored_field_crop_negates_x_alone():
    fields = np.full((1, 2, 8, 8), 128, np.uint8)
    fields[0, 0], fields[0, 1] = 138, 108
    cut = crop_fields(fields, crop=Crop(top=0, left=0, height=8, width=8, flip=True), size_px=4, zero=128)
    assert (cut[0, 0] == 118).all() and (cut[0, 1] == 108).all()


def test_resizing_keeps_motions_in_stored_pixels():
    fields = np.full((1, 2, 16, 16), 150, np.uint8)
    cut = crop_fields(fields, crop=Crop(top=0, left=0, height=16, width=16, flip=False), size_px=4, zero=128)
    assert (cut == 150).all()


def test_rgb_normalisation_is_imagenets():
    clips = torch.randint(0, 256, (2, 3, 3, 4, 4), dtype=torch.uint8)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    np.testing.assert_allclose(normalise_rgb(clips).numpy(), (clips.numpy() / 255 - mean) / std, atol=2e-6)


@pytest.mark.parametrize(("zero", "scale"), [(128.0, 20 / 127), (127.5, 40 / 255)])
def test_flow_normalisation_is_zero_at_zero_motion_and_in_units_of_the_bound(zero, scale):
    clips = torch.tensor([int(zero + 0.5), 255], dtype=torch.uint8).view(1, 1, 2, 1, 1)
    out = normalise_flow(clips, zero=torch.tensor([zero]), scale=torch.tensor([scale]), bound_px=20.0)
    values = (np.array([int(zero + 0.5), 255]) - zero) * scale / 20 * FLOW_BOUND_NORMALISED
    np.testing.assert_allclose(out.flatten().numpy(), values, rtol=1e-5, atol=1e-7)
    if zero == 128.0:
        assert out.flatten()[0] == 0
    assert abs(out.flatten()[1] - 0.5 / 0.226) < 0.01


def test_flow_normalisation_takes_each_videos_own_coding():
    clips = torch.full((2, 1, 2, 1, 1), 178, dtype=torch.uint8)
    out = normalise_flow(
        clips, zero=torch.tensor([128.0, 78.0]), scale=torch.tensor([0.2, 0.1]), bound_px=10.0
    )
    assert torch.allclose(out[0], out[1])
