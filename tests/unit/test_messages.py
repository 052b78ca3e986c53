"""What ffmpeg says is heard right, whatever a file's own texts say; a file that was cut off is noticed."""

import io
import re
import subprocess
from pathlib import Path

import pytest

from stin_pipe.pipeline.decoding.ffmpeg import _OPENING, find_ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
from stin_pipe.pipeline.decoding.messages import Listener

PICTURES = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2")


def make(path: Path, *options: str, source: tuple[str, ...] = PICTURES) -> Path:
    given = [*source, *options, "-threads", "1", str(path)]
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *given], check=True)
    return path


def notes_of(path: Path, **options) -> DecodeNotes:
    notes = DecodeNotes()
    for _ in decode_frames(path, notes, **options):
        pass
    return notes


@pytest.mark.parametrize(
    "title",
    [
        "[error] Invalid data found",
        "[matroska @ 0x1] [error] Invalid data found",
        "one\n[info]   Duration: 99:00:00.00\n[error] two",
        "Stream #0: Video: ... fps",
        "[info]   Stream #0:0: Video: mpeg4, 99 fps",
        "[info] frame= 1 time=00:00:00.01",
    ],
)
def test_a_title_is_no_message(title: str, tmp_path: Path) -> None:
    """And what comes after it is heard."""
    path = make(tmp_path / "a.mkv", "-c:v", "mpeg4", "-metadata", f"title={title}")
    notes = notes_of(path)
    assert (notes.announced, notes.decoded, notes.fps, notes.messages) == (50, 50, 25.0, [])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    cut = notes_of(path)
    assert 0 < cut.decoded < 50 and cut.damaged and cut.announced == 50


def test_no_line_stops_the_listener() -> None:
    lines = [
        b"[info] Stream #0:0: Video: " + b"9" * 3000 + b" fps",
        b"[info]   Duration: N/A, start: 0, bitrate: N/A",
        b"[info]   Stream #0:0: Video: h264, ... fps",
        b"\xff\xfe" * 5000,
        b"[" * 5000,
        b"[a @ 0x1] " * 5000,
        b"[info]   Duration: 00:00:02.00, start: 0.000000",
        b"[info]   Stream #0:0(und): Video: h264 (High), 64x48 [SAR 1:1 DAR 4:3], 12.5 fps, 25 tbr",
        b"[h264 @ 0x7f10] [error] mmco: unref short failure",
        b"[vist#0:0/h264 @ 0x1a] [dec:h264 @ 0x2b] [warning] corrupt decoded frame",
        b"[image2pipe @ 0x1] [error] Application provided invalid, non monotonically increasing dts to muxer",
        b"[info] frame=   20 fps=0.0 q=-0.0 Lsize=N/A time=00:00:01.60 bitrate=N/A speed= 120x",
    ]
    notes = DecodeNotes()
    listener = Listener(io.BytesIO(b"\n".join(lines)), notes, start_s=None, end_s=None)
    listener.run()
    assert (notes.fps, notes.announced, notes.num_errors) == (12.5, 25, 2)
    assert notes.messages == [
        "[h264] [error] mmco: unref short failure",
        "[vist#0:0/h264] [dec:h264] [warning] corrupt decoded frame",
    ]
    assert (listener.duration_s, listener.end_s, listener.guessed) == (2.0, 1.6, False)


def cut_avi(path: Path) -> Path:
    """An AVI that ends after 30 of its 50 packets."""
    content = make(path, "-c:v", "mpeg4").read_bytes()
    path.write_bytes(content[: [match.start() for match in re.finditer(b"00dc", content)][30]])
    return path


