"""Parts, rates and shapes of a video: exactly the frames that lie in a part, in every container."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard import from_video as extract
from stin_pipe.pipeline.shard.from_video import chosen_pictures, prepared_frames

RATE = 5
PICTURES = f"testsrc2=s=64x48:r={RATE}:d=40"
SOUND = ("-f", "lavfi", "-i", "sine=d=44", "-c:a", "mp2")
VARIABLE = "select=not(mod(n*n\\,7)-1)+lt(mod(n\\,31)\\,9)"

MADE = {
    "b.mp4": ("-c:v", "mpeg4", "-bf", "2"),
    "b.mkv": ("-c:v", "mpeg4", "-bf", "2", "-g", "300"),
    "b.avi": ("-c:v", "mpeg4", "-bf", "2"),
    "a.flv": ("-c:v", "flv"),
    "a.wmv": ("-c:v", "wmv2"),
    "a.ts": ("-c:v", "mpeg2video"),
    "b.mpg": ("-c:v", "mpeg2video", "-bf", "2"),
    "offset.ts": ("-c:v", "mpeg4", "-output_ts_offset", "100"),
    "variable.mkv": ("-c:v", "mpeg4", "-vf", VARIABLE, "-fps_mode", "vfr"),
    "variable.mp4": ("-c:v", "mpeg4", "-vf", VARIABLE, "-fps_mode", "vfr"),
}


def make(path: Path, *options: str, source: str = PICTURES, before: tuple[str, ...] = ()) -> None:
    given = ["-f", "lavfi", "-i", source, *options, "-threads", "1", str(path)]
    if "-fps_mode" in given and find_ffmpeg().frame_timing_options.get("vsync"):
        given[given.index("-fps_mode")] = "-vsync"
    subprocess.run([find_ffmpeg().path, "-v", "error", *before, *given], check=True)


def frames_of(path: Path, notes: DecodeNotes | None = None, **options) -> list[bytes]:
    return [frame.tobytes() for frame in decode_frames(path, notes or DecodeNotes(), **options)]


def check_parts(path: Path, times: list[float]) -> None:
    """Whatever part is asked for, what comes is what the whole video has at start <= t < end."""
    whole = frames_of(path)
    assert len(whole) == len(times)
    early = [(0.3, 1.0), (None, 0.5), (0.41, 0.81)]
    for start_s, end_s in [*early, (30.2, 30.4), (31.0, 32.0), (35.13, 36.77), (times[-1] - 1, None)]:
        begin, end = (0.0 if start_s is None else start_s), (np.inf if end_s is None else end_s)
        expected = [frame for frame, at in zip(whole, times, strict=True) if begin - 1e-6 <= at < end - 1e-6]
        notes = DecodeNotes()
        try:
            found = frames_of(path, notes, start_s=start_s, end_s=end_s)
        except DecodeError as error:
            assert error.reason == "empty_part"
            found = []
        assert found == expected, (path.name, start_s, end_s)
        assert not notes.damaged, notes.messages


@pytest.mark.parametrize("name", MADE)
def test_a_part_holds_the_frames_of_its_time(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rate = 25 if "mpeg2video" in MADE[name] else RATE
    make(path, *MADE[name], source=PICTURES.replace(f"r={RATE}", f"r={rate}"))
    kept = [n for n in range(40 * rate) if "variable" not in name or n * n % 7 == 1 or n % 31 < 9]
    first = 1 if name == "b.avi" else 0  # AVI has no place for the delay of B-frames
    check_parts(path, [(n + first) / rate for n in kept])


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_the_time_of_a_part_counts_from_the_beginning_of_the_file(name: str, tmp_path: Path) -> None:
    """The video begins 3 s after the sound."""
    make(tmp_path / name, *SOUND, "-c:v", "mpeg4", before=("-itsoffset", "3"))
    check_parts(tmp_path / name, [3 + n / RATE for n in range(40 * RATE)])


def test_times_beyond_all_reason(tmp_path: Path) -> None:
    make(tmp_path / "a.avi", "-c:v", "mpeg4")
    assert len(frames_of(tmp_path / "a.avi", start_s=1e-5)) == 40 * RATE - 1
    assert len(frames_of(tmp_path / "a.avi", end_s=1e-5)) == 1
    assert len(frames_of(tmp_path / "a.avi", start_s=39.0, end_s=1e17)) == RATE
    with pytest.raises(DecodeError, match=r"part from 1e\+16 s to the end holds no frame"):
        frames_of(tmp_path / "a.avi", start_s=1e16)


def test_damage_before_a_part_is_not_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    make(path, "-c:v", "mpeg4", "-g", str(RATE))
    content = bytearray(path.read_bytes())
    place = len(content) // 20
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    whole, part = DecodeNotes(), DecodeNotes()
    frames_of(path, whole)
    frames_of(path, part, start_s=20.0, end_s=21.0)
    assert whole.damaged and not part.damaged and part.messages == []


def test_announced_is_what_was_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "a.avi", "-c:v", "mpeg4")
    for options, announced in [
        ({}, 200),
        ({"start_s": 10.0, "end_s": 12.0}, 10),
        ({"start_s": 30.0}, 50),
        ({"end_s": 100.0}, 200),
    ]:
        notes = DecodeNotes()
        frames_of(tmp_path / "a.avi", notes, **options)
        assert notes.announced == announced, options
        assert notes.as_json()["decoded"] == announced, options


def test_a_rate_repeats_nothing_where_the_video_begins_after_the_sound(tmp_path: Path) -> None:
    make(tmp_path / "late.mkv", *SOUND, "-c:v", "mpeg4", before=("-itsoffset", "3"))
    params = ExtractParams(size=(64, 48), short_side=None, bound_px=2.0, flow_backend="cpu", fps=RATE)
    for decoding in (1, 2):
        chosen = chosen_pictures(tmp_path / "late.mkv", replace(params, decoding=decoding), DecodeNotes())
        assert [item.picture.tobytes() for item in chosen] == frames_of(tmp_path / "late.mkv")


def test_a_gap_in_the_times_is_not_filled_without_end(tmp_path: Path, monkeypatch) -> None:
    """Two pictures, a day apart; runs of earlier versions go on to repeat pictures, but not that often."""
    make(
        tmp_path / "gap.mkv", "-c:v", "ffv1", "-vf", "setpts=N*100000/TB", "-fps_mode", "passthrough",
        source=f"testsrc2=s=32x32:r={RATE}:d=0.4",
    )  # fmt: skip
    monkeypatch.setattr(extract, "MAX_REPEATS", 50)
    video = ListedVideo(id="a/gap", path="gap.mkv", label=0, class_name="a", splits={})
    params = ExtractParams(size=(32, 32), short_side=None, bound_px=2.0, flow_backend="cpu", fps=25.0)
    frames = prepared_frames(video, tmp_path, params, DecodeNotes(), deadline=time.monotonic() + 60)
    with pytest.raises(
        DecodeError, match="repeats one picture 50 times; is there a gap in its times"
    ) as caught:
        list(frames)
    assert caught.value.reason == "gap"

    now, notes = replace(params, decoding=2), DecodeNotes()
    frames = prepared_frames(video, tmp_path, now, notes, deadline=time.monotonic() + 60)
    assert len(list(frames)) == 2
    assert notes.choice and notes.choice.unfilled == 2_499_999


def test_the_way_to_a_part_may_be_long(tmp_path: Path, monkeypatch) -> None:
    """A decoder that is silent for longer than the stall limit: only the deadline counts before a part."""
    path = tmp_path / "a.avi"
    make(path, "-c:v", "mpeg4")
    real, slow = find_ffmpeg().path, tmp_path / "ffmpeg"
    slow.write_text(f'#!/bin/sh\n[ "$2" = -version ] || sleep 1\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("STIN_PIPE_FFMPEG", str(slow))
    find_ffmpeg.cache_clear()
    try:
        limits = {"deadline": time.monotonic() + 300, "stall_s": 0.3}
        assert len(frames_of(path, start_s=20.0, end_s=21.0, **limits)) == RATE
        with pytest.raises(DecodeError) as caught:
            frames_of(path, **limits)
        assert caught.value.reason == "stalled"
    finally:
        find_ffmpeg.cache_clear()


@pytest.mark.parametrize(
    ("pixel", "short_side", "shape"),
    [("1", 48, (48, 64)), ("4/3", 48, (48, 85)), ("1/2", 32, (48, 32)), ("1/1000", 48, (48, 64))],
)
def test_pixels_that_are_not_square(
    pixel: str, short_side: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    """With the aspect kept a picture has the shape in which it is shown; a given size is kept to."""
    make(tmp_path / "a.mkv", "-c:v", "ffv1", "-vf", f"setsar={pixel}", "-frames:v", "2")
    video = ListedVideo(id="a/a", path="a.mkv", label=0, class_name="a", splits={})
    kept = ExtractParams(size=None, short_side=short_side, bound_px=2.0, flow_backend="cpu")
    forced = ExtractParams(size=(64, 48), short_side=None, bound_px=2.0, flow_backend="cpu")
    plain = [frame.tobytes() for frame in decode_frames(tmp_path / "a.mkv", DecodeNotes())]
    for params, expected in [(kept, shape), (forced, (48, 64))]:
        found = [
            frame.rgb
            for frame in prepared_frames(
                video, tmp_path, params, DecodeNotes(), deadline=time.monotonic() + 60
            )
        ]
        assert [frame.shape[:2] for frame in found] == [expected] * 2
        if expected == (48, 64):
            assert [frame.tobytes() for frame in found] == plain
