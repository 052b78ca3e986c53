"""Overlays: where they go, what is fused, and names drawn as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from stin_pipe.pipeline.decoding.ffmpeg import Ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
from stin_pipe.stin.clips.transforms import Crop
from stin_pipe.stin.scoring.scores import softmax
from stin_pipe.stin.scoring.windows import Running
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.prediction.fusion_choice import FusionChoice
from stin_pipe.workflows.prediction.overlay import _encode, overlay_paths, running_probabilities
from stin_pipe.workflows.prediction.overlay_scene import HEIGHT, INK, PAPER, WIDTH, _text_width, _write


def test_one_video_gives_one_file_and_several_a_folder(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    assert overlay_paths(tmp_path / "out.mp4", [clip], several=False) == [tmp_path / "out.mp4"]
    assert overlay_paths(tmp_path, [clip], several=False) == [tmp_path / "clip.overlay.mp4"]
    videos = [tmp_path / "a" / "Clip.avi", tmp_path / "b" / "clip.mp4", tmp_path / "b" / "x.mkv"]
    names = [path.name for path in overlay_paths(tmp_path / "new", videos, several=True)]
    assert names == ["Clip.overlay.mp4", "clip.overlay-2.mp4", "x.overlay.mp4"]


def test_an_overlay_never_lies_where_a_video_does(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    (tmp_path / "link.mp4").symlink_to(clip)
    for out in (clip, tmp_path / "." / "clip.mp4", tmp_path / "link.mp4"):
        with pytest.raises(ValueError, match="this is one of the videos"):
            overlay_paths(out, [clip], several=False)
    made = tmp_path / "clip.overlay.mp4"
    with pytest.raises(ValueError, match="this is one of the videos"):
        overlay_paths(tmp_path, [clip, made], several=True)
    with pytest.raises(ValueError, match=r"the overlay of one video is an \.mp4 file"):
        overlay_paths(tmp_path / "out.avi", [clip], several=False)
    with pytest.raises(ValueError, match="several videos need a folder, but this is a file"):
        overlay_paths(clip, [tmp_path / "a.mp4", tmp_path / "b.mp4"], several=True)
    assert clip.read_bytes() == b"video"


def test_running_streams_are_fused_as_fuse_eval_does() -> None:
    def running(logits: list[float]) -> Running:
        crop = Crop(top=0, left=0, height=1, width=1, flip=False)
        return Running(ends=np.array([1]), logits=np.array([logits], np.float32), maps=None, crop=crop)

    spatial, temporal = running([2.0, 0.0]), running([0.0, 4.0])
    before = FusionChoice(weights=(1.0, 3.0), source="caller")
    both = running_probabilities({"temporal": temporal, "spatial": spatial}, before)
    np.testing.assert_allclose(both, softmax(np.array([[0.5, 3.0]])))  # (2 + 3 * 0) / 4, (0 + 3 * 4) / 4
    late = replace(before, when="after_softmax")
    after = running_probabilities({"temporal": temporal, "spatial": spatial}, late)
    parts = softmax(spatial.logits), softmax(temporal.logits)
    np.testing.assert_allclose(after, 0.25 * parts[0] + 0.75 * parts[1], rtol=1e-6)
    np.testing.assert_allclose(running_probabilities({"spatial": spatial}, before), softmax(spatial.logits))


def pictures(count: int):
    for number in range(count):
        yield np.full((HEIGHT, WIDTH, 3), 40 + 20 * number, np.uint8)


@pytest.mark.parametrize("has_h264", [True, False])
def test_what_is_encoded_decodes_to_the_same_pictures(tmp_path: Path, monkeypatch, has_h264: bool) -> None:
    """H.264, and MPEG-4 where ffmpeg lacks it."""
    if not has_h264:
        monkeypatch.setattr(
            "stin_pipe.workflows.prediction.overlay._has_encoder", lambda program, name: False
        )
    out = tmp_path / "new" / "out.mp4"
    _encode(out, pictures(6), 12.5)
    notes = DecodeNotes()
    frames = list(decode_frames(out, notes))
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 6 and notes.fps == 12.5
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - (40 + 20 * number)).max() <= 6
    assert list(out.parent.iterdir()) == [out]


def test_a_failing_encoder_leaves_the_older_overlay_and_says_why(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nhead -c 1000 > /dev/null\necho no room left >&2\nexit 1\n")
    program.chmod(0o755)
    broken = Ffmpeg(path=str(program), version="6", major=6, source="test")
    monkeypatch.setattr("stin_pipe.workflows.prediction.overlay.find_ffmpeg", lambda: broken)
    out = tmp_path / "shown" / "out.mp4"
    out.parent.mkdir()
    out.write_bytes(b"older")
    with pytest.raises(StinPipeError, match=r"out\.mp4: ffmpeg cannot encode the overlay: no room left"):
        _encode(out, pictures(20), 25.0)
    assert list(out.parent.iterdir()) == [out] and out.read_bytes() == b"older"


def test_a_picture_that_cannot_be_drawn_ends_the_encoder(tmp_path: Path) -> None:
    def failing():
        yield from pictures(2)
        raise StinPipeError("damaged")

    with pytest.raises(StinPipeError, match="damaged"):
        _encode(tmp_path / "out.mp4", failing(), 25.0)
    assert list(tmp_path.iterdir()) == []
    assert not [item for item in psutil.Process().children() if "ffmpeg" in item.name()]


@pytest.mark.parametrize("name", ["Brush Hair", "Überholen", "Прыжок", "跳舞", "\u202e<b>\n\0", "a" * 5000])
def test_names_are_drawn_within_their_width(name: str) -> None:
    picture = np.full((40, 400, 3), PAPER, np.uint8)
    _write(picture, name, (10, 30), INK, 16, width=200)
    drawn = np.flatnonzero((picture != np.array(PAPER)).any(axis=(0, 2)))
    assert len(drawn) > 10 and drawn[0] >= 8 and drawn[-1] <= 212


def test_letters_beyond_ascii_are_themselves_not_question_marks() -> None:
    pictures = []
    for name in ("Ü", "Ж", "跳", "?"):
        picture = np.full((40, 60, 3), PAPER, np.uint8)
        _write(picture, name, (10, 30), INK, 24)
        pictures.append(picture)
    assert all((picture != pictures[-1]).any() for picture in pictures[:-1])
    assert _text_width("??", 20, 400) > _text_width("?", 20, 400) > 0
