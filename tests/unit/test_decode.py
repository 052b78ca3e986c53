"""Decoding: every frame once, as displayed, and a reason for what cannot be decoded."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
from stin_pipe.pipeline.demo_videos import encode_video
from stin_pipe.pipeline.listing.files import VIDEO_SUFFIXES
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.from_video import chosen_pictures


def numbered_frames(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames whose brightness tells their number."""
    return [np.full((height, width, 3), 10 + 8 * index, np.uint8) for index in range(count)]


def numbers(path: Path, **options) -> list[int]:
    notes = DecodeNotes()
    found = [round((frame.mean() - 10) / 8) for frame in decode_frames(path, notes, **options)]
    assert notes.decoded == len(found)
    return found


def numbers_at(path: Path, fps: float) -> list[int]:
    params = ExtractParams(
        size=(64, 48), short_side=None, bound_px=2, flow_backend="cpu", fps=fps, decoding=2
    )
    chosen = chosen_pictures(path, params, DecodeNotes())
    return [round((item.picture.mean() - 10) / 8) for item in chosen]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    encode_video(path, numbered_frames(20), fps=10)
    return path


def test_every_frame_once_in_order(clip: Path) -> None:
    notes = DecodeNotes()
    frames = list(decode_frames(clip, notes))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 20
    assert [round((frame.mean() - 10) / 8) for frame in frames] == list(range(20))
    assert (notes.announced, notes.decoded, notes.fps, notes.damaged) == (20, 20, 10.0, False)


def test_parts_and_rates(clip: Path) -> None:
    assert numbers(clip, start_s=0.5, end_s=1.0) == [5, 6, 7, 8, 9]
    assert numbers_at(clip, 5.0) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


def test_colours_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 220
    encode_video(tmp_path / "red.avi", [red] * 3, fps=10)
    frame = next(decode_frames(tmp_path / "red.avi", DecodeNotes()))
    assert frame[..., 0].mean() > 190 and frame[..., 1:].mean() < 40


def test_a_truncated_file_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    rng = np.random.default_rng(0)
    encode_video(path, list(rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)), fps=10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    notes = DecodeNotes()
    count = sum(1 for _ in decode_frames(path, notes))
    assert 0 < count < 20 and notes.decoded == count
    assert notes.damaged


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text\n", "not_a_video"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "not_a_video"),
    ],
)
def test_what_is_no_video_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.avi"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        list(decode_frames(path, DecodeNotes()))
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)


