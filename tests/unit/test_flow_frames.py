import ctypes
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import stin_pipe.pipeline.flow
from stin_pipe.pipeline.flow import frames as flow_frames
from stin_pipe.pipeline.flow import resolve_backend, tvl1, tvl1_clip
from stin_pipe.stin.shards.errors import StinPipeError

GREY = np.zeros((2, 20, 24), np.uint8)


def _with(value: float) -> np.ndarray:
    frames = GREY.astype(np.float32)
    frames[1, 3, 5] = value
    return frames


@pytest.mark.parametrize(
    ("frames0", "frames1", "message"),
    [
        (GREY[:0], GREY[:0], "frames0 must not be empty, got shape (0, 20, 24)"),
        (GREY[:, :, :0], GREY[:, :, :0], "frames0 must not be empty"),
        (GREY, GREY[:1], "frames0 and frames1 must have one shape, got (2, 20, 24) and (1, 20, 24)"),
        (GREY, GREY.astype(np.float32), "must have one dtype, got uint8 and float32"),
        (GREY[0], GREY[0], "must be (N, H, W) grey or (N, H, W, 3) RGB, got shape (20, 24)"),
        (GREY[..., None], GREY[..., None], "must be (N, H, W) grey or (N, H, W, 3) RGB"),
        (GREY[:, :15], GREY[:, :15], "must be at least 16 px high and wide, got 15 x 24 (H x W)"),
        (GREY.astype(np.int32), GREY.astype(np.int32), "must be uint8 or floating"),
        (_with(0), _with(np.nan), "frames1 must be finite, got NaN or infinity"),
        (_with(np.inf), _with(0), "frames0 must be finite, got NaN or infinity"),
    ],
)
def test_unusable_frames_are_refused_with_a_clear_error(frames0, frames1, message):
    with pytest.raises(ValueError) as caught:
        tvl1(frames0, frames1, backend="cpu")
    assert message in str(caught.value)


def test_a_float64_beyond_float32_is_refused():
    frames = _with(0).astype(np.float64)
    frames[0, 0, 0] = 1e300
    with pytest.raises(ValueError, match="frames must be finite"), np.errstate(over="ignore"):
        tvl1_clip(frames, backend="cpu")


def test_a_clip_of_one_frame_has_no_flow():
    with pytest.raises(ValueError, match="at least 2 frames for a flow field, got 1"):
        tvl1_clip(GREY[:1], backend="cpu")


def test_a_back_end_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="backend must be auto, cuda, cpu, opencv, reference, got 'gpu'"):
        resolve_backend("gpu")


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="num_threads must be >= 1, got 0"):
        tvl1(GREY, GREY, backend="cpu", num_threads=0)


def test_pairs_cannot_start_from_the_pair_before():
    with pytest.raises(ValueError, match="use tvl1_clip"):
        tvl1(GREY, GREY, params=stin_pipe.pipeline.flow.TVL1Params(warm_start=True), backend="cpu")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_grey_from_colour_is_that_of_opencv(dtype):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (2, 32, 40, 3)).astype(dtype)
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colour])
    grey = flow_frames.check_frames(colour, "frames")
    assert grey.dtype == dtype
    np.testing.assert_array_equal(grey, expected)
    on_device = flow_frames._grey_on_device(torch.from_numpy(colour), dtype).numpy()
    if dtype == "uint8":
        np.testing.assert_array_equal(on_device, expected)
    else:
        np.testing.assert_allclose(on_device, expected, atol=5e-5)


def test_colour_and_views_give_the_flow_of_their_grey_copy():
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    grey = flow_frames.check_frames(colour, "frames")
    expected = tvl1_clip(grey, backend="cpu")
    np.testing.assert_array_equal(tvl1_clip(colour, backend="cpu"), expected)
    np.testing.assert_array_equal(tvl1_clip(grey[:, ::-1][:, ::-1], backend="cpu"), expected)
    np.testing.assert_array_equal(tvl1_clip(grey.astype(np.float64), backend="cpu"), expected)
    read_only = grey.astype(np.float32)
    read_only.flags.writeable = False
    np.testing.assert_array_equal(tvl1_clip(read_only, backend="cpu"), expected)
    unaligned = np.frombuffer(b"\0" + grey.astype(np.float32).tobytes(), np.float32, offset=1).reshape(
        grey.shape
    )
    np.testing.assert_array_equal(tvl1_clip(unaligned, backend="cpu"), expected)


def test_importing_the_package_loads_no_back_end():
    program = (
        "import sys, stin_pipe.pipeline.flow\n"
        "print(sorted({'torch', 'cv2', 'numba', 'ray'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_cuda_is_refused_with_a_reason_and_auto_falls_back_where_there_is_no_driver(monkeypatch):
    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert resolve_backend("auto") == "cpu"
    with pytest.raises(StinPipeError, match="cannot run here: there is no NVIDIA driver"):
        tvl1(GREY, GREY, backend="cuda")
