"""The report: counts that match the scores, and every name from outside shown as text."""

import json
from pathlib import Path

import numpy as np
import pytest

from stin.fusion import accuracy, fuse
from stin.scores import Scores
from stin.shards.schema import FailedVideo, Manifest, ManifestVideo
from workflows.fuse_eval import SplitResult
from workflows.report.curves import HEIGHT, WIDTH, training_curves
from workflows.report.render import (
    class_rows,
    confusion_matrix,
    most_confused,
    render_report,
    stream_agreement,
)
from workflows.run_dir import RunDir

HOSTILE = ('<script>alert(1)</script>"', "'><img src=x onerror=alert(1)>", "مرحبا 🎉", "a" * 200)


def scores_of(stream: str, guesses: list[int], labels: list[int]) -> Scores:
    logits = np.eye(4, dtype=np.float32)[guesses] * 4
    ids = tuple(f"{HOSTILE[label]}/{index}.avi" for index, label in enumerate(labels))
    return Scores(
        ids=ids,
        labels=np.array(labels),
        class_names=HOSTILE,
        logits=logits,
        main_logits=logits,
        aux_logits=None,
        stream=stream,
    )


@pytest.fixture
def result() -> SplitResult:
    labels = [0, 0, 1, 2, 3]
    spatial = scores_of("spatial", [0, 1, 1, 2, 0], labels)
    temporal = scores_of("temporal", [0, 1, 0, 3, 0], labels)
    fused = fuse(spatial, temporal)
    found = {
        name: accuracy(values, np.array(labels), num_listed=6)
        for name, values in (
            ("spatial", spatial.logits),
            ("temporal", temporal.logits),
            ("fused", fused.scores),
        )
    }
    metrics = {
        "num_videos": 5,
        "num_listed": 6,
        **{name: value.to_json() for name, value in found.items()},
        "fusion_weights": [1.0, 1.5],
        "fusion": "before_softmax",
        "protocol": {"segments": 25, "crops": 10},
    }
    return SplitResult(
        split="1", spatial=spatial, temporal=temporal, fused=fused, accuracies=found, metrics=metrics
    )


def manifest_of(result: SplitResult) -> Manifest:
    about = {"num_frames": 9, "height": 8, "width": 8, "fps": 1.0, "shard": "00000", "digest": "d"}
    videos = {
        name: ManifestVideo(id=name, label=int(label), **about, group="000000", splits={"1": "test"})
        for name, label in zip(result.fused.ids, result.fused.labels, strict=True)
    }
    failed = FailedVideo(
        id=f"{HOSTILE[0]}/bad.avi", label=0, splits={"1": "test"}, reason="<b>r</b>", message="&m"
    )
    return Manifest(
        dataset="folder",
        classes=HOSTILE,
        split_names=("1",),
        split_source="<i>lists</i>",
        videos=videos,
        failed=(failed,),
        num_skipped=0,
        num_absent=0,
        num_pending=0,
        bound_px=20.0,
        flow_backend="cpu",
        fingerprint="f",
    )


def test_counts_of_the_tables(result: SplitResult) -> None:
    """By hand: the fusion (1 : 1.5) says 0 1 0 3 0, so one video of five is right."""
    matrix = confusion_matrix(result.fused.labels, result.fused.scores, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    rows = {row.name: row for row in class_rows(HOSTILE, result)}
    first = rows[HOSTILE[0]]
    assert (first.count, first.spatial, first.temporal, first.fused) == (2, 0.5, 0.5, 0.5)
    assert (rows[HOSTILE[1]].spatial, rows[HOSTILE[1]].temporal) == (1.0, 0.0)
    assert list(stream_agreement(result).values()) == [1, 2, 0, 2]
    pairs = most_confused(HOSTILE, matrix)
    assert len(pairs) == 4 and all(pair.count == 1 for pair in pairs)
    assert {pair.share for pair in pairs} == {0.5, 1.0}


def test_every_name_is_text(result: SplitResult, tmp_path: Path) -> None:
    html = render_report(RunDir(path=tmp_path / "<u>run</u>"), manifest_of(result), result)
    for bad in ("<script", "<img", "<b>r", "<i>lists", "<u>run", "&m"):
        assert bad not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "مرحبا 🎉" in html and "a" * 200 in html
    assert "20.0 % top-1" in html and "16.7" in html  # 1 of 5 scored, 1 of 6 listed


def test_curves_stay_in_their_box_and_keep_the_last_value(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": step, "loss": 3.0 - step / 500} for step in range(1, 1001)]
    lines.append({"kind": "val", "step": 500, "top1": 0.25, "loss": 9.0})
    lines.append({"kind": "val", "step": 1000, "top1": 0.5, "loss": 9.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss, top1 = training_curves(tmp_path / "metrics.jsonl", "spatial")
    points = [tuple(map(float, pair.split(","))) for pair in loss.points.split()]
    assert len(points) == 200 and loss.last_step == 1000 and loss.high < 9
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points[0][1] < points[-1][1]  # a falling loss goes down the page
    assert (top1.last, top1.low, top1.high) == (0.5, 0.0, 1.0)
    assert training_curves(tmp_path / "none.jsonl", "spatial") == []
