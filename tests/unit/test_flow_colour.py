"""Flow in colours: hues by direction, strength by length, and a full length that is a round number."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.pipeline.flow.colour import colour_key, flow_to_colour, full_length


@pytest.mark.parametrize(
    ("motion", "colour"),
    [
        ((4, 0), (255, 0, 0)),  # right: red
        ((0, 0), (255, 255, 255)),
        ((2, 0), (255, 128, 128)),  # half the length, half the colour
        ((8, 0), (191, 0, 0)),  # beyond the full length: darker
        ((float("nan"), 1), (0, 0, 0)),  # unknown
    ],
)
def test_colours_by_hand(motion: tuple[float, float], colour: tuple[int, int, int]) -> None:
    assert flow_to_colour(np.array(motion, np.float32), full_px=4.0).tolist() == list(colour)


def test_directions_have_the_published_order_of_hues() -> None:
    """Down is yellowish, left cyan to blue, up blue to magenta (y points down)."""
    down, left, up = flow_to_colour(np.array([[0, 1], [-1, 0], [0, -1]], float), full_px=1.0).astype(int)
    assert down[0] > 200 and down[1] > 200 and down[2] == 0
    assert left[0] == 0 and left[2] == 255
    assert up[2] == 255 and 0 < up[0] < 255 and up[1] == 0


@given(st.floats(0, 2 * np.pi), st.floats(0.1, 1.0))
def test_neighbouring_directions_have_neighbouring_colours(angle: float, length: float) -> None:
    angles = np.array([angle, angle + 1e-3])
    flow = length * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    first, second = flow_to_colour(flow, full_px=1.0).astype(int)
    assert np.abs(first - second).max() <= 2


def test_the_key_agrees_with_the_colours() -> None:
    key = colour_key(65)
    assert key[32, 32].tolist() == [255, 255, 255] and key[0, 0].tolist() == [255, 255, 255]
    assert np.abs(key[32, 64].astype(int) - [255, 0, 0]).max() <= 5
    assert key[60, 32, 2] < 60 < key[60, 32, 0]  # yellow below


def test_full_length_is_round_and_ignores_a_few_wild_motions() -> None:
    flow = np.zeros((2, 10, 10, 2))
    assert full_length(flow) == 0.5
    flow[..., 0] = 3.2
    flow[0, 0, 0] = 90.0  # one of 200 places
    assert full_length(flow) == 3.5
    flow[..., 0] = 17.0
    assert full_length(flow) == 20.0


def test_without_a_length_the_fields_set_it_and_unknown_motion_does_not_count() -> None:
    flow = np.zeros((8, 8, 2), np.float32)
    flow[..., 0] = 3.2
    flow[0, 0] = np.nan
    picture = flow_to_colour(flow)
    np.testing.assert_array_equal(picture, flow_to_colour(flow, full_px=3.5))
    np.testing.assert_array_equal(picture, flow_to_colour(torch.from_numpy(flow)))
    assert picture[0, 0].tolist() == [0, 0, 0] and picture.shape == (8, 8, 3)
    assert (flow_to_colour(np.full((4, 4, 2), np.nan)) == 0).all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"dimension of 2 .* got shape \(3, 3\)"):
        flow_to_colour(np.zeros((3, 3)), full_px=1.0)
    with pytest.raises(ValueError, match="full_px must be > 0, got 0"):
        flow_to_colour(np.zeros((3, 2)), full_px=0)
