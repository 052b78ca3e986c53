"""The CUDA engine on a GPU: against the reference, against truth, and against itself."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import TVL1Params, reference, tvl1, tvl1_clip
from stin_pipe.pipeline.flow.backends import solve
from stin_pipe.pipeline.flow.cuda import engine as cuda
from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.stin.shards.codec import quantise_flow

pytestmark = pytest.mark.gpu

FIXED = TVL1Params(epsilon=0.0, max_iterations=60)
SIZES = [(16, 16), (17, 31), (33, 16), (37, 53), (64, 48), (101, 131), (240, 320), (256, 340)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _only_where_it_runs():
    """With STIN_REQUIRE_GPU=1 a machine that cannot run the engine fails here, with the reason."""
    reason = cuda.why_unavailable()
    if reason and os.environ.get("STIN_REQUIRE_GPU") != "1":
        pytest.skip(reason)
    assert reason is None
    yield
    release_memory()


def make_clip(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A textured scene that drifts and turns, unlike in x and y, with some noise."""
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


def release_memory() -> None:
    """Give back the GPU memory that is kept for the next batches."""
    torch.cuda.synchronize()
    cuda._sessions.clear()


def solve_exactly(pair: np.ndarray, params: TVL1Params, dtype: torch.dtype) -> np.ndarray:
    frame0, frame1 = (torch.from_numpy(frame).to("cuda", dtype) for frame in pair)
    return reference.solve(frame0, frame1, params)[0].double().cpu().numpy()


@pytest.mark.parametrize("size", SIZES)
def test_at_fixed_iterations_the_error_is_at_most_twice_that_of_float32(size):
    frames = make_clip(2, *size)
    exact, single = (solve_exactly(frames, FIXED, dtype) for dtype in (torch.float64, torch.float32))
    traced = trace_clip(frames, params=FIXED, backend="cuda")
    assert (traced.iterations == FIXED.max_iterations).all()
    ours, theirs = (np.sqrt(np.mean((flow - exact) ** 2)) for flow in (traced.flow[0], single))
    assert ours <= 2 * theirs, f"rms error {ours:.3g} against {theirs:.3g} of the float32 reference"
    assert np.abs(exact).mean() > 0.1


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
    frames = make_clip(3, 53, 170)
    ours = trace_clip(frames, params=params, backend="cuda")
    theirs = trace_clip(frames, params=params, backend="reference")
    assert ours.iterations.shape == theirs.iterations.shape
    assert np.abs(ours.flow - theirs.flow).mean() <= 0.01
    assert np.abs(ours.flow[1] - tvl1_clip(frames, backend="cuda")[1]).max() > 0


@pytest.mark.shared_data
def test_with_the_stop_rule_real_clips_agree_with_the_reference(shared_data):
    videos = sorted((shared_data / "egogestar/videos").glob("*/*.mp4"))[::25]
    assert len(videos) >= 8
    solves = differing = 0
    for video in videos:
        capture = cv2.VideoCapture(str(video))
        frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(3)]
        capture.release()
        frames = np.stack(frames)
        ours = trace_clip(frames, backend="cuda")
        device_frames = torch.from_numpy(frames).cuda().float()
        for pair in range(2):
            flow, iterations = reference.solve(device_frames[pair], device_frames[pair + 1], TVL1Params())
            assert np.abs(ours.flow[pair] - flow.cpu().numpy()).mean() <= 0.01
            solves += np.size(iterations)
            differing += (np.abs(ours.iterations[pair] - np.array(iterations)) > 8).sum()
    assert differing <= 0.05 * solves


def test_a_known_smooth_motion_is_found():
    """The motion differs in x and y, so that swapped, negated or doubled components fail."""
    y, x = np.mgrid[:144, :200].astype(np.float64)
    truth = np.stack([1.6 + 0.5 * np.sin(y / 17), -0.7 + 0.3 * np.cos(x / 23)], axis=-1)

    def texture(x, y):
        waves = 40 * np.sin(0.31 * x + 0.12 * y) + 35 * np.sin(0.09 * x - 0.27 * y + 1)
        return 128 + waves + 25 * np.sin(0.17 * x + 0.23 * y + 0.4 * np.sin(0.05 * x))

    frame0 = texture(x + truth[..., 0], y + truth[..., 1])[None].astype(np.float32)
    flow = tvl1(frame0, texture(x, y)[None].astype(np.float32), backend="cuda")[0]
    error = np.linalg.norm(flow - truth, axis=-1)[4:-4, 4:-4]
    assert error.mean() < 0.06
    assert np.percentile(error, 99) < 0.3


@pytest.mark.parametrize("size", SIZES)
def test_equal_frames_give_exactly_zero(size):
    frames = np.repeat(make_clip(1, *size), 2, axis=0)
    traced = trace_clip(frames, backend="cuda")
    assert (traced.flow == 0).all()
    assert (traced.iterations == 8).all()


@pytest.mark.parametrize("size", [(37, 53), (131, 174), (256, 340)])
def test_batches_clips_and_single_pairs_give_the_same_bits(size, monkeypatch):
    frames = make_clip(12, *size)
    clip = trace_clip(frames, backend="cuda")
    pairs = solve(frames[:-1], frames[1:], backend="cuda")
    monkeypatch.setattr(cuda, "BATCH_SIZES", (1, 4))  # three batches, the last one not full
    release_memory()
    batches = trace_clip(frames, backend="cuda")
    singles = [solve(frames[k : k + 1], frames[k + 1 : k + 2], backend="cuda") for k in range(11)]
    for other in (pairs, batches):
        np.testing.assert_array_equal(other.flow, clip.flow)
        np.testing.assert_array_equal(other.iterations, clip.iterations)
    np.testing.assert_array_equal(np.concatenate([single.flow for single in singles]), clip.flow)


