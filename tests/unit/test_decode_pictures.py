"""Pictures as a viewer sees them: no combs, true colours, the right stream, and times that are believed."""

import subprocess
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from stin_pipe.pipeline.decoding.choose import ChoiceNotes, Timed, by_time
from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames, decode_timed
from stin_pipe.pipeline.decoding.header import Header, read_header
from stin_pipe.pipeline.decoding.pictures import treat_colours
from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.shard.fill import _solve
from stin_pipe.pipeline.shard.from_frames import chosen_frames
from stin_pipe.pipeline.shard.from_video import prepared_frames, stored_fps

PATCHES = np.array(
    [
        [[200, 60, 60], [60, 200, 60], [60, 60, 200], [128, 128, 128]],
        [[200, 150, 60], [60, 150, 200], [230, 230, 230], [40, 40, 40]],
    ],
    np.uint8,
)
"""Known colours, as BT.709 displays show them."""


def run_ffmpeg(*options: object, content: bytes = b"") -> None:
    command = [find_ffmpeg().path, "-v", "error", "-y", *map(str, options)]
    subprocess.run(command, input=content, check=True)


def patches(path: Path, convert: str, *tags: str, height: int = 64, width: int = 128) -> Path:
    """Encode the patches; `convert` is of zimg, which shares no code with the decoder's own conversion."""
    frame = PATCHES.repeat(height // 2, axis=0).repeat(width // 4, axis=1)
    given = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", 10, "-i", "-")
    chain = f"format=gbrp,zscale=pin=709:tin=bt709:rin=full:{convert}"
    run_ffmpeg(
        *given, "-vf", chain, "-c:v", "libx264", "-qp", 1, *tags, path, content=frame.tobytes() * 2
    )  # fmt: skip
    return path


def colour_error(path: Path, notes: DecodeNotes | None = None) -> int:
    frame = next(iter(decode_frames(path, notes or DecodeNotes()))).astype(int)
    height, width = frame.shape[0] // 2, frame.shape[1] // 4
    seen = frame[height // 2 :: height, width // 2 :: width]
    return int(np.abs(seen - PATCHES).max())


@pytest.mark.parametrize(
    ("matrix", "tag"),
    [("170m", "smpte170m"), ("470bg", "bt470bg"), ("709", "bt709"), ("2020_ncl", "bt2020nc")],
)
@pytest.mark.parametrize(("levels", "range_tag"), [("limited", "tv"), ("full", "pc")])
def test_tagged_colours_are_right(matrix: str, tag: str, levels: str, range_tag: str, tmp_path: Path) -> None:
    path = patches(
        tmp_path / "a.mkv",
        f"p=709:t=709:m={matrix}:r={levels},format=yuv420p",
        *("-colorspace", tag, "-color_range", range_tag),
    )
    assert colour_error(path) <= 3


@pytest.mark.parametrize(
    ("matrix", "width", "changes"), [("170m", 128, ()), ("709", 1280, ("bt709_by_size",))]
)
def test_untagged_colours_follow_the_convention_of_their_size(
    matrix: str, width: int, changes: tuple[str, ...], tmp_path: Path
) -> None:
    untag = "setparams=colorspace=unknown:color_primaries=unknown:color_trc=unknown"
    convert = f"p=709:t=709:m={matrix}:r=limited,format=yuv420p,{untag}"
    path, notes = patches(tmp_path / "a.avi", convert, width=width), DecodeNotes()
    assert colour_error(path, notes) <= 3
    assert notes.changes == changes


@pytest.mark.parametrize(
    ("transfer", "tag", "change", "limit"),
    [
        ("2020_10", "bt2020-10", "wide_gamut", 3),
        ("smpte2084:npl=203", "smpte2084", "tone_mapped", 3),
        ("arib-std-b67:npl=203", "arib-std-b67", "tone_mapped", 6),
    ],
)
def test_wide_gamut_and_hdr_become_bt709(
    transfer: str, tag: str, change: str, limit: int, tmp_path: Path
) -> None:
    path = patches(
        tmp_path / "a.mkv",
        f"p=2020:t={transfer}:m=2020_ncl:r=limited,format=yuv420p10le",
        *("-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", tag),
    )
    notes = DecodeNotes()
    assert colour_error(path, notes) <= limit
    assert notes.changes == (change,)
    assert sum(1 for _ in decode_frames(path, notes, interlaced=None)) == 2


def test_hdr_is_refused_where_ffmpeg_cannot_convert() -> None:
    header = Header(
        stream=0, codec="hevc", pixel_format="yuv420p10le", width=64, height=64, transfer="smpte2084"
    )
    assert "zscale" in treat_colours(header, can_convert=False).problem
    assert treat_colours(header, can_convert=True).changes == ("tone_mapped",)


def test_headers_of_many_programs() -> None:
    line = "[info]   Stream #0:1[0x2](und): Video: {}, 720x576 [SAR 16:15 DAR 4:3], 25 fps, 25 tbr"
    cover = "[info]   Stream #0:0: Video: mjpeg (Baseline), yuvj420p(pc), 90x90, 90k tbr (attached pic)"
    for text, order, matrix, transfer in [
        ("mpeg2video (Main), yuv420p(tv, top first)", "top", "", ""),
        ("h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive)", "progressive", "bt709", "bt709"),
        ("prores, yuv422p10le(tv, bt709/unknown/unknown, top coded first (swapped))", "bottom", "bt709", ""),
        ("hevc (Main 10), yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67)", None, "bt2020nc", "arib-std-b67"),
        ("mpeg4 (Simple Profile) (xvid / 0x64697678), yuv420p", None, "", ""),
    ]:  # fmt: skip
        header = read_header(f"{cover}\n{line.format(text)}")
        assert header is not None and (header.stream, header.height) == (1, 576), text
        assert (header.field_order, header.matrix, header.transfer) == (order, matrix, transfer), text
    assert read_header("[info]   title: Stream #0:0: Video: h264, yuv420p, 1x1") is None


def moving_bars(path: Path, *options: object, interlace: bool = True) -> Path:
    """Upright bars that move by 8 pixels a field: rows of the two fields differ wherever there are combs."""
    draw = "nullsrc=s=144x1:r=50:d=0.6,geq=lum='if(mod(floor((X+N*8)/48)\\,2)\\,200\\,50)':cb=128:cr=128"
    size = "720:576" if "dvvideo" in options else "144:480"
    fields = "interlace" if interlace else "fps=25"
    chain = f"format=yuv420p,scale={size}:flags=neighbor,{fields}"
    if "mpeg4" in options and interlace:  # no tag, no flag
        chain += ",setfield=prog"
    run_ffmpeg("-f", "lavfi", "-i", draw, "-vf", chain, *options, path)
    return path


def comb(frames: list[np.ndarray]) -> float:
    """Mean difference of neighbouring rows: the bars are upright, so whole pictures have none."""
    return float(
        np.mean([np.abs(np.diff(frame[100:400, ..., 1].astype(int), axis=0)).mean() for frame in frames])
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flagged.mpg", ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-qscale:v", 3)),
        ("flagged.mkv", ("-c:v", "libx264", "-flags", "+ilme+ildct")),
        ("frames_alone_are_flagged.avi", ("-c:v", "dvvideo", "-pix_fmt", "yuv420p")),
        ("container_alone.mov", ("-c:v", "mjpeg", "-field_order", "tt", "-q:v", 3)),
        ("nobody_says.avi", ("-c:v", "mpeg4", "-q:v", 3)),
    ],
)
def test_combs_are_removed(name: str, options: tuple[object, ...], tmp_path: Path) -> None:
    path, notes = moving_bars(tmp_path / name, *options), DecodeNotes()
    kept = list(decode_frames(path, DecodeNotes(), interlaced="keep"))
    joined = list(decode_frames(path, notes))
    assert len(joined) == len(kept) == 15
    assert comb(kept) > 8 * comb(joined)
    assert notes.changes == ("deinterlaced",) and notes.interlaced == 0
    part = list(decode_frames(path, DecodeNotes(), start_s=0.2, end_s=0.4))
    assert 4 <= len(part) <= 6 and comb(part) < comb(kept) / 8


