"""`extract --dry-run`: the plan and an estimate, of a new run and of one half done; nothing is written."""

import shutil
from pathlib import Path

from stin_pipe.stin.shards.schema import Manifest

SIZE = ("--size", "48x32", "--runner", "local", "--workers", 2, "--dry-run", "--json")


def test_a_new_run_is_estimated_by_a_probe(made_videos, extracted_run: Path, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    called = call(
        "extract", "--run", run, "--videos", made_videos.videos, "--splits", made_videos.lists, *SIZE
    )
    assert called.code == 0, called.stderr
    value = called.json
    assert (value["videos"], value["to_do"], value["done"], value["shards"]) == (27, 27, 0, 27)
    assert (value["estimate_from"], value["workers"]) == ("probe", 2)
    assert abs(value["estimated_frames"] - 27 * 7) < 27  # all have 7, their files differ a little in size
    assert abs(value["estimated_seconds"] * 2 - value["estimated_slot_seconds"]) < 0.2
    assert value["estimated_slot_seconds"] > 0
    manifest = Manifest.load(extracted_run / "extract" / "manifest.json")
    stored = 0
    for path in (extracted_run / "extract" / "shards").glob("*.h5"):
        stored += path.stat().st_size
    assert len(manifest.videos) == 27 and stored / 20 < value["estimated_bytes"] < stored
    assert "measured just now" in called.stdout + called.stderr
    assert not run.exists()


def test_what_is_left_of_a_run_is_counted(made_videos, extracted_run: Path, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    shutil.copytree(extracted_run, run)
    for name in ("00003", "00007"):
        (run / "extract" / "shards" / f"{name}.json").unlink()
    before = sorted(path for path in run.rglob("*"))
    arguments = ("extract", "--run", run, "--videos", made_videos.videos, "--splits", made_videos.lists)
    called = call(*arguments, *SIZE)
    assert called.code == 0, called.stderr
    assert (called.json["to_do"], called.json["done"]) == (2, 25)
    assert abs(called.json["estimated_frames"] - 14) <= 3
    assert sorted(path for path in run.rglob("*")) == before
    refused = call(*arguments, *SIZE, "--bound", 3)
    assert refused.code == 1 and "planned with other parameters" in refused.json["error"]
    part = call(*arguments, *SIZE, "--classes", "red-up")
    assert (part.code, part.json["to_do"]) == (0, 0), part.stderr
    assert sorted(path for path in run.rglob("*")) == before
    table = tmp_path / "list.csv"
    table.write_text("path,label\n")
    refused = call(*arguments, *SIZE, "--list", table)
    assert refused.code == 2 and "exclude each other" in refused.json["error"]


def test_the_rates_of_a_run_are_used_once_it_has_worked_a_while(extracted_run: Path) -> None:
    from dataclasses import replace

    from stin_pipe.pipeline.estimate import estimate_from_run
    from stin_pipe.pipeline.planning.ledger import Ledger, read_ledger

    extract_dir = extracted_run / "extract"
    ledger = read_ledger(extract_dir)
    root = Path(ledger.plans[0].root)
    videos = [entry.video for entry in ledger.entries.values()]

    def taking(seconds: float) -> Ledger:
        marks = {
            name: replace(
                mark, outcomes=tuple(replace(outcome, seconds=seconds) for outcome in mark.outcomes)
            )
            for name, mark in ledger.marks.items()
        }
        return replace(ledger, marks=marks)

    assert estimate_from_run(taking(0.1), root, videos, "both") is None
    measured = taking(3.0)
    whole = estimate_from_run(measured, root, videos, "both")
    assert whole is not None and (whole.source, whole.num_measured, whole.num_frames) == ("run", 27, 189)
    assert abs(whole.slot_seconds - 81) < 1e-6
    assert whole.num_bytes == sum(path.stat().st_size for path in (extract_dir / "shards").glob("*.h5"))
    part = estimate_from_run(measured, root, videos[:9], "both")
    assert part is not None and 20 < part.slot_seconds < 34


def test_absent_videos_are_named_and_kept_in_a_file(made_videos, tmp_path: Path, call) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(made_videos.videos, videos)
    gone = sorted(str(path.relative_to(videos)) for path in videos.rglob("*_02.avi"))[:7]
    for name in gone:
        (videos / name).unlink()
    arguments = ("extract", "--run", tmp_path / "run", "--videos", videos, "--splits", made_videos.lists)
    called = call(*arguments, *SIZE)
    assert called.json["absent"] == 7 and called.json["absent_videos"] == gone
    assert f"absent: {', '.join(gone[:5])}, ..." in called.stderr
    called = call(*arguments, "--size", "48x32", "--runner", "local", "--limit", 2, "--json")
    assert called.code == 0 and called.json["absent"] == 7
    assert (tmp_path / "run/extract/absent.txt").read_text().splitlines() == gone
