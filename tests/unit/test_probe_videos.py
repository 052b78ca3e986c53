"""The probe videos: what tells their classes, and what does not."""

import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stin_pipe.pipeline.demo_videos import COLOURS
from stin_pipe.pipeline.flow import tvl1_clip

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PROBES = runpy.run_path(str(BENCHMARKS / "probe_videos.py"))
MOTIONS, ORDERS, draw_probe = PROBES["MOTIONS"], PROBES["ORDERS"], PROBES["draw_probe"]
ProbeParams = PROBES["ProbeParams"]
ORDER = ProbeParams(probe="order")


def _hue(frame: np.ndarray) -> str:
    """Return the colour whose chroma is found most in a frame."""
    chroma = frame.astype(float) - frame.mean(2, keepdims=True)
    votes = {}
    for name, rgb in COLOURS.items():
        wanted = np.array(rgb) - np.mean(rgb)
        votes[name] = (chroma @ wanted / np.linalg.norm(wanted)).max()
    return max(votes, key=lambda name: votes[name])


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_the_colours_is_the_class(name: str) -> None:
    frames = draw_probe(name, ORDER, np.random.default_rng(3))
    seen = [_hue(frame) for frame in frames]
    changes = [colour for i, colour in enumerate(seen) if i == 0 or colour != seen[i - 1]]
    assert changes == name.split("-")
    assert min(seen.count(colour) for colour in COLOURS) >= 6


@pytest.mark.slow
def test_the_bag_of_frames_does_not_tell_the_order() -> None:
    """Over many videos each class shows each colour for the same share of the time, wherever it comes."""
    for name in ORDERS:
        shares = dict.fromkeys(COLOURS, 0)
        for seed in range(40):
            frames = draw_probe(name, ProbeParams(probe="order", width=32, height=24), _rng(seed))
            for frame in frames:
                shares[_hue(frame)] += 1
        assert all(abs(count / (40 * 24) - 1 / 3) < 0.025 for count in shares.values()), (name, shares)


def test_order_has_equal_grey_values_throughout() -> None:
    """Two orders drawn alike differ in colour by far and in grey hardly, so flow cannot know them."""
    first, second = (
        np.stack(draw_probe(name, ORDER, np.random.default_rng(8))) for name in (ORDERS[0], ORDERS[-1])
    )
    grey = [np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]) for clip in (first, second)]
    assert np.abs(first.astype(int) - second).max() > 80
    change = np.abs(grey[0].astype(int) - grey[1])
    assert change.mean() < 0.2 and change.max() <= 8  # the brightest texture saturates


def test_flow_of_the_disc_is_the_class_and_still_elsewhere() -> None:
    params = ProbeParams(probe="motion", num_frames=6)
    for name, (x, y) in MOTIONS.items():
        flow = tvl1_clip(np.stack(draw_probe(name, params, np.random.default_rng(5))), backend="cpu")
        speed = np.hypot(flow[..., 0], flow[..., 1])
        mean = flow[speed > 0.8].mean(0)
        assert np.dot(mean, (x, y)) > 0.9, name
        assert (speed > 0.8).mean() < 0.25


def test_noise_moves_its_share_of_the_picture() -> None:
    still = ProbeParams(probe="motion", num_frames=16)
    for share in (0.3, 0.6):
        params = ProbeParams(probe="motion", num_frames=16, noise_share=share)
        moving = []
        for seed in range(6):
            flow = tvl1_clip(np.stack(draw_probe("left", params, _rng(seed))), backend="cpu")
            quiet = tvl1_clip(np.stack(draw_probe("left", still, _rng(seed))), backend="cpu")
            moving.append(
                (np.hypot(flow[..., 0], flow[..., 1]) > 0.8).mean()
                - (np.hypot(quiet[..., 0], quiet[..., 1]) > 0.8).mean()
            )
        assert 0.6 * share < np.mean(moving) < 1.1 * share


@pytest.mark.slow
def test_noise_has_no_direction_of_its_own() -> None:
    """The mean motion of the background over many videos is none, for every class alike."""
    still_params = ProbeParams(probe="motion", num_frames=11, width=32, height=24)
    params = replace(still_params, noise_share=0.5)
    for name in MOTIONS:
        means = []
        for seed in range(24):
            still = draw_probe(name, still_params, _rng(seed))
            noisy = draw_probe(name, params, _rng(seed))
            flow = tvl1_clip(np.stack(noisy), backend="cpu") - tvl1_clip(np.stack(still), backend="cpu")
            means.append(flow.mean((0, 1, 2)))
        assert np.abs(np.mean(means, axis=0)).max() < 0.15, name


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_share must be in 0\.\.0\.9, got 1"):
        ProbeParams(probe="motion", noise_share=1.0)
    with pytest.raises(ValueError, match="probe must be order or motion, got 'colour'"):
        ProbeParams(probe="colour")  # pyright: ignore[reportArgumentType]


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
