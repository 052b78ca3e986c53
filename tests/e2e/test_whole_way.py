"""From shards to a fused score and back to a raw video: the later commands, joined as a user joins them."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SETTINGS = ("--recipe", "small", "--no-flip", "--epochs", "3", "--segments", "2", "--batch-size", "6")
SCORING = ("--segments", "3", "--crops", "1")


@pytest.fixture(scope="module")
def trained_run(extracted_run: Path, tmp_path_factory: pytest.TempPathFactory, call) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(extracted_run, run)
    for command in ("train-spatial", "train-temporal"):
        called = call(command, "--run", run, *SETTINGS, "--json")
        assert called.code == 0, called.stderr
        value = called.json
        assert {"split", "epochs", "steps", "seconds", "samples_per_s", "checkpoint"} <= set(value)
        assert (value["split"], value["epochs"]) == ("1", 3)
        assert Path(value["checkpoint"]).exists()
    return run


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, call):
    called = call("fuse-eval", "--run", trained_run, *SCORING, "--json")
    assert called.code == 0, called.stderr
    return called.json


def test_fuse_eval_counts_and_files(trained_run: Path, evaluated) -> None:
    assert (evaluated["num_videos"], evaluated["num_listed"], evaluated["split"]) == (9, 9, "1")
    for stream in ("spatial", "temporal", "fused"):
        numbers = evaluated[stream]
        assert 0 <= numbers["top1"] <= numbers["top5"] <= 1
        assert numbers["mean_class"] == pytest.approx(numbers["top1"])  # one test video a class
    assert evaluated["fusion_weights"] == [1.0, 1.5]
    stored = json.loads((trained_run / "fuse-eval" / "split1" / "metrics.json").read_text())
    assert stored == {key: value for key, value in evaluated.items() if key != "command"}
    assert Path(evaluated["report"]).stat().st_size < 15 << 20


def test_fusion_is_what_the_score_files_say(trained_run: Path, evaluated) -> None:
    """Top-1 of the fusion, computed here from the two score files."""
    folder = trained_run / "fuse-eval" / "split1"
    logits, ids, labels = {}, {}, None
    for stream in ("spatial", "temporal"):
        with np.load(folder / f"{stream}.npz", allow_pickle=False) as opened:
            logits[stream], labels = opened["logits"], opened["labels"]
            ids[stream] = json.loads(opened["about"].tobytes())["ids"]
    assert ids["spatial"] == ids["temporal"]
    fused = logits["spatial"] + 1.5 * logits["temporal"]
    assert evaluated["fused"]["top1"] == pytest.approx((fused.argmax(1) == labels).mean())


def test_the_report_is_whole_and_fetches_nothing(trained_run: Path, evaluated) -> None:
    html = Path(evaluated["report"]).read_text()
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    assert "red-right" in html and "reconstruction" in html and "polyline" in html
    assert 'src="' in html and html.count('src="') == sum(
        html.count(f'src="data:{kind};base64,') for kind in ("image/jpeg", "video/mp4")
    )
    # Links lead to places of the page, or to the videos beside the run.
    links = [link for link in re.findall(r'href="([^"]*)"', html) if not link.startswith("#")]
    folder = Path(evaluated["report"]).parent
    assert links and all((folder / link).is_file() and ":" not in link for link in links)
    assert html.count("<script>") == 1


def test_the_report_of_a_run_opens_in_a_browser(evaluated, browser) -> None:
    """Frames, flow, differences and attention of trained streams; no error, no request, no overflow."""
    path = Path(evaluated["report"])
    browser.open(path, width=360, height=740)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.run("Math.min(...[...document.images].map(image => image.naturalWidth))") > 0
    rows = browser.run("[...new Set([...document.querySelectorAll('.tag')].map(e => e.textContent))]")
    assert rows == ["frame", "video", "optical flow", "difference (spatial)", "attention (temporal)"]
    assert browser.run("document.documentElement.scrollWidth") == 360


def test_predict_gives_the_scores_of_fuse_eval(trained_run: Path, evaluated, made_videos, call) -> None:
    """Bit for bit, for each stream and fused: the raw video goes the way of the shard."""
    video = "green-up/v_green-up_02.avi"
    called = call("predict", "--run", trained_run, *SCORING, made_videos.videos / video, "--json")
    assert called.code == 0, called.stderr
    prediction = called.json["predictions"][0]
    assert prediction["fusion"]["from"] == "as fuse-eval did in this run"
    for stream in ("spatial", "temporal", "fused"):
        path = trained_run / "fuse-eval" / "split1" / f"{stream}.npz"
        with np.load(path, allow_pickle=False) as opened:
            about = json.loads(opened["about"].tobytes())
            logits = opened["logits"][about["ids"].index(video)].astype(np.float64)
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert len(prediction[stream]) == 5
        for item in prediction[stream]:
            place = about["class_names"].index(item["class"])
            assert item["score"] == logits[place]
            assert item["probability"] == pytest.approx(expected[place], abs=1e-6)


def test_predict_goes_on_after_a_bad_video_and_takes_model_files(
    trained_run: Path, made_videos, tmp_path: Path, call
) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    shutil.copy(made_videos.videos / "red-up" / "v_red-up_00.avi", tmp_path / "good.avi")
    model = trained_run / "train-spatial" / "split1" / "model.safetensors"
    called = call("predict", "--model", model, *SCORING, tmp_path, "--json")
    assert called.code == 3
    by_name = {Path(item["video"]).name: item for item in called.json["predictions"]}
    assert "not_a_video" in by_name["bad.mp4"]["error"]
    assert len(by_name["good.avi"]["spatial"]) == 5 and "fused" not in by_name["good.avi"]


def test_overlay_shows_the_video_its_flow_and_what_is_said(
    trained_run: Path, made_videos, tmp_path: Path, call
) -> None:
    """Beside a broken one: as many frames as the video, each in its box, flow in the colour of left."""
    from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
    from stin_pipe.workflows.prediction.overlay_scene import BARS_LEFT, BARS_TOP, FLOW_BOX, PAPER

    source = tmp_path / "videos" / "v.avi"
    source.parent.mkdir()
    shutil.copy(made_videos.videos / "green-left" / "v_green-left_02.avi", source)
    (source.parent / "bad.mp4").write_text("no video")
    content = source.read_bytes()
    called = call(
        *("predict", "--run", trained_run, *SCORING, source.parent, "--overlay", tmp_path / "shown", "--json")
    )
    assert called.code == 3
    by_name = {Path(item["video"]).name: item for item in called.json["predictions"]}
    assert "overlay" not in by_name["bad.mp4"]
    out = tmp_path / "shown" / "v.overlay.mp4"
    assert by_name["v.avi"]["overlay"] == str(out) and list(out.parent.iterdir()) == [out]
    assert source.read_bytes() == content
    frames = [frame.astype(int) for frame in decode_frames(source, DecodeNotes())]
    shown = [frame.astype(int) for frame in decode_frames(out, DecodeNotes())]
    assert len(shown) == len(frames) == 7 and shown[0].shape == (540, 960, 3)
    for picture, frame in zip(shown, frames, strict=True):
        small = picture[: 540 - 40][57 : 57 + 426, :640][::13, ::13][:, :49]  # 48x32 in a box of 640x540
        assert np.abs(small.mean((0, 1)) - frame.mean((0, 1))).max() < 8
    left, top, width, height = FLOW_BOX
    flow = shown[3][top : top + height, left : left + width]
    lit = flow[(flow.min(2) < 150) & (flow.max(2) > 150)]
    assert len(lit) > 50 and lit[:, 2].mean() > 200 > lit[:, 0].mean()  # light blue, as left is
    bars = [picture[BARS_TOP:, BARS_LEFT:] for picture in shown]
    ink = [(np.abs(part - np.array(PAPER)).max(2) > 60).mean() for part in bars]
    assert ink[0] < 0.01 < ink[1]  # nothing is said before the first motion


@pytest.mark.shared_data
def test_overlay_of_a_rotated_video_stands_upright(
    trained_run: Path, shared_data: Path, tmp_path: Path, call
) -> None:
    """Stored 568x320 and turned by its metadata: shown 320x568, so 304 of the box's 640 columns."""
    from stin_pipe.pipeline.decoding.frames import DecodeNotes, decode_frames
    from stin_pipe.workflows.prediction.overlay_scene import PAPER

    source, out = shared_data / "odd" / "decord" / "video_90.mov", tmp_path / "out.mp4"
    called = call("predict", "--run", trained_run, *SCORING, source, "--overlay", out, "--json")
    assert called.code == 0, called.stderr
    frame = next(iter(decode_frames(source, DecodeNotes()))).astype(int)
    shown = next(iter(decode_frames(out, DecodeNotes()))).astype(int)
    assert frame.shape[:2] == (568, 320)
    box = shown[:480, :640]
    assert np.abs(box[:, :160] - np.array(PAPER)).max() < 12  # beside the picture
    thumb = box[:, 168 : 168 + 304].reshape(12, 40, 8, 38, 3).mean((1, 3))
    rows = np.linspace(0, 480 * 568 / 540, 13).astype(int)
    expected = np.stack([frame[a:b].reshape(-1, 8, 40, 3).mean((0, 2)) for a, b in itertools.pairwise(rows)])
    assert np.corrcoef(thumb.ravel(), expected.ravel())[0, 1] > 0.98


