"""Files whose names or kinds are hostile: each is a video or a failure, no command runs, nothing hangs."""

import json
import os
import shutil
from pathlib import Path

import pytest

from stin_pipe.pipeline.decoding.frames import DecodeError, DecodeNotes, decode_frames
from stin_pipe.stin.shards.schema import Manifest

NAMES = (
    b"-rf; touch pwned.avi",
    b"$(touch pwned).avi",
    b"%05d.avi",
    b"file:http:x.avi",
    b"concat:a|b.avi",
    b"two\nlines.avi",
    b"not utf-8 \xff\xfe.avi",
    "über 日本.avi".encode(),
    b"<script>alert(1)<.avi",
    b"[bold]rich[blink].avi",
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.avi"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(DecodeError) as caught:
        list(decode_frames(path, DecodeNotes()))
    assert (caught.value.reason, caught.value.retry) == ("not_a_file", False)


def test_hostile_names_go_the_whole_way(made_videos, tmp_path: Path, call) -> None:
    videos, run, out = tmp_path / "videos", tmp_path / "run", tmp_path / "out"
    source = made_videos.videos / "red-up" / "v_red-up_00.avi"
    for folder in (b"good \xe9 class", b"bad"):
        (videos / os.fsdecode(folder)).mkdir(parents=True)
        for name in NAMES:
            target = videos / os.fsdecode(folder) / os.fsdecode(name)
            if folder == b"bad":
                target.write_text("no video")
            else:
                shutil.copy(source, target)
    os.mkfifo(videos / "bad" / "pipe.avi")
    before = sorted(tmp_path.iterdir())
    called = call(
        *("extract", "--run", run, "--videos", videos, "--size", "48x32", "--runner", "local"),
        *("--max-failure-rate", 1, "--json"),
        cwd=tmp_path,
    )
    assert called.code == 0, called.stderr
    assert called.json["done"] == len(NAMES)
    assert called.json["failures"] == {"not_a_video": len(NAMES), "not_a_file": 1}
    manifest = Manifest.load(run / "extract" / "manifest.json")
    assert {video.digest for video in manifest.videos.values()} and len(manifest.videos) == len(NAMES)
    assert all(video.num_frames == 7 for video in manifest.videos.values())
    assert "good \\xe9 class/not utf-8 \\xff\\xfe.avi" in manifest.videos
    for line in (run / "extract" / "failures.jsonl").read_text().splitlines():
        assert json.loads(line)["reason"] in ("not_a_video", "not_a_file")
    assert call("verify", "--run", run, cwd=tmp_path).code == 0
    assert call("status", "--run", run, cwd=tmp_path).code == 0
    called = call("export", "--run", run, "--out", out, "--json", cwd=tmp_path)
    assert called.code == 0 and called.json["videos"] == len(NAMES)
    rows = "".join(path.read_text() for path in (out / "lists").glob("rgb_*")).splitlines()
    assert len(rows) == len(NAMES) and all(len(row.split(" ")) == 3 for row in rows)
    assert sorted(tmp_path.iterdir()) == sorted([*before, run, out]), "something else was written"
