"""Many trainings on one extraction: by name, alone, as an ensemble, and beside each other."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stin_pipe.stin.scoring.score_split
import stin_pipe.workflows.report.render
from stin_pipe.stin.evaluation import EvalEvent, EvalNotice
from stin_pipe.stin.scoring.scores import Scores, softmax
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import FORMAT_VERSION
from stin_pipe.workflows.run.compared import RunComparison, compare_results
from stin_pipe.workflows.run.evaluation import EvalOptions, Pages, evaluate_run
from stin_pipe.workflows.run.stages import read_status
from stin_pipe.workflows.run.training import TrainOptions, train_run

PAGES = Pages(split=lambda *_: "", mean=lambda *_: "")
TINY = {"backbone": "resnet18-w8", "num_segments": 2, "batch_size": 4, "epochs": 1, "val_share": 0.25}


@pytest.fixture(scope="module", autouse=True)
def extraction():
    """The made run has no plan, which only says what the model file tells of the extraction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stin_pipe.workflows.run.training.extraction_of", lambda _run: {})
        yield


@pytest.fixture(scope="module")
def named(made_shards, tmp_path_factory) -> Path:
    """A run with three spatial trainings: two of other seeds by names, and one of an ablation."""
    run = tmp_path_factory.mktemp("named") / "run"
    made_shards.make_run(run)
    publish_json(run / "run.json", {"format_version": FORMAT_VERSION, "commands": []})
    for seed, name in enumerate(("s0", "s1")):
        train(run, "spatial", name=name, seed=seed)
    shutil.copytree(run / "train-spatial/s0/split1", run / "ablate/spatial-plain/seed0")
    return run


def train(run: Path, stream: Any, **options: Any) -> None:
    settings = {"crop_px": 32} | ({"stack_len": 2} if stream == "temporal" else {})
    train_run(run, stream, TrainOptions(**{**TINY, "settings": settings, **options}))


@pytest.fixture
def run(named: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(named, tmp_path / "run"))


def evaluate(run: Path, notices: list[str] | None = None, **options: Any) -> dict[str, Any]:
    def note(event: EvalEvent) -> None:
        if isinstance(event, EvalNotice) and notices is not None:
            notices.append(event.message)

    evaluation = evaluate_run(run, EvalOptions(segments=2, crops=1, **options), note, pages=PAGES)
    return dict(evaluation.to_json())


def folder_of(metrics: dict[str, Any]) -> Path:
    return Path(metrics["report"]).parent