def test_progressive_video_is_left_alone(tmp_path: Path) -> None:
    for name, options in {
        "a.avi": ("-c:v", "mpeg4", "-q:v", 3),
        "a.mkv": ("-c:v", "ffv1"),
        "a.mp4": ("-c:v", "libx264"),
    }.items():
        path, notes = moving_bars(tmp_path / name, *options, interlace=False), DecodeNotes()
        frames = [frame.tobytes() for frame in decode_frames(path, notes)]
        assert notes.changes == () and notes.interlaced == 0, name
        assert frames == [frame.tobytes() for frame in decode_frames(path, DecodeNotes(), interlaced=None)]


def test_a_second_video_stream_changes_nothing(tmp_path: Path) -> None:
    """Not one that is longer, and no cover picture before or after."""
    source = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2")
    angle = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=4")
    run_ffmpeg(*source, *angle, "-map", "0", "-map", "1", "-c:v", "mpeg4", tmp_path / "two.mkv")
    run_ffmpeg(*source, "-frames:v", 1, tmp_path / "cover.png")
    run_ffmpeg(
        *("-i", tmp_path / "cover.png", *source, "-map", 0, "-map", 1, "-c:v:0", "mjpeg", "-c:v:1", "mpeg4"),
        *("-disposition:v:0", "attached_pic", tmp_path / "cover.mp4"),
    )
    for name in ("two.mkv", "cover.mp4"):
        notes = DecodeNotes()
        assert sum(1 for _ in decode_frames(tmp_path / name, notes, square_pixels=True)) == 50, name
        assert not notes.damaged and notes.fps == 25.0, notes


