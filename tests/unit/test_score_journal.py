"""The journal of a scoring: every whole record survives whatever happens to the end of the file."""

import numpy as np
import pytest

from stin_pipe.stin.scoring.journal import ScoreJournal

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
ABOUT = {"model": "m", "videos": ["a"]}


def journal(path, about=ABOUT):
    return ScoreJournal(path, identity=about, row_length=4)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "s.journal"
    with journal(path) as opened:
        for row in ROWS:
            opened.append(row)
    return path


def test_rows_come_back_and_more_can_follow(written):
    assert np.array_equal(journal(written).read(), ROWS)
    with journal(written) as opened:
        opened.append(ROWS[0])
    assert np.array_equal(journal(written).read(), np.concatenate([ROWS, ROWS[:1]]))


def test_every_cut_leaves_the_whole_rows_before_it(written):
    content = written.read_bytes()
    header = content.index(b"\n") + 1
    for length in range(len(content)):
        written.write_bytes(content[:length])
        expected = max(0, length - header) // 20
        assert np.array_equal(journal(written).read(), ROWS[:expected]), length
        with journal(written) as opened:  # what is torn is cut off before more follows
            opened.append(ROWS[4])
        assert np.array_equal(journal(written).read(), np.concatenate([ROWS[:expected], ROWS[4:]]))


def test_a_damaged_row_and_all_after_it_are_dropped(written):
    content = bytearray(written.read_bytes())
    header = content.index(b"\n") + 1
    content[header + 2 * 20 + 3] ^= 1
    written.write_bytes(content)
    assert np.array_equal(journal(written).read(), ROWS[:2])


def test_rows_that_changed_places_are_dropped(written):
    content = written.read_bytes()
    header = content.index(b"\n") + 1
    written.write_bytes(content[:header] + content[header + 20 : header + 40] + content[header : header + 20])
    assert len(journal(written).read()) == 0


def test_another_scoring_begins_anew(written):
    other = {**ABOUT, "model": "other"}
    assert len(journal(written, other).read()) == 0
    with journal(written, other) as opened:
        opened.append(ROWS[1])
    assert np.array_equal(journal(written, other).read(), ROWS[1:2])
    assert len(journal(written).read()) == 0