def test_one_stream_is_evaluated_alone_and_says_so(run: Path) -> None:
    notices: list[str] = []
    metrics = evaluate(run, notices, spatial=("s0",))
    assert "temporal stream of split 1 is not trained: the spatial stream is evaluated alone" in notices[0]
    assert folder_of(metrics) == run / "fuse-eval/spatial-s0/split1"
    assert metrics["streams"] == ["spatial"] and "fused" not in metrics and metrics["fusion"] is None
    assert "the spatial stream is evaluated alone, and nothing is fused" in metrics["how_made"]
    assert not (folder_of(metrics) / "fused.npz").exists()
    lines = (folder_of(metrics) / "predictions.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"id", "truth", "spatial"}

    with pytest.raises(StinPipeError, match=r"not trained yet; .* its trainings: --spatial s0"):
        evaluate(run)
    with pytest.raises(StinPipeError, match=r"the temporal stream of split 1 is not trained yet"):
        evaluate(run, spatial=("s0",), fusion_weights=(1.0, 1.0))
    with pytest.raises(StinPipeError, match=r"training s9 of the spatial stream .*: s0, s1, ablate/"):
        evaluate(run, spatial=("s9",))


@pytest.mark.parametrize("when", ["before_softmax", "after_softmax"])
def test_an_ensemble_is_the_mean_of_its_members(run: Path, when: Any) -> None:
    members = [
        Scores.load(folder_of(evaluate(run, spatial=(name,))) / "spatial.npz") for name in ("s0", "s1")
    ]
    metrics = evaluate(run, spatial=("s0", "s1"), when=when)
    assert folder_of(metrics).parent.name == "spatial-s0+s1"
    assert [item["name"] for item in metrics["protocol"]["members"]["spatial"]] == ["s0", "s1"]
    assert [item["name"] for item in metrics["trainings"]["spatial"]] == ["s0", "s1"]
    scores = Scores.load(folder_of(metrics) / "spatial.npz")
    parts = [item.scores if when == "before_softmax" else softmax(item.scores) for item in members]
    np.testing.assert_allclose(scores.scores, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)
    assert scores.kind == ("logits" if when == "before_softmax" else "probabilities")


def test_each_training_is_scored_once_and_no_result_is_replaced(run: Path, monkeypatch) -> None:
    scored = []
    score = stin_pipe.stin.scoring.score_split.Scorer.score_sample
    monkeypatch.setattr(
        stin_pipe.stin.scoring.score_split.Scorer,
        "score_sample",
        lambda self, sample: scored.append(sample.ids[0]) or score(self, sample),
    )
    evaluate(run, spatial=("s0",))
    assert len(scored) == 6
    evaluate(run, spatial=("s0", "s1"), name="both")
    evaluate(run, spatial=("s1", "s0"), name="again")
    evaluate(run, spatial=("s1",), aux=0.0)
    assert len(scored) == 12

    before = {path: path.read_bytes() for path in run.glob("fuse-eval/*/split1/*") if path.is_file()}
    with pytest.raises(StinPipeError, match=r"holds the evaluation of other trainings \(spatial s0, s1\)"):
        evaluate(run, spatial=("s1",), name="both")
    evaluate(run, spatial=("ablate/spatial-plain/seed0",))
    assert (run / "fuse-eval/spatial-ablate-spatial-plain-seed0/split1/metrics.json").exists()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_names_that_fit_nothing_are_refused(run: Path) -> None:
    for options, message in (
        ({"spatial": ("s0", "s0")}, "--spatial: a training is named twice"),
        ({"spatial": ("../s0",)}, "--spatial must be up to 100 letters"),
        ({"spatial": ("ablate/../seed0",)}, "--spatial: a training of an ablation is called"),
        ({"spatial": ("s0",), "name": "default"}, "--name default: is the evaluation of the default"),
        ({"spatial": ("s0",), "name": "split1"}, "--name must be up to 100 letters"),
        ({"spatial": ("s0",), "files": {"spatial": Path("x.csv")}}, "--spatial and --scores spatial=FILE"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(run, **options)
    many = tuple(f"training-number-{number}" for number in range(9))
    with pytest.raises(ValueError, match="--name: an evaluation of so many trainings needs a name"):
        evaluate(run, spatial=many)


def test_status_lists_every_training_and_evaluation(run: Path) -> None:
    top1 = evaluate(run, spatial=("s1",))["spatial"]["top1"]
    status = read_status(run)
    assert [item.training for item in status.trainings] == ["s0", "s1", "ablate/spatial-plain/seed0"]
    first, second, _ = (item.to_status() for item in status.trainings)
    assert first["stage"] == "train-spatial/s0/split1" and first["state"] == "done"
    assert (first["recipe"], first["backbone"], first["init"]) == ("small", "resnet18-w8", "")
    assert (first["seed"], second["seed"], first["epochs"], first["split"]) == (0, 1, 1, "1")
    assert isinstance(first["val_top1"], float)
    assert first["test_top1"] is None and second["test_top1"] == top1
    (evaluation,) = (item.to_status() for item in status.evaluations)
    assert evaluation["stage"] == "fuse-eval/spatial-s1/split1" and evaluation["name"] == "spatial-s1"
    assert evaluation["top1"] == {"spatial": top1} and evaluation["fused_top1"] is None
    assert status.chain[1].progress == "not started"  # the chain is that of the default trainings

    # Another model under the same name has not been scored.
    path = run / "train-spatial/s1/split1/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_sha256": "0"}))
    assert read_status(run).trainings[1].test_top1 is None