def test_a_wrong_rate_in_the_header_is_noticed(tmp_path: Path) -> None:
    """H.264 whose clock of 600 ticks a second came into an AVI, which calls each tick a frame."""
    source = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1")
    run_ffmpeg(*source, "-c:v", "libx264", "-video_track_timescale", 600, tmp_path / "a.mov")
    run_ffmpeg("-i", tmp_path / "a.mov", "-c", "copy", tmp_path / "a.avi")
    notes = DecodeNotes()
    assert sum(1 for _ in decode_frames(tmp_path / "a.avi", notes)) == 25
    assert notes.header_fps == 600.0 and notes.fps == pytest.approx(25.0)
    assert notes.announced == 25 and not notes.damaged


def test_times_are_those_of_the_frames(tmp_path: Path) -> None:
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-vf", "select=not(eq(n\\,3))"),
        *("-fps_mode" if find_ffmpeg().major not in (3, 4) else "-vsync", "passthrough", "-c:v", "ffv1"),
        tmp_path / "a.mkv",
    )
    times = [frame.at_s for frame in decode_timed(tmp_path / "a.mkv", DecodeNotes())]
    assert times == [Fraction(n, 10) for n in range(10) if n != 3]


def choose(times: list[float], fps: float, **options) -> tuple[list[int], ChoiceNotes]:
    notes = ChoiceNotes()
    timed = (
        Timed(picture=index, at_s=Fraction(at).limit_denominator(1000)) for index, at in enumerate(times)
    )
    return [item.picture for item in by_time(timed, fps, notes, **options)], notes


def test_no_frame_is_chosen_twice_and_the_lack_is_counted() -> None:
    source = [index / 20 for index in range(40)]
    chosen, notes = choose(source, 25.0)
    assert chosen == list(range(40))
    assert (notes.unfilled, notes.rate(25.0)) == (10, 20.0)  # the last frame may fill no further tick
    repeated, _ = choose(source, 25.0, repeat=True)
    assert len(repeated) == 50 and set(repeated) == set(range(40))


