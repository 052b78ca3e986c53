"""fuse-eval as a command: tuning that never reads the test list, foreign scores, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import stin_pipe.stin.network.model_file
import stin_pipe.stin.scoring.score_split
import stin_pipe.workflows.report.render
from stin_pipe.stin.evaluation import EvalEvent, ScoringProgress
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards import bounded
from stin_pipe.stin.shards.bounded import FileKind
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import FORMAT_VERSION, Manifest
from stin_pipe.stin.train import Runtime, train_stream
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.workflows.cli import cli
from stin_pipe.workflows.commands.fuse_eval import fuse_eval
from stin_pipe.workflows.run.compared import compare_results
from stin_pipe.workflows.run.evaluation import EvalOptions, Pages, evaluate_run
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.stages import evaluation_state
from stin_pipe.workflows.terminal.types import RESERVED_NAMES

SCORING = ("--segments", "2", "--crops", "1")
MANY_CLIPS = ("--segments", "25", "--crops", "5")
ROW_BYTES = 3 * 3 * 4 + 4
"""Three kinds of logits of three classes, and a checksum."""


@pytest.fixture(scope="module")
def trained(made_shards, tmp_path_factory) -> Path:
    """A run of 3 classes: 8 videos for training (half of them held out) and 4 for testing in each."""
    run = tmp_path_factory.mktemp("fused") / "run"
    manifest = made_shards.make_run(run, per_class=8, tests_per_class=4)
    publish_json(run / "run.json", {"format_version": FORMAT_VERSION, "commands": []})
    for stream in ("spatial", "temporal"):
        config = override(
            resolve_recipe("small", stream),
            backbone="resnet18-w8",
            flip=False,
            epochs=2,
            batch_size=6,
            num_segments=2,
            val_share=0.5,
        )
        train_stream(
            config,
            manifest=manifest,
            extract_dir=run / "extract",
            out_dir=run / f"train-{stream}" / "split1",
            split="1",
            runtime=Runtime(tensorboard=False),
        )
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to write in; the report has tests of its own, and its pictures take most of the time."""
    monkeypatch.setattr(stin_pipe.workflows.report.render, "render_report", lambda *_: "")
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluate(run: Path, *options: str) -> dict[str, Any]:
    """Run the command in this process and return what it wrote."""
    cli.main(["fuse-eval", "--run", str(run), *SCORING, *options], standalone_mode=False)
    return json.loads((run / "fuse-eval" / "split1" / "metrics.json").read_text())


def swap_test_labels(run: Path) -> None:
    """Give every test video the label of the next class."""
    path = run / "extract" / "manifest.json"
    manifest = Manifest.load(path)
    videos = {
        video.id: replace(video, label=(video.label + 1) % 3) if video.splits["1"] == "test" else video
        for video in manifest.videos.values()
    }
    replace(manifest, videos=videos).save(path)


def test_the_tuned_weight_knows_nothing_of_the_test_labels(run: Path) -> None:
    first = evaluate(run, "--tune-fusion")
    tuning = first["tuning"]
    assert tuning["num_videos"] == 12 and len(tuning["curve"]) == 21
    assert first["fusion_weights"] == tuning["weights"] and first["protocol"]["weights_from"] == "held-out"
    held = Scores.load(run / "train-spatial" / "split1" / "held-out.npz")
    manifest = Manifest.load(run / "extract" / "manifest.json")
    assert {manifest.videos[video_id].splits["1"] for video_id in held.ids} == {"train"}
    swap_test_labels(run)
    second = evaluate(run, "--tune-fusion")
    assert second["tuning"] == tuning
    assert second["fused"]["top1"] != first["fused"]["top1"]  # the labels did change


