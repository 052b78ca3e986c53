"""The compiled CPU engine against the reference, and against itself."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import TVL1Params, reference, tvl1, tvl1_clip
from stin_pipe.pipeline.flow.backends import solve
from stin_pipe.pipeline.flow.frames import TracedFlow

FIXED = TVL1Params(epsilon=0.0, max_iterations=30)
SMALL_SIZES = [(16, 16), (17, 31), (33, 16), (37, 53), (64, 48), (50, 97)]


def _clip(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A textured scene that drifts and turns a little from frame to frame, with some noise."""
    rng = np.random.default_rng(seed)
    scene = cv2.GaussianBlur(rng.normal(size=(2 * height, 2 * width)).astype(np.float32), (0, 0), 2.0)
    scene = 128 + 45 * scene / scene.std()
    frames = []
    for t in range(num_frames):
        motion = cv2.getRotationMatrix2D((width, height), 0.6 * t, 1.0)
        motion[:, 2] += (1.3 * t - width / 2, -0.7 * t - height / 2)
        frame = cv2.warpAffine(scene, motion, (width, height), flags=cv2.INTER_CUBIC)
        frames.append(frame + rng.normal(size=frame.shape))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def trace_clip(frames: np.ndarray, **options) -> TracedFlow:
    """Solve a clip and keep the iterations, which `tvl1_clip` does not give."""
    return solve(frames[:-1], frames[1:], chained=True, **options)


def _solve_reference(frames: np.ndarray, params: TVL1Params, dtype: torch.dtype) -> np.ndarray:
    frame0, frame1 = (torch.from_numpy(frame).to(dtype) for frame in frames)
    return reference.solve(frame0, frame1, params)[0].double().numpy()


@pytest.mark.parametrize("size", SMALL_SIZES)
def test_at_fixed_iterations_the_error_is_at_most_twice_that_of_float32(size):
    frames = _clip(2, *size)
    exact = _solve_reference(frames, FIXED, torch.float64)
    single = _solve_reference(frames, FIXED, torch.float32)
    traced = trace_clip(frames, params=FIXED, backend="cpu")
    assert (traced.iterations == 30).all()
    ours = np.sqrt(np.mean((traced.flow[0] - exact) ** 2))
    theirs = np.sqrt(np.mean((single - exact) ** 2))
    assert ours <= 2 * theirs, f"rms error {ours:.3g} against {theirs:.3g} of the float32 reference"
    assert np.abs(exact).mean() > 0.1  # there was something to solve


def test_with_the_stop_rule_iterations_and_flow_agree():
    solves = differing = 0
    for seed in range(3):
        frames = _clip(2, 61, 83, seed)
        ours = trace_clip(frames, backend="cpu")
        theirs = trace_clip(frames, backend="reference")
        assert np.abs(ours.flow - theirs.flow).mean() <= 0.01
        assert (ours.iterations % 8 == 0).all() and ours.iterations.max() < 300
        solves += ours.iterations.size
        differing += (np.abs(ours.iterations - theirs.iterations) > 8).sum()
    assert differing <= 0.05 * solves


@pytest.mark.parametrize(
    "change",
    [
        {"median_filter": 3},
        {"median_filter": 5},
        {"scale_step": 0.5},
        {"num_scales": 9},
        {"check_interval": 5, "max_iterations": 23},
        {"check_interval": 50},
        {"max_iterations": 1, "num_warps": 1},
        {"tau": 0.2, "lambda_": 0.1, "theta": 0.4},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_parameter_means_what_it_means_in_the_reference(change):
    params = dataclasses.replace(TVL1Params(), **change)
    frames = _clip(3, 53, 70)
    ours = trace_clip(frames, params=params, backend="cpu")
    theirs = trace_clip(frames, params=params, backend="reference")
    assert ours.iterations.shape == theirs.iterations.shape
    assert np.abs(ours.flow - theirs.flow).mean() <= 0.01
    defaults = tvl1_clip(frames, backend="cpu")
    assert np.abs(ours.flow[1] - defaults[1]).max() > 0  # the parameter had an effect


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_identical_frames_have_exactly_no_flow(backend):
    frame = _clip(1, 40, 56)
    assert not tvl1(frame, frame, backend=backend).any()
    flat = np.full((1, 40, 56), 90, np.uint8)
    assert not tvl1(flat, flat, backend=backend).any()


def test_a_batch_equals_single_calls_bit_for_bit_on_any_number_of_threads():
    frames = _clip(6, 47, 66)
    batch = solve(frames[:-1], frames[1:], backend="cpu", num_threads=1)
    for i in range(5):
        single = solve(frames[i : i + 1], frames[i + 1 : i + 2], backend="cpu", num_threads=1)
        np.testing.assert_array_equal(single.flow[0], batch.flow[i])
        np.testing.assert_array_equal(single.iterations[0], batch.iterations[i])
    for threads in (2, 3, 8):
        flow = tvl1(frames[:-1], frames[1:], backend="cpu", num_threads=threads)
        np.testing.assert_array_equal(flow, batch.flow)


def test_a_clip_equals_its_pairs_bit_for_bit_on_any_number_of_threads():
    frames = _clip(40, 30, 36)
    pairs = tvl1(frames[:-1], frames[1:], backend="cpu", num_threads=1)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(tvl1_clip(frames, backend="cpu", num_threads=threads), pairs)
    np.testing.assert_array_equal(tvl1_clip(frames.astype(np.float32), backend="cpu"), pairs)


def test_repeated_runs_and_other_sizes_between_them_change_no_bit():
    frames = _clip(3, 40, 57)
    first = tvl1_clip(frames, backend="cpu")
    for size in SMALL_SIZES:
        tvl1_clip(_clip(2, *size), backend="cpu")
        np.testing.assert_array_equal(tvl1_clip(frames, backend="cpu"), first)


def test_frames_are_not_changed():
    frames = _clip(3, 32, 40).astype(np.float32)
    copy = frames.copy()
    tvl1_clip(frames, backend="cpu")
    np.testing.assert_array_equal(frames, copy)