def test_overlay_refuses_to_replace_a_video(trained_run: Path, made_videos, tmp_path: Path, call) -> None:
    source = tmp_path / "clip.mp4"
    shutil.copy(made_videos.videos / "green-left" / "v_green-left_02.avi", source)
    before = source.read_bytes()
    called = call("predict", "--run", trained_run, *SCORING, source, "--overlay", source)
    assert called.code == 2 and "this is one of the videos; give another name or folder" in called.stderr
    assert source.read_bytes() == before


def test_finished_stages_end_at_once(trained_run: Path, evaluated, call) -> None:
    model = trained_run / "train-temporal" / "split1" / "model.safetensors"
    before = model.stat().st_mtime_ns
    called = call("train-temporal", "--run", trained_run, *SETTINGS, "--json")
    assert called.code == 0 and model.stat().st_mtime_ns == before
    # The page lists each call of a training, also one that had nothing to do.
    again = call("fuse-eval", "--run", trained_run, *SCORING, "--json").json
    assert again | {"trainings": None} == evaluated | {"trainings": None}
    status = call("status", "--run", trained_run, "--json").json
    assert status["extract"]["state"] == "done"
    assert {item["state"] for item in status["training"] + status["fuse_eval"]} == {"done"}


def test_training_killed_and_resumed_equals_the_undisturbed_one(
    trained_run: Path, extracted_run: Path, tmp_path: Path, call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(extracted_run, run)
    arguments = [sys.executable, "-m", "stin_pipe", "train-temporal"]
    arguments += ["--run", str(run), *SETTINGS]
    checkpoints = run / "train-temporal" / "split1" / "checkpoints"
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(checkpoints.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    called = call("train-temporal", "--run", run, *SETTINGS, "--json")
    assert called.code == 0, called.stderr
    folders = [root / "train-temporal" / "split1" for root in (run, trained_run)]
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_fuse_eval_with_all_splits(trained_run: Path, evaluated, call) -> None:
    called = call("fuse-eval", "--run", trained_run, "--split", "all", *SCORING, "--json")
    assert called.code == 0, called.stderr
    assert called.json["split"] == "all" and len(called.json["splits"]) == 1
    assert called.json["fused"] == evaluated["fused"]