def test_missing_and_sound_alone(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        list(decode_frames(tmp_path / "gone.mp4", DecodeNotes()))
    assert (caught.value.reason, caught.value.retry) == ("missing", True)
    sound = tmp_path / "sound.mp4"
    make = ["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", str(sound)]
    subprocess.run([find_ffmpeg().path, "-loglevel", "error", *make], check=True)
    with pytest.raises(DecodeError) as caught:
        list(decode_frames(sound, DecodeNotes()))
    assert caught.value.reason == "no_video"


@pytest.mark.parametrize("name", ["list.avi", "list.mp4", "list.mkv"])
@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{secret}'\n",
        (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
            ' mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/avi">'
            '<Representation id="1" bandwidth="1"><BaseURL>file://{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>'
        ),
    ],
)
def test_a_playlist_opens_nothing(clip: Path, tmp_path: Path, playlist: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(playlist.format(secret=clip))
    with pytest.raises(DecodeError) as caught:
        list(decode_frames(path, DecodeNotes()))
    assert caught.value.reason in ("refused", "not_a_video", "truncated")


def test_names_that_look_like_something_else(clip: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "-i.avi",
        "http:x.avi",
        "%03d.avi",
        "a b'\"\n;$(touch pwned).avi",
        "concat:a|b.avi",
        "ü 視.avi",
    ):
        path = Path(name)
        path.write_bytes(clip.read_bytes())
        assert numbers(path) == list(range(20)), name
    assert not Path("pwned").exists()


def test_a_stalled_decoder_is_given_up(tmp_path: Path, clip: Path, monkeypatch) -> None:
    """An ffmpeg that says nothing: the wait ends, and the process is gone."""
    silent = tmp_path / "ffmpeg"
    silent.write_text(f"#!/bin/sh\nif [ \"$2\" = -version ]; then exec {find_ffmpeg().path} \"$@\"; fi\n"
                      f"echo $$ > {tmp_path}/pid\nexec sleep 600\n")  # fmt: skip
    silent.chmod(0o755)
    monkeypatch.setenv("STIN_PIPE_FFMPEG", str(silent))
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(DecodeError) as caught:
            list(decode_frames(clip, DecodeNotes(), stall_s=0.5))
        assert (caught.value.reason, caught.value.retry) == ("stalled", True)
        with pytest.raises(DecodeError) as caught:
            list(decode_frames(clip, DecodeNotes(), deadline=time.monotonic() + 0.5))
        assert caught.value.reason == "timeout"
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
    finally:
        find_ffmpeg.cache_clear()


def test_a_decoder_that_never_ends_is_given_up(clip: Path, tmp_path: Path, monkeypatch) -> None:
    """All frames came and the pipe is closed, but the process stays."""
    staying = tmp_path / "ffmpeg"
    staying.write_text(
        f'#!/bin/sh\ncase "$*" in *image2pipe*) ;; *) exec {find_ffmpeg().path} "$@";; esac\n'
        f'{find_ffmpeg().path} "$@"\nexec sleep 600 >/dev/null 2>&1\n'
    )
    staying.chmod(0o755)
    monkeypatch.setenv("STIN_PIPE_FFMPEG", str(staying))
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(DecodeError, match=r"did not end for 0\.5 s") as caught:
            list(decode_frames(clip, DecodeNotes(), stall_s=0.5))
        assert (caught.value.reason, caught.value.retry) == ("stalled", True)
    finally:
        find_ffmpeg.cache_clear()


def test_a_killed_decoder_is_no_short_video(clip: Path, tmp_path: Path, monkeypatch) -> None:
    """kill -9 of ffmpeg in mid-stream (out of memory, say) must not pass for the end of the video."""
    dying = tmp_path / "ffmpeg"
    dying.write_text(
        f'#!/bin/sh\nif [ "$2" = -version ]; then exec {find_ffmpeg().path} "$@"; fi\n'
        f'{find_ffmpeg().path} "$@" | head -c 50000\nkill -9 $$\n'
    )
    dying.chmod(0o755)
    monkeypatch.setenv("STIN_PIPE_FFMPEG", str(dying))
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(DecodeError, match=r"killed by signal 9 after 5 frames") as caught:
            list(decode_frames(clip, DecodeNotes()))
        assert (caught.value.reason, caught.value.retry) == ("decoder_died", True)
    finally:
        find_ffmpeg.cache_clear()


@pytest.mark.shared_data
def test_frames_agree_with_the_ones_others_extracted(shared_data: Path, tmp_path: Path) -> None:
    """C3D's authors' JPEGs of a UCF101 clip: same count, same frames, to a few grey levels."""
    with tarfile.open(shared_data / "clips/reference_frames/v_BaseballPitch_g01_c01.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    pictures = [cv2.imread(str(path))[..., ::-1] for path in sorted(tmp_path.rglob("*.jpg"))]
    clip = shared_data / "clips/ucf101/BaseballPitch/v_BaseballPitch_g01_c01.avi"
    frames = list(decode_frames(clip, DecodeNotes()))
    assert len(frames) == len(pictures) == 107
    differences = [
        np.abs(frame.astype(int) - picture).mean() for frame, picture in zip(frames, pictures, strict=True)
    ]
    assert max(differences) < 3


@pytest.mark.shared_data
def test_rotation_variable_rate_and_damage_of_real_files(shared_data: Path) -> None:
    odd = shared_data / "odd"
    expected = {
        "decord/video_90.mov": (3, (568, 320)),
        "decord/video_180.mov": (3, (320, 568)),
        "pyscenedetect/issue-134-rotate.mp4": (240, (1280, 544)),
        "derived/vfr.mp4": (57, (240, 320)),
        "pyscenedetect/goldeneye-vfr-drop3.mp4": (160, (544, 1280)),
        "derived/odd_161x121.mkv": (107, (121, 161)),
        "derived/one_frame.avi": (1, (240, 320)),
    }
    for name, (count, shape) in expected.items():
        frames = [frame.shape[:2] for frame in decode_frames(odd / name, DecodeNotes())]
        assert frames == [shape] * count, name
    notes = DecodeNotes()
    assert sum(1 for _ in decode_frames(odd / "derived/bitflip_200.avi", notes)) == 105
    assert notes.damaged and notes.announced == 107 and notes.messages
    assert "0x" not in " ".join(notes.messages)


def frames_after_a_signal(folder: Path, signum: int) -> int:
    """How many of 60 frames come when the decoder gets a signal after the third."""
    path = folder / "clip.avi"
    frames = [
        np.full((480, 640, 3), index % 250, np.uint8) for index in range(60)
    ]  # more than the pipe holds
    encode_video(path, frames, fps=10)
    notes = DecodeNotes()
    for _ in decode_frames(path, notes):
        if notes.decoded == 3:
            (decoder,) = (item for item in psutil.Process().children() if "ffmpeg" in item.name())
            decoder.send_signal(signum)
            time.sleep(0.3)
    return notes.decoded


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_shorten_a_video(signum: int, tmp_path: Path) -> None:
    """A batch system that preempts a job signals ffmpeg too, which by itself would end in order."""
    assert frames_after_a_signal(tmp_path, signum) == 60


def test_a_decoder_that_was_asked_to_end_is_no_short_video(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="asked to end by a signal") as raised:
        frames_after_a_signal(tmp_path, signal.SIGXCPU)
    assert raised.value.reason == "decoder_died"


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("gif", ()),
        ("y4m", ("-pix_fmt", "yuv420p")),
        ("h264", ("-c:v", "libx264", "-pix_fmt", "yuv420p")),
        ("mjpeg", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")),
        ("m1v", ("-c:v", "mpeg1video", "-r", "25")),
        ("dv", ("-c:v", "dvvideo", "-s", "720x576", "-pix_fmt", "yuv420p", "-r", "25")),
        ("ogm", ("-f", "ogg", "-c:v", "libtheora", "-pix_fmt", "yuv420p")),
        ("divx", ("-f", "avi", "-c:v", "mpeg4")),
        ("qt", ("-f", "mov", "-c:v", "mpeg4")),
    ],
)
def test_further_endings_are_read_whole(tmp_path: Path, ending: str, options: tuple[str, ...]) -> None:
    path = tmp_path / f"x.{ending}"
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=0.2")
    made = subprocess.run(
        [find_ffmpeg().path, "-v", "error", *source, *options, str(path)], capture_output=True
    )
    if b"Unknown encoder" in made.stderr:
        pytest.skip(made.stderr.decode())
    assert made.returncode == 0, made.stderr
    assert f".{ending}" in VIDEO_SUFFIXES
    assert len(list(decode_frames(path, DecodeNotes()))) == 5
