"""Checkpoints are whole or do not exist, and damage is passed over aloud."""

import json

import pytest
import torch

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.checkpoint import load_latest, save_checkpoint


def state(value):
    return {"model": {"weight": torch.full((3,), float(value))}, "loop": {"step": value}}


def save(folder, *steps):
    return [save_checkpoint(folder, step=step, state=state(step)) for step in steps]


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    save(tmp_path, 1, 2, 30)
    found = load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.state["loop"], found.notices) == (30, {"step": 30}, ())
    assert torch.equal(found.state["model"]["weight"], torch.full((3,), 30.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.json",
        "step-00000002.pt",
        "step-00000030.json",
        "step-00000030.pt",
    ]


def test_an_absent_or_empty_folder_holds_no_checkpoint(tmp_path):
    assert load_latest(tmp_path / "absent") is None
    assert load_latest(tmp_path) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:300] + b"\x00\xff" + path.read_bytes()[302:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text(json.dumps({"format": 99})),
    ],
    ids=["cut", "flipped", "empty", "absent", "mark cut", "other format"],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    newest = save(tmp_path, 5, 6)[-1]
    damage(newest)
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 5
    assert len(found.notices) == 1
    assert str(newest) in found.notices[0] and "falling back" in found.notices[0]


def test_if_every_checkpoint_is_damaged_the_person_decides(tmp_path):
    for path in save(tmp_path, 5, 6):
        path.write_bytes(b"x")
    with pytest.raises(StinPipeError, match=r"every checkpoint is damaged.*delete this folder"):
        load_latest(tmp_path)


def test_a_state_without_its_mark_does_not_exist_and_is_cleared(tmp_path):
    save(tmp_path, 5)
    unmarked = tmp_path / "step-00000009.pt"
    unmarked.write_bytes(b"killed before its mark")
    leftover = tmp_path / ".step-00000010.pt.1-ab.tmp"
    leftover.write_bytes(b"killed while writing")
    found = load_latest(tmp_path)
    assert found is not None and found.step == 5
    save(tmp_path, 11)
    assert not unmarked.exists() and not leftover.exists()


def test_nothing_is_unpickled(tmp_path):
    """A state that holds code is refused on the way back, whatever its mark says."""
    path = save_checkpoint(tmp_path, step=1, state={"model": print})
    with pytest.raises(StinPipeError, match=r"(?s)every checkpoint is damaged.*Weights only load failed"):
        load_latest(tmp_path)
    assert path.exists()
