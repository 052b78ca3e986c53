"""The CUDA back end whole, under numba's simulator, against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import TVL1Params, reference
from stin_pipe.stin.shards.codec import quantise_flow

pytest.importorskip("numba_cuda", reason='numba-cuda is not installed: pip install "stin-pipe[cuda]"')

pytestmark = pytest.mark.slow

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
        "frames0": np.stack([still, still, moved]),
        "frames1": np.stack([moved, still, still]),
        "clip": np.stack([texture[2 * k : 2 * k + 17, k : k + 18] for k in range(4)]),
    }
    np.savez(folder / "in.npz", **given)
    subprocess.run(
        [sys.executable, SCRIPT, folder / "in.npz", folder / "out.npz"],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}, check=True, timeout=300,
    )  # fmt: skip
    return given, np.load(folder / "out.npz")


def test_pairs_of_several_batches_equal_the_reference(case):
    given, found = case
    params = TVL1Params(check_interval=2, max_iterations=5, num_scales=2, num_warps=1, epsilon=0.03)
    for pair in range(3):
        frame0, frame1 = (torch.from_numpy(given[name][pair]) for name in ("frames0", "frames1"))
        flow, iterations = reference.solve(frame0, frame1, params)
        np.testing.assert_allclose(found["pairs_flow"][pair], flow.numpy(), atol=1e-4)
        np.testing.assert_array_equal(found["pairs_iterations"][pair], iterations)
    assert min(np.abs(found["pairs_flow"][pair]).max() for pair in (0, 2)) > 1
    assert (found["pairs_iterations"][0] == 5).all(), "one pair must take all iterations"
    assert (found["pairs_flow"][1] == 0).all(), "equal frames must give exactly zero"
    assert (found["pairs_iterations"][1] == 2).all(), "equal frames must stop at the first check"


def test_clip_with_median_equals_the_reference(case):
    given, found = case
    params = TVL1Params(check_interval=3, max_iterations=3, num_scales=1, num_warps=1, median_filter=3)
    traced = reference.solve_pairs(given["clip"][:-1], given["clip"][1:], params)
    np.testing.assert_allclose(found["clip_flow"], traced.flow, atol=1e-4)
    np.testing.assert_array_equal(found["clip_iterations"], traced.iterations)
    assert np.abs(traced.flow).max() > 1


def test_packed_images_equal_the_codec(case):
    _, found = case
    np.testing.assert_array_equal(found["packed"], quantise_flow(found["clip_flow"], bound_px=3.0))


@pytest.mark.parametrize(("check", "going_on"), [(0, [0, 1, 2, 3, 5, 6, 7, 9, 10]), (1, [1, 5, 7, 9])])
def test_pairs_that_go_on_keep_their_order_however_few_threads_decide(case, check, going_on):
    _, found = case
    active, (count,) = found[f"decide{check}_active"], found[f"decide{check}_num_active"]
    assert active[:count].tolist() == going_on
    ended = np.isin(np.arange(11), [4, 8])
    np.testing.assert_array_equal(found[f"decide{check}_iterations"], np.where(ended, 16, 24))
    np.testing.assert_array_equal(found[f"decide{check}_parity"], (np.arange(11) + ~ended) % 2)