def test_each_model_file_is_read_once_an_evaluation_with_its_report(
    trained: Path, tmp_path: Path, monkeypatch
) -> None:
    """The report draws maps with the models that scored, and needs no second look into their files."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    opened: list[str] = []

    def read_bytes(path: Path, kind: FileKind) -> bytes:
        opened.append(path.parent.parent.name)
        return bounded.read_bytes(path, kind)

    monkeypatch.setattr(stin_pipe.stin.network.model_file, "read_bytes", read_bytes)
    monkeypatch.setattr(stin_pipe.stin.network.model_file, "safe_open", None)
    evaluate(run, "--tune-fusion")
    assert sorted(opened) == ["train-spatial", "train-temporal"]
    assert "attention (temporal)" in (run / "fuse-eval" / "split1" / "report.html").read_text()


def test_an_evaluation_is_a_function_that_tells_events(run: Path) -> None:
    events: list[EvalEvent] = []
    pages = Pages(split=lambda *_: "the page", mean=lambda *_: "")
    options = EvalOptions(segments=2, crops=1, tune_fusion=True)
    evaluation = evaluate_run(run, options, events.append, pages=pages)
    folder = run / "fuse-eval" / "split1"
    assert evaluation.to_json() == json.loads((folder / "metrics.json").read_text())
    assert (folder / "report.html").read_text() == "the page"
    progress = [event for event in events if isinstance(event, ScoringProgress)]
    assert {(event.stream, event.videos, event.total) for event in progress} == {
        (stream, videos, 12) for stream in ("spatial", "temporal") for videos in ("held out", "test")
    }
    assert [event.done for event in progress[:13]] == [0, *range(13)][:13]
    with pytest.raises(ValueError, match=r"--tune-fusion and --fusion-weights exclude each other"):
        evaluate_run(run, replace(options, fusion_weights=(1.0, 1.0)), pages=pages)
    with pytest.raises(ValueError, match="'9' is not in this run; its splits are: 1"):
        evaluate_run(run, EvalOptions(split="9"), pages=pages)


def test_the_defaults_of_the_command_are_those_of_its_options() -> None:
    command = fuse_eval.make_context("fuse-eval", ["--run", "somewhere"])
    options = EvalOptions()
    assert {item.name: getattr(options, item.name) for item in fields(EvalOptions)} == {
        item.name: command.params[item.name] for item in fields(EvalOptions)
    }


def test_without_tuning_there_is_no_curve(run: Path) -> None:
    value = evaluate(run)
    assert value["tuning"] is None and value["protocol"]["weights_from"] == "default"
    assert not list(run.glob("train-*/split1/held-out*"))


def test_tuning_refuses_a_run_that_has_changed_since_training(run: Path) -> None:
    path = run / "extract" / "manifest.json"
    manifest = Manifest.load(path)
    dropped = next(video.id for video in manifest.videos.values() if video.splits["1"] == "train")
    rest = {name: video for name, video in manifest.videos.items() if name != dropped}
    replace(manifest, videos=rest).save(path)
    with pytest.raises(StinPipeError, match="the run's training list has changed since the spatial"):
        evaluate(run, "--tune-fusion")


@pytest.mark.parametrize("other", [("--fusion-weights", "1,1"), ("--scores", "temporal=x.csv")])
def test_tuning_excludes_given_weights_and_files(trained: Path, other) -> None:
    with pytest.raises(click.UsageError, match=f"--tune-fusion and {other[0]} exclude each other"):
        evaluate(trained, "--tune-fusion", *other)


def test_listed_videos_that_are_not_there_are_told(run: Path, capsys) -> None:
    path = run / "extract" / "manifest.json"
    replace(Manifest.load(path), num_absent=3, num_pending=2).save(path)
    said = (
        "3 listed videos are absent from the videos folder and 2 listed videos are not extracted yet: no "
        "accuracy counts them, not even “of listed”"
    )
    assert said in evaluate(run)["how_made"]
    assert f"warning: {said}" in capsys.readouterr().err


def test_published_numbers_stand_beside_those_of_their_own_data(run: Path) -> None:
    assert evaluate(run)["literature"] == {"rows": [], "differences": []}
    path = run / "extract" / "manifest.json"
    replace(Manifest.load(path), dataset="hmdb51").save(path)
    found = evaluate(run)["literature"]
    tsn = found["rows"][0]
    assert (tsn["spatial"], tsn["temporal"], tsn["fused"]) == (0.544, 0.624, 0.695)
    assert {row["scope"] for row in found["rows"]} == {"split 1"}
    text = " ".join(found["differences"])
    assert "here: spatial resnet18-w8, temporal resnet18-w8" in text
    assert "25 clips in 10 crops; here 2 in 1" in text and "here 12 of its videos are held out" in text


def test_files_replace_a_stream_and_add_a_third(run: Path) -> None:
    ours = evaluate(run)
    folder = run / "fuse-eval" / "split1"
    temporal = Scores.load(folder / "temporal.npz")
    lines = [",".join(["id", *temporal.class_names])]
    lines += [
        ",".join([video_id, *(repr(float(cell)) for cell in temporal.scores[row])])
        for row, video_id in reversed(list(enumerate(temporal.ids)))
    ]
    (run / "flow.csv").write_text("\n".join(lines))
    file = run / "flow.csv"
    same = evaluate(run, "--scores", f"temporal={file}")
    assert {name: same[name] for name in ("spatial", "temporal", "fused")} == {
        name: ours[name] for name in ("spatial", "temporal", "fused")
    }
    assert list(same["protocol"]["files"]) == ["temporal"] and list(same["protocol"]["models"]) == ["spatial"]
    three = evaluate(run, "--scores", f"again={file}", "--fusion-weights", "0,0,1")
    assert three["streams"] == ["spatial", "temporal", "again"]
    assert three["fused"] == three["again"] == ours["temporal"]
    with pytest.raises(click.UsageError, match=r"3 numbers >= 0, not all 0 \(spatial, temporal, again\)"):
        evaluate(run, "--scores", f"again={file}", "--fusion-weights", "1,1.5")
    wanted = "--fusion-weights: again needs a weight of its own: give 1,1.5,W"
    with pytest.raises(click.UsageError, match=wanted):
        evaluate(run, "--scores", f"again={file}")
    with pytest.raises(StinPipeError, match="no such score file"):  # told before the weights
        evaluate(run, "--scores", f"again={run / 'none.csv'}")


def test_no_stream_has_a_name_that_the_results_need(run: Path) -> None:
    value = evaluate(run)
    streams = {"spatial", "temporal", "fused"}
    line = json.loads((run / "fuse-eval" / "split1" / "predictions.jsonl").read_text().splitlines()[0])
    needed = {*value, *value["classes"][0], *line} - streams
    assert needed | {"fused"} <= RESERVED_NAMES
    for name in ("streams", "split", "count", "fused"):
        with pytest.raises(click.BadParameter, match=f"a stream cannot be called '{name}'"):
            evaluate(run, "--scores", f"{name}=x.csv")


def test_auxiliary_scores_are_left_out_or_weighed(run: Path) -> None:
    folder = run / "fuse-eval" / "split1"
    fused = {}
    for aux in ("auto", "exclude", "2"):
        value = evaluate(run, "--aux", aux)
        fused[aux] = Scores.load(folder / "fused.npz").scores
        assert value["protocol"]["aux"]["spatial"] == {"auto": 0.5, "exclude": 0.0, "2": 2.0}[aux]
    spatial, temporal = (Scores.load(folder / f"{name}.npz") for name in ("spatial", "temporal"))
    assert spatial.aux_logits is not None and temporal.aux_logits is not None
    for aux, share in (("exclude", 0.0), ("2", 2.0)):
        expected = spatial.main_logits + share * spatial.aux_logits
        expected = expected + 1.5 * (temporal.main_logits + share * temporal.aux_logits)
        np.testing.assert_allclose(fused[aux], expected / 2.5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        fused["auto"], (spatial.scores + 1.5 * temporal.scores) / 2.5, rtol=1e-5, atol=1e-6
    )


def test_earlier_results_are_not_replaced_without_a_word(run: Path, capsys) -> None:
    evaluate(run)
    evaluate(run)
    assert "replaced" not in capsys.readouterr().err
    evaluate(run, "--fusion-weights", "1,2", "--segments", "3")
    assert "earlier results with other segments, weights are replaced" in capsys.readouterr().err
    (run / "fuse-eval" / "split1" / "metrics.json").write_text("{")
    evaluate(run)
    assert "replaced" not in capsys.readouterr().err


def test_predictions_say_what_the_scores_say(run: Path) -> None:
    value = evaluate(run)
    folder = run / "fuse-eval" / "split1"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == value["num_videos"] == 12
    for name in ("spatial", "temporal", "fused"):
        scores = Scores.load(folder / f"{name}.npz")
        top1 = np.mean([line[name]["rank"] == 1 for line in lines])
        assert top1 == pytest.approx(value[name]["top1"])
        row = scores.ids.index(lines[3]["id"])
        best = lines[3][name]["top5"][0]
        assert best["class"] == scores.class_names[scores.scores[row].argmax()]
        assert best["score"] == pytest.approx(float(scores.scores[row].max()))
        assert sum(item["probability"] for item in lines[3][name]["top5"]) == pytest.approx(1, abs=1e-5)


def test_scoring_killed_goes_on_at_the_next_video(run: Path, monkeypatch) -> None:
    """Kill -9 in the middle: what was scored is not scored again, and the numbers are those of an
    undisturbed evaluation."""
    undisturbed = evaluate(run, *MANY_CLIPS)
    folder = run / "fuse-eval" / "split1"
    before = Scores.load(folder / "spatial.npz")
    shutil.rmtree(folder)
    for scores in run.glob("train-*/split1/test.npz"):
        scores.unlink()
    journal = run / "train-spatial" / "split1" / "test.journal"
    program = (
        "import sys; from stin_pipe.workflows.cli import cli; cli.main(sys.argv[1:], standalone_mode=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "fuse-eval", "--run", str(run), *SCORING, *MANY_CLIPS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and _records(journal) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    content = journal.read_bytes()
    assert 3 <= _records(journal) < 12 and not journal.with_suffix(".npz").exists()
    state = evaluation_state(RunDir(path=run), "1")
    assert state.progress == "unfinished"  # its lock names a process that is gone
    assert state.sentence.startswith("unfinished (no stream scored, spatial started)")
    scored = []
    monkeypatch.setattr(
        stin_pipe.stin.scoring.score_split.Scorer,
        "score_sample",
        lambda self, sample, original=stin_pipe.stin.scoring.score_split.Scorer.score_sample: (
            scored.append(sample.ids[0]) or original(self, sample)
        ),
    )
    assert evaluate(run, *MANY_CLIPS) == undisturbed
    after = Scores.load(folder / "spatial.npz")
    assert np.array_equal(after.scores, before.scores) and after.ids == before.ids
    done = (len(content) - content.index(b"\n") - 1) // ROW_BYTES
    assert tuple(scored) == (*before.ids[done:], *before.ids)  # the rest of spatial, then all of temporal
    assert not journal.exists()


def _records(journal: Path) -> int:
    content = journal.read_bytes() if journal.exists() else b""
    return (len(content) - content.index(b"\n") - 1) // ROW_BYTES if b"\n" in content else 0


def test_two_runs_and_two_files_are_compared(run: Path, tmp_path: Path, call) -> None:
    ours = evaluate(run)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    theirs = evaluate(other, "--fusion-weights", "1,0", "--aux", "exclude")
    called = call("compare", run, other, "--json")
    assert called.code == 0, called.stderr
    tables = {table["stream"]: table for table in called.json["tables"]}
    assert list(tables) == ["fused", "spatial", "temporal"] and called.json["num_common"] == 12
    for stream, table in tables.items():
        assert [item["top1"] for item in table["standings"]] == [ours[stream]["top1"], theirs[stream]["top1"]]
        assert [item["mean_class"] for item in table["standings"]] == [
            pytest.approx(found[stream]["mean_class"]) for found in (ours, theirs)
        ]
    pair = tables["fused"]["comparisons"][0]
    assert pair["top1"]["difference"] == pytest.approx(theirs["fused"]["top1"] - ours["fused"]["top1"])
    assert called.json["protocol_differences"] == [
        "shares of auxiliary scores: run spatial 0.5, temporal 0, other spatial 0, temporal 0",
        "fusion weights: run 1 : 1.5, other 1 : 0",
    ]
    assert called.json["settings"][1]["values"] == {"run": "1 : 1.5", "other": "1 : 0"}
    # The table goes to standard error, because standard output is the JSON object's.
    assert "evaluated differently" in called.stderr
    assert not any(mark in called.stderr for mark in ("{", "['", "-0.0", "+0.0"))
    scores = Scores.load(other / "fuse-eval" / "split1" / "fused.npz")
    scores.save(tmp_path / "file.json")
    np.savez(
        tmp_path / "bare.npz", ids=np.array(scores.ids), scores=scores.scores, labels=list(scores.labels)
    )
    same = call("compare", run, tmp_path / "file.json", "--json").json
    assert same["tables"][0]["stream"] == "scores"
    expected = {**pair, "first": "file.json"}
    assert same["tables"][0]["comparisons"] == [expected]
    refused = call("compare", run, tmp_path / "bare.npz")
    assert refused.code == 1 and "bare.npz: has no classes, without which it cannot be" in refused.stderr
    again = call("compare", run, run)
    assert again.code == 2 and "the same result is given more than once" in again.stderr


def test_one_evaluation_at_a_time_works_on_a_split(run: Path) -> None:
    lock = run / "fuse-eval" / "split1" / "lock.json"
    lock.parent.mkdir(parents=True)
    with (
        run_lock(lock, activity="evaluation"),
        pytest.raises(StinPipeError, match="split1: another evaluation works here: process"),
    ):
        evaluate(run)
    assert not list(lock.parent.glob("*.npz"))
    evaluate(run)
    assert not lock.exists()


def test_scores_of_two_evaluations_are_not_compared_as_one(run: Path, tmp_path: Path) -> None:
    """Killed after the spatial scores: they are of 3 segments, all else of 2."""
    evaluate(run)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert compare_results([run, other], split="1").side_by_side.num_common == 12
    evaluate(other, "--segments", "3")
    shutil.copy(other / "fuse-eval" / "split1" / "spatial.npz", run / "fuse-eval" / "split1")
    with pytest.raises(StinPipeError, match=r"spatial\.npz: does not belong to .* fuse-eval --run"):
        compare_results([run, other], split="1")


def test_damaged_results_are_told_with_what_to_do(run: Path, tmp_path: Path) -> None:
    """JSON that parses, but is not what was written."""
    evaluate(run)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    for text in ("[]", '{"fused": 3}', "{}"):
        (other / "fuse-eval" / "split1" / "metrics.json").write_text(text)
        with pytest.raises(StinPipeError, match=r"metrics\.json: is damaged; run `stin-pipe fuse-eval"):
            compare_results([run, other], split="1")
        evaluate(other)
    (other / "train-temporal" / "split1" / "result.json").write_text("{}")
    with pytest.raises(StinPipeError, match=r"result\.json: is damaged; delete it and run .*train-temporal"):
        evaluate(other)


def test_a_run_that_is_not_evaluated_says_what_to_do(trained: Path, call) -> None:
    called = call("compare", trained, trained / "..")
    assert called.code == 1 and "is not evaluated" in called.stderr
    assert f"stin-pipe fuse-eval --run {trained} --split 1" in called.stderr
