"""run.json: what it records of stages, also of several at the same time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.run.run_dir import create_run, recorded

RECORD_FORTY = """
import sys
from pathlib import Path
from stin_pipe.workflows.run.run_dir import create_run, recorded

run = create_run(Path(sys.argv[1]))
for number in range(40):
    with recorded(run, "same", {"number": number}):
        pass
"""


def test_stages_of_several_processes_are_all_recorded(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1, "commands": []}))
    command = [sys.executable, "-c", RECORD_FORTY, str(tmp_path)]
    workers = [subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2]) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    entries = json.loads((tmp_path / "run.json").read_text())["commands"]
    assert len(entries) == 80 and {entry["outcome"] for entry in entries} == {"done"}
    assert len({entry["process_id"] for entry in entries}) == 2
    assert sorted(entry["config"]["number"] for entry in entries) == sorted([*range(40), *range(40)])


def test_a_run_that_was_killed_at_its_very_start_is_taken_up(tmp_path: Path) -> None:
    for name in (".run.json.lock", ".run.json.77-0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    with recorded(create_run(tmp_path), "extract", {}):
        pass
    assert (tmp_path / "run.json").exists()
    (tmp_path / "run.json").unlink()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StinPipeError, match=r"holds other things and no run\.json"):
        create_run(tmp_path)


def test_an_entry_is_replaced_by_its_end_and_says_why(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    with pytest.raises(ValueError, match="broken"), recorded(run, "extract", {}):
        entries = json.loads((tmp_path / "run.json").read_text())["commands"]
        assert [entry["outcome"] for entry in entries] == ["running"]
        raise ValueError("broken")
    (entry,) = json.loads((tmp_path / "run.json").read_text())["commands"]
    assert entry["outcome"] == "ValueError: broken" and entry["finished"] >= entry["started"]
