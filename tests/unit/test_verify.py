"""`verify` finds what differs between plan, mark, manifest and shard, each of which is whole by itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stin_pipe.pipeline.planning.ledger import read_ledger
from stin_pipe.pipeline.planning.verify import verify
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import CHECKSUM, publish_checked_json
from stin_pipe.stin.shards.schema import Manifest, Mark


@pytest.fixture
def extract_dir(extracted_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted_run / "extract", tmp_path / "extract"))


def change(path: Path, edit: Callable[[dict[str, Any]], None], *, sign: bool) -> None:
    """Edit a JSON file; with `sign` its checksum fits again."""
    value = json.loads(path.read_text())
    checksum = value.pop(CHECKSUM)
    edit(value)
    publish_checked_json(path, value)
    if not sign:
        value = json.loads(path.read_text())
        path.write_text(json.dumps(value | {CHECKSUM: checksum}))


def problems(extract_dir: Path) -> list[str]:
    return list(verify(read_ledger(extract_dir)).problems)


def meta(mark: dict[str, Any]) -> dict[str, Any]:
    return mark["outcomes"][0]["meta"]


def test_a_whole_run_has_no_problem(extract_dir: Path) -> None:
    assert problems(extract_dir) == []


@pytest.mark.parametrize("name", ["label", "num_frames", "height", "fps"])
def test_a_changed_mark_does_not_count_as_done(extract_dir: Path, name: str) -> None:
    path = extract_dir / "shards" / "00000.json"
    change(path, lambda mark: meta(mark).update({name: meta(mark)[name] + 1}), sign=False)
    with pytest.raises(StinPipeError, match="differs from its checksum"):
        Mark.load(path)
    ledger = read_ledger(extract_dir)
    assert [shard.name for shard in ledger.pending] == ["00000"]
    advice = "differs from its checksum; run extract again to rebuild this shard"
    assert problems(extract_dir)[0] == f"{path}: the mark {advice}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_frames", 99), ("height", 99), ("fps", 99), ("notes", {"a": 1}), ("source_sha256", "99")],
)
def test_a_mark_that_says_other_than_its_shard_is_found(extract_dir: Path, name: str, value: Any) -> None:
    change(extract_dir / "shards" / "00000.json", lambda mark: meta(mark).update({name: value}), sign=True)
    assert f"its mark says another {name} than the shard" in problems(extract_dir)[0]


def test_a_label_that_differs_from_the_plan_is_found(extract_dir: Path) -> None:
    change(extract_dir / "shards" / "00000.json", lambda mark: meta(mark).update(label=9), sign=True)
    assert any("its label is 9, but the plan says" in problem for problem in problems(extract_dir))


def test_a_manifest_that_is_damaged_other_or_missing_is_found(extract_dir: Path) -> None:
    path = extract_dir / "manifest.json"
    whole = path.read_bytes()
    change(path, lambda manifest: manifest["videos"][0].update(label=1), sign=False)
    with pytest.raises(StinPipeError, match="differs from its checksum; run extract again"):
        Manifest.load(path)
    assert "differs from its checksum" in problems(extract_dir)[0]
    path.write_bytes(whole)
    change(path, lambda manifest: manifest["videos"][0].update(label=1), sign=True)
    assert "differs from what plans and marks say" in problems(extract_dir)[0]
    path.unlink()
    assert "manifest.json is missing" in problems(extract_dir)[0]


@pytest.mark.parametrize("outcomes", [[1], 5, [None], {}, [{"id": "a"}]])
def test_a_mark_of_another_shape_is_damaged(extract_dir: Path, outcomes: Any) -> None:
    path = extract_dir / "shards" / "00000.json"
    change(path, lambda mark: mark.update(outcomes=outcomes), sign=True)
    assert problems(extract_dir)[0].startswith(str(path))


def test_a_changed_plan_is_refused(extract_dir: Path) -> None:
    change(extract_dir / "plan.json", lambda plan: plan["shards"][0]["videos"][0].update(label=2), sign=False)
    with pytest.raises(StinPipeError, match="plan differs from its checksum; restore it"):
        read_ledger(extract_dir)


def test_a_manifest_that_an_extract_has_yet_to_make(tmp_path: Path) -> None:
    with pytest.raises(StinPipeError, match=r"run `stin-pipe extract` on this run first$"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "lock.json").touch()
    with pytest.raises(StinPipeError, match=r"if an extract is at work now \(.*lock\.json .* wait"):
        Manifest.load(tmp_path / "manifest.json")