def test_repeated_runs_give_the_same_bits():
    """The first run launches one by one, the second records, the third replays."""
    frames = make_clip(9, 131, 174)
    runs = [trace_clip(frames, backend="cuda") for _ in range(5)]
    other = make_clip(9, 131, 174, seed=1)
    assert not np.array_equal(tvl1_clip(other, backend="cuda"), runs[0].flow)
    runs.append(trace_clip(frames, backend="cuda"))
    for run in runs[1:]:
        np.testing.assert_array_equal(run.flow, runs[0].flow)
        np.testing.assert_array_equal(run.iterations, runs[0].iterations)


def test_frames_on_the_gpu_stay_there_on_any_stream():
    frames = make_clip(5, 105, 139)
    expected = tvl1_clip(frames, backend="cuda")
    on_device = torch.from_numpy(frames).cuda()
    for make_stream in (torch.cuda.default_stream, torch.cuda.Stream):
        stream = make_stream()
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            flow = tvl1_clip(on_device, backend="cuda")
            as_float = tvl1(on_device[:-1].float(), on_device[1:].float(), backend="cuda")
        stream.synchronize()
        assert flow.is_cuda and flow.dtype == torch.float32
        np.testing.assert_array_equal(flow.cpu().numpy(), expected)
        np.testing.assert_array_equal(as_float.cpu().numpy(), expected)


@pytest.mark.parametrize("on_device", [False, True])
def test_packed_fields_are_those_of_the_codec(on_device):
    frames = make_clip(6, 61, 83)
    expected = quantise_flow(tvl1_clip(frames, backend="cuda"), bound_px=1.5)
    given = torch.from_numpy(frames).cuda() if on_device else frames
    packed = tvl1_clip(given, bound_px=1.5, backend="cuda")
    packed = packed.cpu().numpy() if on_device else packed
    assert packed.shape == (5, 122, 83)
    assert {1, 255} & set(packed.ravel().tolist()), "nothing was clipped"
    # The codec scales in its own precision: a value between two levels may fall to either.
    difference = np.abs(packed.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.shared_data
def test_error_on_pairs_with_truth_is_within_one_percent_of_opencvs(shared_data):
    def read_flow(path: Path) -> np.ndarray:
        raw = path.read_bytes()
        width, height = np.frombuffer(raw, "<i4", 2, 4)
        return np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)

    def mean_error(pairs: list[tuple[Path, Path, Path]]) -> float:
        errors = []
        for *images, truth in pairs:
            frame0, frame1 = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[None] for path in images)
            true = read_flow(truth)
            known = (np.abs(true) < 1e9).all(axis=-1)
            flow = tvl1(frame0, frame1, backend="cuda")[0]
            errors.append(np.linalg.norm(flow - true, axis=-1)[known].mean())
        return float(np.mean(errors))

    whale, chairs = shared_data / "flow/middlebury/RubberWhale", shared_data / "flow/flyingchairs"
    stems = [str(path).removesuffix("-gt.flo") for path in sorted(chairs.glob("*-gt.flo"))]
    # cv2.optflow of OpenCV 5.0.0 with the median off and 1 x 300 iterations.
    assert (
        mean_error([(whale / "frame10.png", whale / "frame11.png", whale / "flow10.flo")]) <= 1.01 * 0.1563363
    )
    triples = [(Path(f"{s}-img0.ppm"), Path(f"{s}-img1.ppm"), Path(f"{s}-gt.flo")) for s in stems]
    assert mean_error(triples) <= 1.01 * 2.4382707


def test_memory_is_bounded_and_given_back(monkeypatch):
    frames = make_clip(40, 105, 139)
    expected = tvl1_clip(frames, backend="cuda")
    release_memory()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    _, total = torch.cuda.mem_get_info()
    # As if so little were free that eight pairs fit but not sixty-four.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60_000_000, total))
    np.testing.assert_array_equal(tvl1_clip(frames, backend="cuda"), expected)
    assert torch.cuda.memory_allocated() - before < 60_000_000
    release_memory()
    assert torch.cuda.memory_allocated() <= before
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, total))
    with pytest.raises(cuda.StinPipeError, match=r"a pair of 139x105 px needs .* MiB of GPU memory"):
        tvl1_clip(frames, backend="cuda")


def test_workers_of_an_empty_cache_compile_once_and_agree(tmp_path):
    code = (
        "import numpy as np, sys\n"
        "from stin_pipe.pipeline.flow import tvl1\n"
        "from stin_pipe.pipeline.flow.cuda import cache\n"
        "def counted(threads, real=cache.compile_ptx):\n"
        "    print('compiled', flush=True)\n"
        "    return real(threads)\n"
        "cache.compile_ptx = counted\n"
        "f = np.random.default_rng(0).integers(0, 256, (2, 48, 64)).astype(np.uint8)\n"
        "print(tvl1(f[:1], f[1:], backend='cuda').tobytes().hex()[:64])\n"
    )
    environment = {**os.environ, "STIN_PIPE_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [worker.communicate(timeout=300)[0].split() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert sum("compiled" in output for output in outputs) == 1
    assert len({output[-1] for output in outputs}) == 1
