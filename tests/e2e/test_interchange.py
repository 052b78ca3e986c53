"""Export to folders of images and import from them, as a user does it with other programs' loaders."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from stin_pipe.stin.shards.codec import dequantise_flow
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import Manifest


def load(run: Path) -> tuple[Manifest, ShardReader]:
    manifest = Manifest.load(run / "extract" / "manifest.json")
    return manifest, ShardReader(run / "extract", manifest)


@pytest.fixture(scope="module")
def exported(extracted_run: Path, tmp_path_factory: pytest.TempPathFactory, call) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    called = call("export", "--run", extracted_run, "--out", out, "--format", "rawframes", "--json")
    assert called.code == 0, called.stderr
    assert (called.json["videos"], called.json["frames_written"]) == (27, 27 * 7)
    return out


@pytest.fixture(scope="module")
def imported_run(exported: Path, tmp_path_factory: pytest.TempPathFactory, call) -> Path:
    run = tmp_path_factory.mktemp("imported") / "run"
    called = call(
        *("import", "--run", run, "--frames", exported / "rawframes", "--splits", exported / "lists"),
        *("--codec", "png", "--workers", 2, "--json"),
    )
    assert called.code == 0, called.stderr
    assert (called.json["done"], called.json["flow_pairs"]) == (27, 27 * 6)
    return run


def test_loaders_find_what_the_lists_promise(exported: Path, extracted_run: Path) -> None:
    """What TSN's loader does: split a line at blanks, then open numbers 1 to the total."""
    manifest, reader = load(extracted_run)
    coding = reader.flow_coding("red-up/v_red-up_00.avi")
    seen = {"train": 0, "test": 0}
    for side in seen:
        rgb, flow = (
            [
                line.split(" ")
                for line in (exported / f"lists/{stream}_{side}_split_1.txt").read_text().splitlines()
            ]
            for stream in ("rgb", "flow")
        )
        for (path, total, label), (flow_path, flow_total, flow_label) in zip(rgb, flow, strict=True):
            assert (path, label, int(total) - 1) == (flow_path, flow_label, int(flow_total))
            folder = exported / "rawframes" / path
            assert len(list(folder.iterdir())) == int(total) + 2 * int(flow_total)
            video = manifest.videos[f"{path}.avi"]
            assert (video.label, video.splits["1"]) == (int(label), side)
            for index in range(1, int(total) + 1):
                assert (folder / f"img_{index:05d}.jpg").is_file()
            stored = dequantise_flow(reader.read_flow(video.id, range(6)), coding)
            for index in range(1, int(flow_total) + 1):
                for axis, name in enumerate("xy"):
                    grey = cv2.imread(str(folder / f"flow_{name}_{index:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
                    assert grey is not None
                    error = (grey - 127.5) * (2 * manifest.bound_px / 255) - stored[index - 1, axis]
                    assert np.abs(error).mean() < 1.5 * coding.scale
            seen[side] += 1
    assert seen == {"train": 18, "test": 9}


def test_frames_come_back_byte_for_byte_and_flow_within_its_coding(
    extracted_run: Path, imported_run: Path, exported: Path
) -> None:
    (old, old_reader), (new, new_reader) = load(extracted_run), load(imported_run)
    assert new.flow_backend == "imported" and new.bound_px == old.bound_px
    assert new.classes == old.classes and new.split_names == old.split_names
    for before in old.videos.values():
        after = new.videos[before.id.removesuffix(".avi")]
        assert (after.label, dict(after.splits)) == (before.label, dict(before.splits))
        frames = old_reader.read_rgb(before.id, range(7))
        assert np.array_equal(new_reader.read_rgb(after.id, range(7)), frames)
        coding = new_reader.flow_coding(after.id)
        assert (coding.zero, coding.scale) == (127.5, 2 * old.bound_px / 255)
        planes = new_reader.read_flow(after.id, range(6))
        for index, (x, y) in enumerate(planes, start=1):
            for name, plane in (("x", x), ("y", y)):
                path = exported / "rawframes" / after.id / f"flow_{name}_{index:05d}.jpg"
                wanted = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                assert wanted is not None and np.array_equal(plane, wanted)


def test_an_imported_run_is_verified_and_resumes(
    imported_run: Path, exported: Path, tmp_path: Path, call
) -> None:
    run, frames = tmp_path / "run", tmp_path / "more" / "rawframes"
    shutil.copytree(imported_run, run)
    shutil.copytree(exported / "rawframes", frames)
    again = (
        "import",
        "--run",
        run,
        "--frames",
        frames,
        "--splits",
        exported / "lists",
        "--codec",
        "png",
        "--json",
    )
    assert call("verify", "--run", run).code == 0
    called = call(*again)
    assert called.code == 1 and "bound_px: 2.5 in the run, 20.0 now" in called.json["error"]
    called = call(*again, "--bound", 2.5)
    assert called.code == 0 and "everything is extracted already" in called.stderr
    shard = run / "extract" / "shards" / "00004.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert call("verify", "--run", run, "--repair").code == 1
    before = {item.id: item.digest for item in load(run)[0].videos.values()}
    assert call(*again, "--bound", 2.5).json["pairs_per_s"] is not None
    assert {item.id: item.digest for item in load(run)[0].videos.values()} == before
    assert call("verify", "--run", run).code == 0


def test_export_resumes_and_refuses_what_is_not_its_own(
    exported: Path, extracted_run: Path, tmp_path: Path, call
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    lost = out / "rawframes" / "red-up" / "v_red-up_01"
    kept = {path.name: path.read_bytes() for path in lost.iterdir()}
    shutil.rmtree(lost)
    (out / "rawframes" / "red-up" / ".v_red-up_01.1-ab.tmp").mkdir()  # as a killed export leaves it
    arguments = ("export", "--run", extracted_run, "--json", "--out")
    called = call(*arguments, out)
    assert called.code == 0 and "26 of 27 videos are exported already" in called.stderr
    assert {path.name: path.read_bytes() for path in lost.iterdir()} == kept
    assert not list(out.glob("rawframes/*/.*"))
    assert "another --bound" in call(*arguments, out, "--bound", 7).json["error"]
    record = json.loads((out / "export.json").read_text())
    record["videos"]["red-up/v_red-up_01.avi"] = "another digest"
    (out / "export.json").write_text(json.dumps(record))
    assert "other content of 1 videos (first: red-up/v_red-up_01.avi)" in call(*arguments, out).json["error"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    assert "holds other things" in call(*arguments, tmp_path / "thesis").json["error"]


def test_a_damaged_shard_exports_the_rest(extracted_run: Path, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    shutil.copytree(extracted_run, run)
    shard = run / "extract" / "shards" / "00003.h5"
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 3, 2 * len(content) // 3, 7):
        content[place] ^= 0x55
    shard.write_bytes(content)
    called = call("export", "--run", run, "--out", tmp_path / "out", "--json")
    assert called.code == 1 and called.json["videos"] == 26
    assert "00003.h5" in called.json["problems"][0]
    there = {str(path.relative_to(tmp_path / "out/rawframes")) for path in tmp_path.glob("out/rawframes/*/*")}
    lists = [path.read_text().splitlines() for path in (tmp_path / "out/lists").glob("rgb_*")]
    assert {line.split(" ")[0] for lines in lists for line in lines} == there and len(there) == 26


def test_bad_folders_are_failures_and_new_ones_join(exported: Path, tmp_path: Path, call) -> None:
    frames = tmp_path / "frames"
    for name in ("red-up", "red-left"):
        shutil.copytree(exported / "rawframes" / name, frames / name)
    (frames / "red-up" / "v_red-up_00" / "img_00003.jpg").unlink()
    bomb = frames / "red-up" / "v_red-up_01" / "img_00001.jpg"  # a PNG in truth: the content counts
    bomb.write_bytes(_huge_png())
    (frames / "red-left" / "empty folder").mkdir()
    arguments = ("import", "--run", tmp_path / "run", "--frames", frames, "--bound", 2.5, "--json")
    called = call(*arguments)
    assert called.code == 3, called.stderr
    assert called.json["failures"] == {"missing_image": 1, "unreadable_image": 1, "no_frames": 1}
    assert called.json["done"] == 4
    lines = (tmp_path / "run" / "extract" / "failures.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {
        "red-up/v_red-up_00",
        "red-up/v_red-up_01",
        "red-left/empty folder",
    }
    shutil.copytree(exported / "rawframes" / "red-up" / "v_red-up_00", frames / "red-up" / "later")
    called = call(*arguments, "--max-failure-rate", 0.9)
    assert called.code == 0 and called.json["done"] == 5 and "new to the run: 1 video" in called.stderr


def test_the_wrong_folder_and_the_wrong_command_are_said(
    exported: Path, imported_run: Path, made_videos, tmp_path: Path, call
) -> None:
    called = call("import", "--run", tmp_path / "run", "--frames", exported, "--json")
    assert called.code == 1
    assert (
        f"no images named img_%05d; expected {exported}/<class>/<video>/img_00001.jpg" in called.json["error"]
    )
    assert f"did you mean {exported / 'rawframes'}?" in called.json["error"]
    assert not (tmp_path / "run").exists()
    called = call("import", "--run", tmp_path / "run", "--frames", made_videos.videos, "--json")
    assert called.code == 1 and "for videos use `stin-pipe extract`" in called.json["error"]
    called = call(
        "extract",
        "--run",
        imported_run,
        "--videos",
        made_videos.videos,
        "--splits",
        made_videos.lists,
        "--json",
    )
    assert called.code == 1 and "was made by import; extract needs another --run" in called.json["error"]


@pytest.mark.slow
def test_imported_flow_trains_and_predicts(imported_run: Path, made_videos, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    shutil.copytree(imported_run, run)
    called = call(
        "train-temporal", "--run", run, "--recipe", "small", "--epochs", 1, "--segments", 1, "--json"
    )
    assert called.code == 0, called.stderr
    clip = made_videos.videos / "red-up" / "v_red-up_00.avi"
    called = call("predict", "--run", run, clip, "--segments", 1, "--crops", 1, "--json")
    assert called.code == 0, called.stderr
    top = called.json["predictions"][0]["temporal"]
    assert len(top) == 5 and abs(sum(item["probability"] for item in top) - 1) < 1


def test_the_size_of_a_run_is_not_taken_from_a_bomb(exported: Path, tmp_path: Path, call) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(exported / "rawframes" / "red-up", frames / "red-up")
    (frames / "red-up" / "v_red-up_00" / "img_00001.jpg").write_bytes(_huge_png(9000, zlib_of=9000 * 9001))
    called = call("import", "--run", tmp_path / "run", "--frames", frames, "--bound", 2.5, "--json")
    assert called.code == 3 and called.json["failures"] == {"unreadable_image": 1}
    assert json.loads((tmp_path / "run/extract/plan.json").read_text())["params"]["short_side"] == 32


def _huge_png(side: int = 30000, zlib_of: int = 9) -> bytes:
    """A small file that claims side x side pixels; `zlib_of` bytes of them are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(zlib_of)))
        + chunk(b"IEND", b"")
    )
