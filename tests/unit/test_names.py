"""Names that come out of files: none leads out of where such things lie."""

from pathlib import Path

import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import (
    require_group_name,
    require_inside,
    require_name,
    require_relative,
    require_shard_name,
)

OUT = ("", ".", "..", "../x", "a/../../x", "/etc/passwd", "a\0b")
NO_NAMES = (*OUT, "a/b", "a\\b", ".hidden", "two\nlines", "\x1b[31m", "\x85", "x" * 256)


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a split must be"):
        require_name(text, "a split")
    for require in (require_shard_name, require_group_name):
        with pytest.raises(ValueError, match="digits"):
            require(text)


@pytest.mark.parametrize("text", ["", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a\0b"])
def test_what_leaves_its_folder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="stays inside its folder"):
        require_relative(text, "a path")


def test_names_pass() -> None:
    assert require_name("über 1-b_c.2", "a split") == "über 1-b_c.2"
    assert require_shard_name("00042") == "00042"
    assert require_group_name("000017") == "000017"
    for path in ("a.avi", "a/b/c.avi", "two\nlines.avi", "a/..b", "%s.avi", "\udcff.avi"):
        assert require_relative(path, "a path") == path
    for other in ("٠٠٠٠٠", "0004", "00042\n", "-0042"):  # other digits, too few, a line end
        with pytest.raises(ValueError, match="digits"):
            require_shard_name(other)


def test_a_link_that_leads_out_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "run", tmp_path / "victim"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (root / "in").symlink_to("real")
    (root / "out").symlink_to(outside)
    assert require_inside(root / "in" / "x", root, "it") == root / "in" / "x"
    with pytest.raises(StinPipeError, match="leads out of"):
        require_inside(root / "out" / "x", root, "it")
    # A run that is itself reached by a link is the user's own choice.
    (tmp_path / "link").symlink_to(root)
    require_inside(tmp_path / "link" / "real", tmp_path / "link", "it")
