"""The made videos: colour is told by a frame, direction by motion, and neither by the other's view."""

from pathlib import Path

import cv2
import numpy as np

from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
from stin_pipe.pipeline.demo_videos import (
    COLOURS,
    DIRECTIONS,
    SynthParams,
    class_names,
    draw_frames,
    make_videos,
)
from stin_pipe.pipeline.flow import tvl1_clip

PARAMS = SynthParams(width=64, height=48, num_frames=8)


def test_flow_has_the_direction_of_the_class() -> None:
    for direction, (x, y) in DIRECTIONS.items():
        frames = np.stack(draw_frames("red", direction, PARAMS, np.random.default_rng(5)))
        flow = tvl1_clip(frames, backend="cpu")
        moving = np.hypot(flow[..., 0], flow[..., 1]) > 1.0
        mean = flow[moving].mean(0)
        assert np.dot(mean, (x, y)) > 1.2, direction
        assert abs(np.dot(mean, (y, x))) < 0.4, direction


def test_colours_have_equal_grey_values() -> None:
    greys = [cv2.cvtColor(np.array([[rgb]], np.uint8), cv2.COLOR_RGB2GRAY)[0, 0] for rgb in COLOURS.values()]
    assert max(map(int, greys)) - min(map(int, greys)) <= 1
    clips = [draw_frames(colour, "up", PARAMS, np.random.default_rng(7)) for colour in COLOURS]
    grey = [
        np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]).astype(int) for clip in clips
    ]
    assert np.abs(grey[0] - grey[1]).mean() <= 1 and np.abs(grey[0] - grey[2]).mean() <= 1


def test_the_place_in_a_frame_does_not_tell_the_direction() -> None:
    """Mean place of the disc over many videos: the middle, for each direction (uniform over the period)."""
    for direction in DIRECTIONS:
        places = []
        for seed in range(150):
            frame = draw_frames("red", direction, SynthParams(num_frames=1), np.random.default_rng(seed))[0]
            red = frame[..., 0].astype(int) - frame[..., 1]
            rows, columns = np.nonzero(red > 40)
            angle_x = np.exp(2j * np.pi * columns / 96).mean()
            angle_y = np.exp(2j * np.pi * rows / 72).mean()
            places.append((angle_x / abs(angle_x), angle_y / abs(angle_y)))
        assert (np.abs(np.mean(places, axis=0)) < 0.25).all(), direction


def test_made_files_are_real_videos_and_are_kept(tmp_path: Path) -> None:
    params = SynthParams(width=48, height=32, num_frames=4, train_per_class=1, test_per_class=1)
    assert make_videos(tmp_path, params) == 18
    path = tmp_path / "videos" / "green-left" / "v_green-left_01.avi"
    frames = list(decode_frames(path, DecodeNotes()))
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 4
    before = path.stat().st_mtime_ns
    make_videos(tmp_path, params)
    assert path.stat().st_mtime_ns == before
    index = (tmp_path / "lists" / "classInd.txt").read_text().split()
    assert index[1::2] == class_names()
    assert len((tmp_path / "lists" / "testlist01.txt").read_text().splitlines()) == 9
