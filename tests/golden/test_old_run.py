"""A run directory of version 0.1.0 is taken up by this one: read, extended, trained to its end, scored.

`run-0.1.0.tar.xz` holds two runs of the demo's videos of two classes, 48x32 pixels and 7 frames, made by the
program of that version alone: `finished`, and `unfinished` with a training stopped at step 20 of 120.
The weights that the trainings started from are gone, as they may be.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stin_pipe.pipeline.listing.hash_split import hash_side
from stin_pipe.pipeline.planning.plan import Plan
from stin_pipe.stin.shards.codec import decode_field
from stin_pipe.stin.shards.reader import ShardFile
from stin_pipe.stin.shards.schema import Manifest, ManifestVideo

ARCHIVE = Path(__file__).with_name("run-0.1.0.tar.xz")
COPIED = "green-up/v_green-up_00.avi"
ADDED = "green-up/v_new-2.avi"
"""A copy under another name, which its hash puts on the test side."""


def fields_of(run: Path, video: ManifestVideo) -> np.ndarray:
    shard = ShardFile(run / "extract/shards" / f"{video.shard}.h5")
    fields = [
        decode_field(shard.read_bytes(video.group, "flow", index).tobytes())
        for index in range(video.num_frames - 1)
    ]
    shard.close()
    return np.stack(fields).astype(np.int16)


def lacking(new: object, old: object, path: str = "") -> list[str]:
    """Return the keys of an old JSON value that a new one lacks; keys may be added, never taken away."""
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [path]
        return [
            gone
            for key in old
            for gone in (lacking(new[key], old[key], f"{path}/{key}") if key in new else [f"{path}/{key}"])
        ]
    if isinstance(old, list) and old:
        return lacking(new[0], old[0], f"{path}/0") if isinstance(new, list) and new else [path]
    return []


def test_a_key_that_is_gone_is_seen() -> None:
    old = {"a": 1, "b": [{"c": 1, "d": 2}]}
    assert lacking({"a": 1, "b": [{"c": 1, "d": 2, "e": 3}], "f": 4}, old) == []
    assert lacking({"b": [{"c": 1}]}, old) == ["/a", "/b/0/d"]
    assert lacking({"a": 1, "b": None}, old) == ["/b"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """The videos that the old runs were made of, and a new one."""
    from stin_pipe.pipeline.demo_videos import SynthParams, make_videos

    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, SynthParams(width=48, height=32, num_frames=7, train_per_class=4, test_per_class=2))
    for path in (folder / "videos").iterdir():
        if path.name not in ("red-left", "green-up"):
            shutil.rmtree(path)
    shutil.copy(folder / "videos" / COPIED, folder / "videos" / ADDED)
    return folder / "videos"


@pytest.fixture
def finished(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "finished", tmp_path / "run"))


@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_the_origin_of_its_splits_is_known(runs: Path, name: str) -> None:
    assert Plan.load(runs / name / "extract" / "plan.json").split_from == "hash"
    assert Manifest.load(runs / name / "extract" / "manifest.json").split_from == "hash"


def test_it_is_read_and_an_added_video_joins_it(finished: Path, videos: Path, call) -> None:
    assert call("verify", "--run", finished, "--json").json["problems"] == []
    before = {path.name: path.read_bytes() for path in (finished / "extract/shards").iterdir()}
    called = call(
        *("extract", "--run", finished, "--videos", videos, "--size", "48x32"),
        *("--runner", "local", "--workers", 1, "--json"),
    )
    assert called.code == 0, called.stderr
    assert "new to the run: 1 video" in called.stderr
    assert (called.json["done"], called.json["failed"], called.json["shards"]) == (13, 0, 13)
    after = {path.name: path.read_bytes() for path in (finished / "extract/shards").iterdir()}
    assert before.items() <= after.items()
    manifest = Manifest.load(finished / "extract" / "manifest.json")
    assert manifest.videos[ADDED].splits == {"1": hash_side(ADDED)} == {"1": "test"}
    old, new = (fields_of(finished, manifest.videos[name]) for name in (COPIED, ADDED))
    assert np.abs(old - new).max() <= 2  # bytes; another processor may round otherwise
    status = call("status", "--run", finished, "--json").json
    assert status["extract"]["done"] == 13
    assert [training["state"] for training in status["training"]] == ["done", "done"]


def test_its_unfinished_training_goes_on_to_its_end(runs: Path, tmp_path: Path, call) -> None:
    run = Path(shutil.copytree(runs / "unfinished", tmp_path / "run"))
    folder = run / "train-temporal" / "split1"
    init = json.loads((folder / "config.json").read_text())["config"]["init"]
    called = call(
        *("train-temporal", "--run", run, "--recipe", "small", "--backbone", "resnet18-w8"),
        *("--set", f"init={init}"),  # --init wants a file that is there
        *("--epochs", 60, "--batch-size", 4, "--segments", 2, "--no-flip", "--plain", "--lr", 1e-12),
        *("--set", "crop_px=32", "--set", "kind=sgd", "--set", "momentum=0.0", "--set", "weight_decay=0.0"),
        *("--set", "val_every_epochs=1"),
        *("--device", "cpu", "--loader-workers", 0, "--json"),
    )
    assert called.code == 0, called.stderr
    assert "resumed after step 20" in called.stderr
    assert called.json["steps"] == 120
    steps = [json.loads(line).get("step") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (folder / "model.safetensors").exists() and max(filter(None, steps)) == 120


def test_its_models_give_the_stored_numbers(finished: Path, call) -> None:
    folder = finished / "fuse-eval" / "split1"
    stored = json.loads((folder / "metrics.json").read_text())
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    shutil.rmtree(finished / "fuse-eval")
    called = call(
        *("fuse-eval", "--run", finished, "--segments", 3, "--crops", 1, "--loader-workers", 0, "--json")
    )
    assert called.code == 0, called.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    assert lacking(metrics, stored) == []
    for name in ("num_videos", "spatial", "temporal", "fused", "comparisons", "intervals"):
        assert metrics[name] == stored[name]
    assert {name: metrics["protocol"][name] for name in stored["protocol"]} == stored["protocol"]
    again = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for old, new in zip(predictions, again, strict=True):
        assert old["id"] == new["id"]
        for stream in ("spatial", "temporal", "fused"):
            assert [item["class"] for item in old[stream]["top5"]] == [
                item["class"] for item in new[stream]["top5"]
            ]
            assert [item["score"] for item in new[stream]["top5"]] == pytest.approx(
                [item["score"] for item in old[stream]["top5"]], abs=1e-5
            )
