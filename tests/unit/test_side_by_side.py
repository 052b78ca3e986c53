"""Results side by side: joined by id and class name, differences by hand, misfits refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from stin_pipe.stin.results.intervals import exact_mcnemar
from stin_pipe.stin.results.side_by_side import Contender, stand_side_by_side
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError

CLASSES = ("a", "b", "c")


def scores(guesses, labels, *, ids=None, classes=CLASSES, stream="fused"):
    logits = np.eye(len(classes), dtype=np.float32)[list(guesses)]
    return Scores(
        ids=tuple(ids or (f"v{row}" for row in range(len(labels)))),
        labels=np.array(labels),
        class_names=classes,
        scores=logits,
        main_logits=logits,
        aux_logits=None,
        stream=stream,
    )


LABELS = [0, 0, 0, 1, 1, 2]
FIRST = Contender(name="first", streams={"fused": scores([0, 0, 1, 1, 0, 0], LABELS)})
SECOND = Contender(name="second", streams={"fused": scores([0, 0, 0, 1, 1, 0], LABELS)})


def test_differences_by_hand():
    found = stand_side_by_side([FIRST, SECOND])
    (table,) = found.tables
    assert [item.accuracy.top1 for item in table.standings] == [0.5, pytest.approx(5 / 6)]
    assert table.classes == (("a", 3), ("b", 2), ("c", 1))
    assert table.standings[0].by_class == (pytest.approx(2 / 3), 0.5, 0.0)
    (pair,) = table.comparisons
    assert (pair.first, pair.second) == ("second", "first")
    assert pair.top1.value == pytest.approx(2 / 6)
    assert pair.mean_class.value == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert (pair.num_both, pair.num_first_alone, pair.num_second_alone, pair.num_neither) == (3, 2, 0, 1)
    assert pair.mcnemar_p == exact_mcnemar(2, 0) == 0.5
    assert pair.top1.interval.low < 2 / 6 < pair.top1.interval.high


def test_any_name_of_a_result_has_its_place_in_the_classes():
    odd = Contender(name="count", streams=SECOND.streams)
    (table,) = stand_side_by_side([FIRST, odd]).to_json()["tables"]
    assert table["classes"][1] == {"class": "b", "count": 2, "right": {"first": 0.5, "count": 1.0}}


def test_order_of_videos_and_classes_does_not_matter():
    straight = stand_side_by_side([FIRST, SECOND]).to_json()
    plain = SECOND.streams["fused"]
    order = [4, 0, 5, 2, 1, 3]
    columns = [2, 0, 1]
    moved = replace(
        plain,
        ids=tuple(plain.ids[row] for row in order),
        labels=np.array([columns.index(plain.labels[row]) for row in order]),
        class_names=tuple(CLASSES[column] for column in columns),
        scores=plain.scores[order][:, columns],
        main_logits=plain.scores[order][:, columns],
    )
    other = Contender(name="second", streams={"fused": moved})
    assert stand_side_by_side([FIRST, other]).to_json() == straight


def test_only_common_videos_count_and_the_others_are_told():
    longer = scores([*[0, 0, 0, 1, 1, 0], 2, 2], [*LABELS, 2, 2])
    found = stand_side_by_side([FIRST, Contender(name="second", streams={"fused": longer})])
    assert found.num_common == 6 and found.num_left_out == {"first": 0, "second": 2}
    assert found.tables == stand_side_by_side([FIRST, SECOND]).tables


def test_three_contenders_and_the_streams_that_all_have():
    spatial = scores([1, 1, 1, 1, 1, 1], LABELS, stream="spatial")
    fused = SECOND.streams["fused"]
    three = [
        Contender(name=name, streams=streams)
        for name, streams in (
            ("x", {"spatial": spatial, "fused": fused}),
            ("y", {"fused": fused, "temporal": spatial, "spatial": spatial}),
            ("z", {"fused": fused, "spatial": fused}),
        )
    ]
    found = stand_side_by_side(three)
    assert [table.stream for table in found.tables] == ["fused", "spatial"]
    assert [pair.top1.value for pair in found.tables[1].comparisons] == [0.0, pytest.approx(3 / 6)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            scores([0] * 6, [0, 0, 1, 1, 2, 2]),
            "2 videos have another class in second than in first: v2, v4; compare results of one labelling",
        ),
        (
            scores([0] * 6, LABELS, ids=[f"w{row}" for row in range(6)]),
            "no video is in all of first, second: their ids have nothing in common (compare 'v0' with 'w0')",
        ),
        (
            scores([0] * 6, LABELS, classes=("a", "b", "d")),
            (
                "second and first have different classes (1 only in second: d; 1 only in first: c); "
                "accuracies over different classes cannot be compared"
            ),
        ),
        (
            scores([0] * 6, LABELS, ids=["v0", "v0", "v2", "v3", "v4", "v5"]),
            "second: 1 videos are scored more than once: v0",
        ),
        (
            replace(scores([0] * 6, LABELS), scores=np.full((6, 3), np.nan, np.float32)),
            (
                "second: 6 videos have fused scores that are not finite: v0, v1, v2, v3, v4 and 1 more; "
                "score them again"
            ),
        ),
    ],
)
def test_what_does_not_match_is_refused_by_name(other, message):
    with pytest.raises(StinPipeError) as caught:
        stand_side_by_side([FIRST, Contender(name="second", streams={"fused": other})])
    assert str(caught.value) == message


def test_results_without_a_common_stream_are_refused():
    with pytest.raises(StinPipeError, match="no stream is in all"):
        stand_side_by_side([FIRST, Contender(name="second", streams={"spatial": scores([0] * 6, LABELS)})])


@pytest.mark.parametrize("contenders", [[FIRST], [FIRST, FIRST]])
def test_two_different_results_are_needed(contenders):
    with pytest.raises(ValueError, match="two or more of different names"):
        stand_side_by_side(contenders)
