"""`stin-pipe ablate` end to end: named variants, variants of a file, wrong input, resuming."""

import json
import shutil

import cv2
import pytest

QUICK = ("--backbone", "resnet18-w8", "--epochs", "1", "--recipe", "small", "--val-share", "0.4")


@pytest.fixture(scope="module")
def run(extracted_run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("ablate") / "run"
    shutil.copytree(extracted_run, copy)
    return copy


def test_variants_of_a_file_are_trained_compared_and_kept(call, run):
    file = run / "mine.toml"
    file.write_text(
        '[base]\nstream = "temporal"\nattention = "none"\n'
        '[short]\nstream = "temporal"\nattention = "sagan"\nstack_len = 3\n'
    )
    asked = ("ablate", "--run", run, "--variants", file, "--seeds", 2, "--name", "mine", *QUICK, "--json")
    called = call(*asked)
    assert called.code == 0, called.stderr
    rows = called.json["rows"]
    assert [row["variant"] for row in rows] == ["base", "short"]
    assert [sorted(row["by_seed"]) for row in rows] == [["0", "1"], ["0", "1"]]
    assert rows[1]["base"] == "base" and rows[1]["difference"]["num_seeds"] == 2
    assert called.json["judge"] == "held-out" and called.json["num_judged"] > 0
    stored = json.loads((run / "ablate" / "mine.json").read_text())
    assert stored["rows"] == rows
    picture = cv2.imread(str(run / "ablate" / "mine.png"))
    assert picture is not None and picture.std() > 5
    config = json.loads((run / "ablate" / "short" / "seed1" / "config.json").read_text())["config"]
    assert (config["stream"]["stack_len"], config["seed"], config["val_share"]) == (3, 1, 0.4)

    # A training that was lost is made again, the others are not; the table ends the same.
    kept = run / "ablate" / "base" / "seed0" / "result.json"
    stamp = kept.stat().st_mtime_ns
    shutil.rmtree(run / "ablate" / "short" / "seed0")
    again = call(*asked)
    assert again.json["rows"] == rows
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--only", "sagam"), "--only: 'sagam' is not a variant; known: cbam"),
        (("--streams", "sound"), "--streams must be of spatial, temporal, got 'sound'"),
        (
            ("--name", "../run"),
            "--name must be letters, digits, '-', '_' and '.', and not begin with '.', got",
        ),
        (("--variants", "{file}"), '[x] needs stream = "spatial" or "temporal", got None'),
    ],
)
def test_wrong_input_is_one_line(call, run, tmp_path, given, message):
    file = tmp_path / "bad.toml"
    file.write_text("[x]\nlr = 1\n")
    called = call("ablate", "--run", run, *[item.format(file=file) for item in given])
    assert called.code == 2
    assert message in called.stderr
    assert "format_version" in json.loads((run / "run.json").read_text())
    assert "Traceback" not in called.stderr
