import ctypes
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import frames as flow_frames
from stin_pipe.pipeline.flow import resolve_backend, tvl1, tvl1_clip
from stin_pipe.stin.shards.codec import quantise_flow
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
        (GREY[0, 0], GREY[0, 0], "must be one frame, (H, W) grey or (H, W, 3) RGB, or a batch of them"),
        (GREY[..., None], GREY[..., None], "must be (N, H, W) grey or (N, H, W, 3) RGB"),
        (GREY[None], GREY[None], "must be (N, H, W) grey or (N, H, W, 3) RGB, got shape (1, 2, 20, 24)"),
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


@pytest.mark.parametrize("bound_px", [0, -1, float("nan")])
def test_a_bound_must_be_positive(bound_px):
    with pytest.raises(ValueError, match="bound_px must be > 0"):
        tvl1_clip(GREY, bound_px=bound_px, backend="cpu")


def test_a_clip_of_one_frame_has_no_flow():
    with pytest.raises(ValueError, match="at least 2 frames for a flow field, got 1"):
        tvl1_clip(GREY[:1], backend="cpu")


def test_a_back_end_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="backend must be auto, cuda, cpu, opencv, reference, got 'gpu'"):
        resolve_backend("gpu")


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="num_threads must be >= 1, got 0"):
        tvl1(GREY, GREY, backend="cpu", num_threads=0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_grey_from_colour_is_that_of_opencv(dtype):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (2, 32, 40, 3)).astype(dtype)
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colour])
    grey = flow_frames.check_frames(colour, "frames")
    assert grey.dtype == dtype
    np.testing.assert_array_equal(grey, expected)
    on_device = flow_frames._grey_on_device(torch.from_numpy(colour)).numpy()
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


def drifting(num_frames: int) -> np.ndarray:
    """A smooth random picture, RGB, that moves 2 px to the left and 1 px up from frame to frame."""
    noise = np.random.default_rng(2).uniform(0, 255, (60, 80, 3)).astype(np.float32)
    scene = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([scene[k : k + 40, 2 * k : 2 * k + 56] for k in range(num_frames)])


def test_one_pair_has_one_field_and_it_points_where_the_picture_goes():
    colour = drifting(3)
    batch = tvl1(colour[:2], colour[1:], backend="cpu")
    assert batch.shape == (2, 40, 56, 2)
    one = tvl1(colour[0], colour[1], backend="cpu")
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, batch[0])
    np.testing.assert_allclose(one[8:-8, 8:-8].mean((0, 1)), (-2, -1), atol=0.1)
    grey0, grey1 = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colour[:2])
    np.testing.assert_array_equal(tvl1(grey0, grey1, backend="cpu"), one)


def test_torch_frames_give_torch_flow():
    colour = drifting(2)
    flow = tvl1(torch.from_numpy(colour[0]), torch.from_numpy(colour[1]), backend="cpu")
    assert isinstance(flow, torch.Tensor) and flow.dtype == torch.float32
    np.testing.assert_array_equal(flow.numpy(), tvl1(colour[0], colour[1], backend="cpu"))
    floats = torch.from_numpy(colour).float().requires_grad_()
    expected = tvl1_clip(colour.astype(np.float32), backend="cpu")
    np.testing.assert_array_equal(tvl1_clip(floats, backend="cpu").numpy(), expected)
    with pytest.raises(ValueError, match=r"must be uint8 or floating .* got dtype bfloat16"):
        tvl1_clip(floats.bfloat16(), backend="cpu")


def test_floats_in_0_to_1_are_scaled_when_told_and_refused_otherwise():
    colour = drifting(2)
    expected = tvl1(*colour.astype(np.float32), backend="cpu")
    scaled = colour.astype(np.float32) / 255
    np.testing.assert_allclose(tvl1(*scaled, value_range=1, backend="cpu"), expected, atol=1e-3)
    np.testing.assert_array_equal(tvl1(*colour.astype(np.float64), value_range=255, backend="cpu"), expected)
    for call in (lambda: tvl1(*scaled, backend="cpu"), lambda: tvl1_clip(scaled, backend="cpu")):
        with pytest.raises(ValueError, match=r"all values in 0\.\.1: give value_range=1 if 1 is white"):
            call()
    dark = np.float32(colour[0] > 128)
    assert tvl1(dark, dark * 200, backend="cpu").shape == (40, 56, 2), "together they are not in 0..1"


@pytest.mark.parametrize(
    ("scale", "shift", "value_range", "message"),
    [
        (1 / 64, -2.0, None, r"values in 0\.\.255, got -"),
        (257 / 255, 0.0, None, r"values in 0\.\.255, got .*\.\.257"),
        (1.0, 0.0, 1, r"values in 0\.\.1, got .*\.\.255"),
        (1.0, 0.0, 100, "value_range must be 1 or 255, got 100"),
    ],
)
def test_floats_outside_of_their_range_are_refused(scale, shift, value_range, message):
    frames = drifting(2).astype(np.float32) * np.float32(scale) + np.float32(shift)
    with pytest.raises(ValueError, match=message):
        tvl1(*frames, value_range=value_range, backend="cpu")


def test_bytes_have_one_range():
    frames = drifting(2)
    np.testing.assert_array_equal(tvl1(*frames, value_range=255, backend="cpu"), tvl1(*frames, backend="cpu"))
    with pytest.raises(ValueError, match="frames0 and frames1 are uint8, whose white is 255"):
        tvl1(*frames, value_range=1, backend="cpu")


def test_with_a_bound_a_clip_is_quantised_as_shards_keep_it():
    frames = drifting(4)
    for backend in ("cpu", "opencv"):
        packed = tvl1_clip(frames, bound_px=1.5, backend=backend)
        assert packed.shape == (3, 80, 56)
        flow = tvl1_clip(frames, backend=backend)
        np.testing.assert_array_equal(packed, quantise_flow(flow, bound_px=1.5))


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
