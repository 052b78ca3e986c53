"""The CUDA engine's kernels and launches as they are, under numba's simulator, against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.flow import TVL1Params, reference
from stin.shards.codec import quantise_flow

pytest.importorskip("numba_cuda", reason='numba-cuda is not installed: pip install "stin-pipe[cuda]"')

SCRIPT = Path(__file__).with_name("flow_cuda_simulator.py")
ROOT = Path(__file__).resolve().parents[2]


def make_texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """What went in and what the simulator gave; some 15 s."""
    folder = tmp_path_factory.mktemp("simulator")
    texture = make_texture(40, 40)
    still, moved = texture[4:24, 4:28], texture[6:26, 5:29]
    given = {
        "pairs": np.stack([still, still, moved, still]),  # a moving pair, and one of equal frames
        "clip": np.stack([texture[k : k + 17, k : k + 18] for k in range(3)]),
        "initial": np.array([0.8, -0.6], np.float32).reshape(1, 2, 1, 1)
        * np.ones((1, 2, 17, 18), np.float32),
    }
    np.savez(folder / "in.npz", **given)
    subprocess.run(
        [sys.executable, SCRIPT, folder / "in.npz", folder / "out.npz"],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}, check=True, timeout=300,
    )  # fmt: skip
    return given, np.load(folder / "out.npz")


def test_pairs_equal_the_reference(case):
    given, found = case
    params = TVL1Params(check_interval=2, max_iterations=5, num_scales=2, num_warps=2, epsilon=0.03)
    for pair in range(2):
        frame0, frame1 = (torch.from_numpy(given["pairs"][pair + k]) for k in (0, 2))
        flow, iterations = reference.solve(frame0, frame1, params)
        np.testing.assert_allclose(found["pairs_flow"][pair], flow.numpy(), atol=1e-4)
        np.testing.assert_array_equal(found["pairs_iterations"][pair], iterations)
    assert np.abs(found["pairs_flow"][0]).max() > 1
    assert (found["pairs_flow"][1] == 0).all(), "equal frames must give exactly zero"
    assert (found["pairs_iterations"][0] == 5).all(), "one pair must take all iterations"
    assert (found["pairs_iterations"][1] == 2).all(), "the other must stop at the first check"


def test_clip_with_median_and_initial_flow_equals_the_reference(case):
    given, found = case
    params = TVL1Params(check_interval=3, max_iterations=3, num_scales=1, num_warps=1, median_filter=3)
    initial = torch.from_numpy(given["initial"][0]).movedim(0, -1)
    for pair in range(2):
        frame0, frame1 = (torch.from_numpy(given["clip"][pair + k]) for k in (0, 1))
        flow, iterations = reference.solve(frame0, frame1, params, initial)
        np.testing.assert_allclose(found["clip_flow"][pair], flow.numpy(), atol=1e-4)
        np.testing.assert_array_equal(found["clip_iterations"][pair], iterations)


@pytest.mark.parametrize("name", ["pairs", "clip"])
def test_packed_images_equal_the_codec(case, name):
    _, found = case
    expected = quantise_flow(found[f"{name}_flow"], bound_px=3.0)
    np.testing.assert_array_equal(found[f"{name}_packed"], expected)
