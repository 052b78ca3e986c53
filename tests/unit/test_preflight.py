"""Preflight: what a node answers, and which clusters are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.preflight import NodeFacts, begin_preflight, check_nodes, end_preflight, node_facts
from stin.shards.errors import StinPipeError

GOOD = NodeFacts(host="a", problem="", versions={"ffmpeg": "7.0", "numpy": "2.4"}, free_bytes=10)


def test_a_node_that_sees_the_same_folder_has_no_problem(tmp_path: Path) -> None:
    video = tmp_path / "x.mp4"
    video.write_bytes(b"x")
    asked = begin_preflight(tmp_path, video=video)
    facts = node_facts(asked)
    assert facts.problem == "" and facts.free_bytes > 0 and facts.versions["ffmpeg"]
    assert len(list(tmp_path.glob(".preflight-*"))) == 2
    end_preflight(asked)
    assert list(tmp_path.glob(".preflight-*")) == []


def test_another_folder_another_token_or_no_video_is_said(tmp_path: Path) -> None:
    asked = begin_preflight(tmp_path, video=tmp_path / "gone.mp4")
    assert "gone.mp4 cannot be read here (No such file or directory)" in node_facts(asked).problem
    elsewhere = replace(asked, extract_dir=tmp_path / "other")
    assert "is not the run's folder here" in node_facts(elsewhere).problem
    (tmp_path / asked.token).write_bytes(b"another driver's")
    assert "is another folder here" in node_facts(asked).problem


def test_clusters_that_cannot_work_are_refused_by_node() -> None:
    warnings: list[str] = []
    check_nodes([GOOD, replace(GOOD, host="b")], need_bytes=5, warn=warnings.append)
    assert warnings == []
    with pytest.raises(StinPipeError, match=r"node b: x cannot be read"):
        check_nodes([GOOD, replace(GOOD, host="b", problem="x cannot be read")], need_bytes=0, warn=print)
    other = replace(GOOD, host="b", versions={"ffmpeg": "6.1", "numpy": "2.4"})
    with pytest.raises(StinPipeError, match=r"node b has ffmpeg 6\.1, node a has 7\.0; install the same"):
        check_nodes([GOOD, other], need_bytes=0, warn=print)
    check_nodes([GOOD], need_bytes=2**40, warn=warnings.append)
    assert "1024.0 GiB are needed" in warnings[0]