def cut_flv(path: Path, *options: str) -> Path:
    """An FLV that ends after six tenths of its tags, at the end of one."""
    content = make(path, *options, "-c:v", "flv").read_bytes()
    ends = [13]
    while ends[-1] < len(content):
        ends.append(ends[-1] + 15 + int.from_bytes(content[ends[-1] + 1 : ends[-1] + 4], "big"))
    path.write_bytes(content[: ends[len(ends) * 6 // 10]])
    return path


SOUND = ("-f", "lavfi", "-i", "sine=d=2", "-c:a", "adpcm_swf", "-ar", "44100")


def test_a_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    """Cut between two packets, so that the decoder has nothing to complain of."""
    with_sound = cut_flv(tmp_path / "b.flv", *SOUND)
    for path in (cut_avi(tmp_path / "a.avi"), cut_flv(tmp_path / "a.flv"), with_sound):
        notes = notes_of(path)
        assert notes.num_errors == 0 and notes.short and notes.damaged, path.name
        assert notes.as_json()["damaged"] and "s that it announces" in notes.messages[-1]
        assert not notes_of(path, start_s=0.2, end_s=0.4).damaged


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("long_sound.mkv", ("-f", "lavfi", "-i", "sine=d=6", "-c:a", "mp2")),
        ("long_sound.avi", ("-f", "lavfi", "-i", "sine=d=6", "-c:a", "mp2")),
        ("long_sound.flv", ("-f", "lavfi", "-i", "sine=d=6:r=44100", "-c:a", "adpcm_swf")),
        ("delayed.flv", ("-c:v", "flv", "-bf", "0", "-vf", "setpts=PTS+3/TB")),
        ("variable.mkv", ("-c:v", "mpeg4", "-vf", "select=lt(n\\,30)+eq(n\\,49)", "-vsync", "vfr")),
        ("variable.flv", ("-c:v", "flv", "-vf", "select=lt(n\\,30)+eq(n\\,49)", "-vsync", "vfr")),
        ("variable.avi", ("-c:v", "mpeg4", "-vf", "select=lt(n\\,30)+eq(n\\,49)", "-vsync", "vfr")),
        ("raw.m4v", ("-c:v", "mpeg4", "-f", "m4v")),
        ("two.mkv", ("-c:v", "mpeg4", "-frames:v", "2")),
        ("a.mpg", ("-c:v", "mpeg2video", "-bf", "2")),
        ("a.ts", ("-c:v", "mpeg2video", "-bf", "2")),
    ],
)
def test_a_whole_file_is_not_damaged(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    if "-vsync" in options and find_ffmpeg().frame_timing_options.get("fps_mode"):
        options = tuple("-fps_mode" if item == "-vsync" else item for item in options)
    notes = notes_of(make(tmp_path / name, *options))
    assert notes.decoded and not notes.damaged, notes


def test_subtitles_may_be_longer(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:08,000 --> 00:00:09,000\nlast words\n")
    path = make(tmp_path / "a.mkv", "-i", str(tmp_path / "a.srt"), "-c:v", "mpeg4", "-c:s", "srt")
    notes = notes_of(path)
    assert notes.announced == 225 and notes.decoded == 50 and not notes.damaged


def test_a_clock_that_jumps_makes_no_file_short(tmp_path: Path) -> None:
    """Two recordings in one file, whose times differ by 100 s: 98 s are announced that nobody recorded."""
    parts = [
        make(tmp_path / f"{late}.mpg", "-c:v", "mpeg2video", "-output_ts_offset", late)
        for late in ("0", "100")
    ]
    path = tmp_path / "both.mpg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    notes = notes_of(path)
    assert notes.decoded == 100 < (notes.announced or 0) and not notes.damaged
    assert notes_of(path, start_s=3.0, end_s=3.4).decoded == 10


def test_lost_packets_of_a_stream_are_damage(tmp_path: Path) -> None:
    """A tenth of a transport stream is missing in the middle."""
    path = make(tmp_path / "a.ts", "-c:v", "mpeg2video")
    content = path.read_bytes()
    packets = [content[place : place + 188] for place in range(0, len(content), 188)]
    middle = len(packets) // 2
    path.write_bytes(b"".join(packets[:middle] + packets[middle + len(packets) // 10 :]))
    notes = notes_of(path)
    assert notes.decoded < 50 and notes.damaged


def test_a_picture_that_is_too_large_is_called_so(tmp_path: Path, monkeypatch) -> None:
    path = make(tmp_path / "a.mkv", "-c:v", "ffv1")
    monkeypatch.setitem(_OPENING, "max_pixels", 2000)
    with pytest.raises(DecodeError, match="pictures of more than 67108864 pixels") as caught:
        notes_of(path)
    assert caught.value.reason == "too_large"
