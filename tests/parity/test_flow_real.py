"""The CPU engine against the reference on real frames, where stop rules end after uneven counts."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from stin_pipe.pipeline.flow import TVL1Params
from stin_pipe.pipeline.flow.backends import solve

FIRST_FRAMES = (10, 90)


def _clip_pairs(archive: Path) -> list[np.ndarray]:
    """Two pairs of consecutive frames of a clip that was stored as JPEG files."""
    with tarfile.open(archive) as file:
        members = sorted((m for m in file.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        frames = {}
        for i in {i + k for i in FIRST_FRAMES for k in (0, 1)}:
            stream = file.extractfile(members[i])
            assert stream is not None
            frames[i] = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return [np.stack([frames[i], frames[i + 1]]) for i in FIRST_FRAMES]


def _middlebury_pairs(folder: Path) -> list[np.ndarray]:
    """Half-size pairs, which keep the reference's time short."""
    pairs = []
    for name in ("Dimetrodon", "Grove2", "Urban3", "Walking"):
        grey = [cv2.imread(str(folder / name / f"frame1{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (0, 1)]
        pairs.append(
            np.stack([cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for g in grey])
        )
    return pairs


@pytest.mark.shared_data
def test_on_real_pairs_iterations_and_flow_agree_with_the_reference(shared_data):
    pairs = _middlebury_pairs(shared_data / "flow/middlebury")
    for name in ("v_ApplyEyeMakeup_g01_c01", "v_BaseballPitch_g01_c01"):
        pairs += _clip_pairs(shared_data / f"clips/reference_frames/{name}.tar.gz")
    solves = differing = 0
    for frames in pairs:
        ours = solve(frames[:1], frames[1:], backend="cpu")
        theirs = solve(frames[:1], frames[1:], backend="reference")
        assert np.abs(ours.flow - theirs.flow).mean() <= 0.01
        interval = TVL1Params().check_interval
        differing += (np.abs(ours.iterations - theirs.iterations) > interval).sum()
        solves += ours.iterations.size
    assert solves >= 200
    assert differing <= 0.05 * solves, f"{differing} of {solves} solves differ by more than one interval"
