"""Names that come out of files: none leads out of where such things lie."""

from pathlib import Path

import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import (
    make_inside,
    require_group_name,
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


@pytest.mark.parametrize("way", ["above", "itself", "folder in it", "file in it", "dangling", "absolute"])
def test_a_link_that_leads_out_is_refused_before_anything_is_made(tmp_path: Path, way: str) -> None:
    root, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    folder = root / "train-spatial" / "split1"
    link, target = {
        "above": (folder.parent, victim),
        "itself": (folder, Path("../../victim")),
        "folder in it": (folder / "checkpoints", victim),
        "file in it": (folder / "metrics.jsonl", victim / "x"),
        "dangling": (folder / "spatial.journal", tmp_path / "nowhere"),
        "absolute": (folder, Path("/")),
    }[way]
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(StinPipeError, match=r"a link leads out of .*put the real file or folder"):
        make_inside(folder, root)
    assert not list(victim.iterdir())


def test_links_that_stay_inside_and_a_run_behind_a_link_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "other").mkdir(parents=True)
    (root / "train-spatial").symlink_to("other")
    (tmp_path / "link").symlink_to(root)
    for run in (root, tmp_path / "link"):
        assert make_inside(run / "train-spatial" / "split1", run) == run / "train-spatial" / "split1"
    # What another tool keeps beside a run, and links into it, is replaced as a whole.
    shards = make_inside(root / "extract" / "shards", root)
    (shards / "00000.h5").symlink_to(tmp_path / "store")
    make_inside(root / "extract", root)