def test_the_streams_of_any_names_are_fused_and_tuned(run: Path) -> None:
    train(run, "temporal")
    train(run, "spatial")
    metrics = evaluate(run)
    assert folder_of(metrics) == run / "fuse-eval/split1" and metrics["streams"] == ["spatial", "temporal"]
    both = evaluate(run, spatial=("s0", "default"))
    assert both["protocol"]["members"]["temporal"] == metrics["protocol"]["members"]["temporal"]
    assert folder_of(both).parent.name == "spatial-s0+default"
    assert json.loads((run / "fuse-eval/split1/metrics.json").read_text()) == metrics
    everything = evaluate(run, split="all", spatial=("s0",))
    assert (run / "fuse-eval/spatial-s0/all.json").exists() and len(everything["splits"]) == 1
    with pytest.raises(StinPipeError, match="held-out videos are too few"):  # three, of all trainings
        evaluate(run, spatial=("s0", "s1"), tune_fusion=True)


def test_a_scoring_that_the_first_release_began_goes_on(run: Path) -> None:
    """It kept scores and journals with the evaluation."""
    train(run, "spatial")
    evaluate(run)
    place = RunDir(path=run).training("spatial", "1") / "test.npz"
    before = place.read_bytes()
    place.unlink()
    (run / "fuse-eval/split1/spatial.npz").write_bytes(before)
    shutil.rmtree(run / "extract/shards")  # nothing can be scored again
    evaluate(run)
    assert place.read_bytes() == before


def compare(run: Path, *names: str) -> RunComparison:
    return compare_results([Path(f"{run}:{name}") if name else run for name in names], split="1")


def test_trainings_and_evaluations_of_one_run_are_compared(run: Path, tmp_path: Path, call) -> None:
    with pytest.raises(StinPipeError, match=r"s0/split1: .* not scored .* fuse-eval .* --spatial s0` first"):
        compare(run, "s0", "s1")
    metrics = evaluate(run, spatial=("s0", "s1"), name="ensemble")
    top1 = metrics["spatial"]["top1"]

    found = compare(run, "s0", "s1", "ensemble")
    (table,) = found.side_by_side.tables
    assert (table.stream, found.side_by_side.names) == ("spatial", ("s0", "s1", "ensemble"))
    assert table.standings[2].accuracy.top1 == top1
    (differs,) = found.training_differences
    assert differs.key == "spatial.config.seed" and differs.name == "spatial: seed"
    assert differs.values == {"s0": "0", "s1": "1", "ensemble": "0, 1"}
    assert found.protocol_differences == ()

    other = Path(shutil.copytree(run, tmp_path / "other"))
    train(other, "spatial", name="plain", plain=True, lr=1e-4)
    evaluate(other, spatial=("plain",))
    called = call("compare", f"{run}:s0", f"{other}:plain", "--json")
    assert called.code == 0, called.stderr
    assert [item["name"] for item in called.json["subjects"]] == ["run:s0", "other:plain"]
    rows = {item["name"]: item["values"] for item in called.json["training_differences"]}
    assert rows["spatial: difference"] == {"run:s0": "inject", "other:plain": "none"}
    assert rows["spatial: lr"] == {"run:s0": "0.002", "other:plain": "0.0001"}
    assert set(rows) == {"spatial: difference", "spatial: lr"}
    shown = call("compare", f"{run}:s0", f"{other}:plain").stdout
    assert "trained differently" in shown and "spatial: difference" in shown

    with pytest.raises(
        StinPipeError, match=r"no evaluation and no training 's9' .* ensemble, s0, s1, ablate/"
    ):
        compare(run, "s0", "s9")
    with pytest.raises(ValueError, match="the same result is given more than once"):
        compare(run, "s0", "s0")
    file = folder_of(metrics) / "spatial.npz"
    beside = compare_results([file, Path(f"{run}:s0")], split="1")
    assert [item.name for item in beside.side_by_side.tables[0].standings] == ["spatial.npz", "run:s0"]


def test_scores_of_the_model_before_are_not_compared(run: Path) -> None:
    evaluate(run, spatial=("s0", "s1"))
    train_run(run, "spatial", TrainOptions(name="s0", more_epochs=1))
    with pytest.raises(StinPipeError, match="this training is not scored on the test list yet"):
        compare(run, "s0", "s1")
    evaluate(run, spatial=("s0",))
    rows = {item.name: item.values for item in compare(run, "s0", "s1").training_differences}
    assert set(rows) == {"spatial: seed", "spatial: continued"}