def test_fewer_frames_are_chosen_by_time() -> None:
    chosen, notes = choose([index / 30 for index in range(60)], 25.0)
    assert len(chosen) == 50 and (notes.unfilled, notes.rate(25.0)) == (0, 25.0)
    assert notes.uneven == 49  # spans of 1/30 and 2/30 s, none of 1/25
    even, notes = choose([index / 30 for index in range(60)], 10.0)
    assert np.diff(even).tolist() == [3] * 19 and notes.uneven == 0


def test_a_phone_of_variable_rate_and_a_clock_that_jumps_back() -> None:
    slow_then_fast = [index / 5 for index in range(5)] + [1 + index / 30 for index in range(30)]
    chosen, notes = choose(slow_then_fast, 15.0)
    assert len(chosen) == len(set(chosen)) == 20
    assert notes.unfilled == 10 and notes.uneven >= 5
    jumping = [index / 10 for index in range(10)] + [index / 10 for index in range(10)]
    assert choose(jumping, 10.0)[0] == list(range(20))
    assert choose([0.0], 10.0)[0] == [0]


PARAMS = ExtractParams(
    size=(32, 32),
    short_side=None,
    bound_px=2.0,
    flow_backend="cpu",
    fps=10.0,
    decoding=2,
    flow_pairs="source",
)


def test_flow_may_lead_to_the_next_frame_of_the_source(tmp_path: Path) -> None:
    """From a file as from memory: with each stored frame comes the grey picture that follows it."""
    run_ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=32x32:r=30:d=1",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "gbrp",
        tmp_path / "a.mkv",
    )
    video = ListedVideo(id="a/a", path="a.mkv", label=0, class_name="a", splits={})
    notes = DecodeNotes()
    stored = list(prepared_frames(video, tmp_path, PARAMS, notes, deadline=time.monotonic() + 60))
    whole = np.stack(list(decode_frames(tmp_path / "a.mkv", DecodeNotes())))
    from_memory = list(chosen_frames(whole, fps=30.0, params=PARAMS))
    assert len(stored) == len(from_memory) == 10 and stored_fps(PARAMS, notes) == 10.0
    assert [
        np.array_equal(one.rgb, other.picture) for one, other in zip(stored, from_memory, strict=True)
    ] == [True] * 10
    begins = [round(item.at_s * 30) for item in from_memory]

    def pairs(greys: np.ndarray, _params: ExtractParams) -> np.ndarray:
        return np.stack([greys[:-1], greys[1:]], axis=1)

    for (before, after), frame, begin in zip(_solve(stored, PARAMS, pairs), stored, begins, strict=False):
        assert np.array_equal(before, frame.grey)
        assert np.array_equal(after, cv2.cvtColor(whole[begin + 1], cv2.COLOR_RGB2GRAY))


def test_earlier_runs_keep_their_fingerprint() -> None:
    """New fields are left out where they say what earlier versions did."""
    old = ExtractParams(size=(32, 32), short_side=None, bound_px=2.0, flow_backend="cpu")
    assert not {"decoding", "interlaced", "flow_pairs"} & set(old.as_record())
    assert PARAMS.as_record()["decoding"] == 2 and PARAMS.fingerprint() != old.fingerprint()
    with pytest.raises(ValueError, match="decoding must be 1 or 2, got 3"):
        ExtractParams(size=(32, 32), short_side=None, bound_px=2.0, flow_backend="cpu", decoding=3)


def test_a_decoder_without_the_filter_names_the_next_step(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stin_pipe.pipeline.decoding.pictures.has_filter", lambda _name: False)
    path = patches(
        tmp_path / "a.mkv",
        "p=2020:t=smpte2084:npl=203:m=2020_ncl:r=limited,format=yuv420p10le",
        *("-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "smpte2084"),
    )
    with pytest.raises(DecodeError, match="STIN_PIPE_FFMPEG") as caught:
        list(decode_frames(path, DecodeNotes()))
    assert caught.value.reason == "hdr"
