"""Results read back: whole ones as they are, damaged ones as if they were not there."""

import json
from pathlib import Path

import pytest

from stin_pipe.stin.results.stored import read_lines, read_metrics, read_result
from stin_pipe.stin.results.trained import read_training
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir
from stin_pipe.workflows.prediction.fusion_choice import better_stream, choose_fusion
from stin_pipe.workflows.report.charts import training_charts
from stin_pipe.workflows.run.stages import evaluation_state, training_state

METRICS = {
    "fused": {"top1": 0.5},
    "protocol": {"aux": {"spatial": 0.5, "temporal": 0.0}},
    "streams": ["spatial", "temporal"],
    "fusion_weights": [1.0, 2.0],
    "fusion": "after_softmax",
}
RESULT = {"steps": 3, "last_val_top1": None, "num_train": 4, "num_held_out": 0}
DAMAGED = ["", "{", "[]", "3", "{}", "\xff", "[" * 5000]


def evaluated(run: Path, text: str) -> Path:
    folder = run / "fuse-eval" / "split1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(text, encoding="latin-1")
    return folder


def trained(path: Path) -> tuple[RunDir, Path]:
    """Return a run, and its folder of the spatial stream's training on split 1."""
    run = RunDir(path=path)
    folder = run.training("spatial", "1")
    folder.mkdir(parents=True)
    return run, folder


@pytest.mark.parametrize(
    "text",
    [
        *DAMAGED,
        *(
            json.dumps(METRICS | changes)
            for changes in (
                {"fused": 3},
                {"fused": {"top1": "much"}},
                {"protocol": []},
                {"protocol": {"aux": {"spatial": None}}},
                {"fusion_weights": [1.0]},
                {"fusion_weights": 2},
                {"streams": "spatial"},
                {"fusion": None},
            )
        ),
    ],
)
def test_damaged_metrics_are_none(text: str, tmp_path: Path) -> None:
    folder = evaluated(tmp_path, text)
    assert read_metrics(folder) == {}
    state = evaluation_state(RunDir(path=tmp_path), "1")
    assert (state.progress, state.fused_top1) == ("damaged", None)
    assert state.sentence == f"damaged: {folder / 'metrics.json'} cannot be read; run fuse-eval again"
    assert choose_fusion(None, run=RunDir(path=tmp_path)).source == "tsn"


def test_whole_metrics_are_used(tmp_path: Path) -> None:
    folder = evaluated(tmp_path, json.dumps(METRICS))
    state = evaluation_state(RunDir(path=tmp_path), "1")
    assert read_metrics(folder) == METRICS and (state.progress, state.fused_top1) == ("done", 0.5)
    chosen = choose_fusion(None, run=RunDir(path=tmp_path))
    assert (chosen.weights, chosen.when) == ((1.0, 2.0), "after_softmax")
    assert read_metrics(tmp_path) == {}


@pytest.mark.parametrize(
    ("spatial", "temporal", "fused", "better"),
    [
        (0.2, 0.867, 0.533, "temporal"),
        (0.6, 0.5, 0.5, "spatial"),
        (0.5, 0.5, 0.5, None),
        (0.1, 0.2, 0.3, None),
    ],
)
def test_a_stream_that_does_better_alone_is_named_with_its_option(
    spatial: float, temporal: float, fused: float, better: str | None, tmp_path: Path
) -> None:
    top1 = {"spatial": {"top1": spatial}, "temporal": {"top1": temporal}, "fused": {"top1": fused}}
    evaluated(tmp_path, json.dumps(METRICS | top1))
    found = better_stream(RunDir(path=tmp_path), "1", DEFAULT)
    assert (found and found.stream) == better
    if found:
        assert f"--streams {better}" in found.text() and f"{100 * fused:.1f} %" in found.text()


@pytest.mark.parametrize("text", [*DAMAGED, json.dumps(RESULT | {"num_train": None})])
def test_damaged_results_of_a_training_are_none(text: str, tmp_path: Path) -> None:
    run, folder = trained(tmp_path)
    (folder / "result.json").write_text(text, encoding="latin-1")
    assert read_result(folder) == {}
    assert training_state(run, "train-spatial", "1").progress == "damaged"
    (folder / "result.json").write_text(json.dumps(RESULT))
    state = training_state(run, "train-spatial", "1")
    assert read_result(folder) == RESULT and (state.progress, state.steps) == ("done", 3)


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    lines = [
        *(json.dumps({"kind": "train", "step": step, "loss": 1.0 / step}) for step in (1, 2, 3)),
        *("[1]", "\xff", '{"kind": "train", "step": 4, "loss": NaN}', '{"kind": "train", "loss": "low"}'),
        '{"kind": "train", "step": 5, "lo',
    ]
    run, folder = trained(tmp_path)
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="latin-1")
    assert len(read_lines(folder / "metrics.jsonl")) == 5
    (chart,) = training_charts(read_training(folder, stream="spatial", run_path=tmp_path))
    assert "from 1 at step 1 to 0.333 at step 3" in chart.text
    state = training_state(run, "train-spatial", "1")
    assert (state.progress, state.steps, state.loss) == ("unfinished", 4, 1.0 / 3)
    assert training_charts(read_training(tmp_path / "none", stream="spatial", run_path=tmp_path)) == []
