"""What is counted of a list: against scikit-learn on random and on tied scores, and by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from stin_pipe.stin.results.analysis import analyse
from stin_pipe.stin.results.calibration import calibrate
from stin_pipe.stin.results.comparison import compare, recording_numbers
from stin_pipe.stin.scoring.fusion import accuracy, fuse
from stin_pipe.stin.scoring.scores import Scores, log_softmax, softmax


def scores(stream, logits, labels, *, ids=None, names=None):
    logits = np.asarray(logits, np.float32)
    return Scores(
        ids=tuple(ids or (f"v{row}" for row in range(len(labels)))),
        labels=np.asarray(labels, np.int64),
        class_names=tuple(names or (f"c{column}" for column in range(logits.shape[1]))),
        scores=logits,
        main_logits=logits,
        aux_logits=None,
        stream=stream,
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_accuracies_are_scikit_learn_s(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(60, 8)), rng.integers(0, 8, 60)
    found = accuracy(logits, labels)
    assert found.top1 == pytest.approx(top_k_accuracy_score(labels, logits, k=1, labels=range(8)))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    assert found.mean_class == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_accuracies_of_tied_scores_are_those_of_scores_with_the_ties_broken_by_class(seed):
    rng = np.random.default_rng(seed)
    tied, labels = rng.integers(0, 3, (60, 8)).astype(float), rng.integers(0, 8, 60)
    broken = tied - 1e-3 * np.arange(8)
    found = accuracy(tied, labels)
    assert found.top1 == pytest.approx(top_k_accuracy_score(labels, broken, k=1, labels=range(8)))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, broken, k=5, labels=range(8)))
    assert found.mean_class == pytest.approx(balanced_accuracy_score(labels, broken.argmax(1)))


def test_calibration_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(500, 6)), rng.integers(0, 6, 500)
    found = calibrate(log_softmax(logits), labels, np.arange(500))
    probabilities = softmax(logits)
    assert found.nll == pytest.approx(log_loss(labels, probabilities))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    true, said = calibration_curve(right, confidence, n_bins=15)
    filled = [item for item in found.bins if item.count]
    np.testing.assert_allclose([item.accuracy for item in filled], true)
    np.testing.assert_allclose([item.confidence for item in filled], said)
    assert sum(item.count for item in found.bins) == 500
    expected = sum(item.count / 500 * abs(a - b) for item, a, b in zip(filled, true, said, strict=True))
    assert found.ece == pytest.approx(expected)


def test_what_is_perfectly_calibrated_has_no_error():
    """0.75 said of four videos of which three are right; logits far apart do not overflow."""
    logs = np.log(np.array([[0.75, 0.25]] * 4))
    found = calibrate(logs, np.array([0, 0, 0, 1]), np.arange(4))
    assert found.ece == pytest.approx(0.0)
    assert found.nll == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4)
    far = log_softmax(np.array([[5000.0, -5000.0], [0.0, 1.0]], np.float32))
    far = calibrate(far, np.array([1, 1]), np.arange(2))
    assert far.nll == pytest.approx((10000 + np.log(1 + np.exp(-1))) / 2)


# Five videos, two streams: by hand. Spatial is right in v0, v1; temporal in v0, v2; the fusion in v0, v1, v3.
LABELS = [0, 0, 1, 2, 1]
SPATIAL = scores("spatial", [[4, 0, 0], [9, 0, 0], [3, 0, 0], [0, 3, 2.9], [1, 0, 0]], LABELS)
TEMPORAL = scores("temporal", [[4, 0, 0], [0, 1, 0], [0, 1, 0], [2.9, 0, 2.8], [0, 0, 5]], LABELS)


def test_agreement_classes_and_confusions_by_hand():
    found = analyse([SPATIAL, TEMPORAL], fuse(SPATIAL, TEMPORAL, weights=(1, 1)), num_listed=6)
    agreement = found.agreement
    assert agreement.right_in_all == ("v0",)
    assert agreement.right_alone == {"spatial": ("v1",), "temporal": ("v2",)}
    assert agreement.right_in_none == ("v3", "v4")
    assert agreement.won_by_fusion == ("v3",)
    assert agreement.lost_by_fusion == ("v2",)
    assert {name: item.top1 for name, item in found.accuracies.items()} == {
        "spatial": 0.4,
        "temporal": 0.4,
        "fused": 0.6,
    }
    assert found.accuracies["fused"].top1_of_listed == 0.5
    rows = {row.name: row for row in found.classes}
    assert rows["c1"].right == {"spatial": 0.0, "temporal": 0.5, "fused": 0.0}
    assert (rows["c0"].count, rows["c0"].mistaken_for, rows["c1"].mistaken_for) == (2, None, "c0")
    assert [(pair.truth, pair.guess, pair.count, pair.share) for pair in found.confusions] == [
        ("c1", "c0", 1, 0.5),
        ("c1", "c2", 1, 0.5),
    ]
    pairs = {(item.first, item.second): item for item in found.comparisons}
    assert list(pairs) == [("fused", "spatial"), ("fused", "temporal"), ("spatial", "temporal")]
    first = pairs["fused", "spatial"]
    assert (first.num_both, first.num_first_alone, first.num_second_alone, first.num_neither) == (2, 1, 0, 2)
    assert first.top1.value == pytest.approx(0.2) and first.mean_class.value == pytest.approx(1 / 3)
    assert first.mcnemar_p == 1.0
    for name, item in found.accuracies.items():
        for metric, interval in found.intervals[name].items():
            assert interval.low <= getattr(item, metric) <= interval.high


def test_paired_intervals_come_from_the_two_answers_that_are_compared():
    """Copies in recordings of four, so that the bootstrap decides the width."""
    rng = np.random.default_rng(4)
    labels = np.repeat(rng.integers(0, 3, 30), 4)
    spatial, temporal = (
        scores(name, np.repeat(rng.normal(size=(30, 3)), 4, axis=0), labels)
        for name in ("spatial", "temporal")
    )
    recordings = {video_id: f"g{row // 4}" for row, video_id in enumerate(spatial.ids)}
    fused = fuse(spatial, temporal)
    found = analyse([spatial, temporal], fused, recordings=recordings)
    assert found.num_recordings == 30
    right = {
        name: item.scores.argmax(1) == labels for name, item in (("spatial", spatial), ("temporal", temporal))
    }
    right["fused"] = fused.scores.argmax(1) == labels
    for item in found.comparisons:
        alone = compare(
            *(item.first, right[item.first], item.second, right[item.second]),
            *(labels, recording_numbers(spatial.ids, labels, recordings)),
        )
        assert item == alone
        narrow = compare(
            item.first, right[item.first], item.second, right[item.second], labels, np.arange(120)
        )
        widths = [pair.top1.interval.high - pair.top1.interval.low for pair in (item, narrow)]
        assert widths[0] > 1.5 * widths[1]


def test_confusions_are_scikit_learn_s():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 80)
    spatial = scores("spatial", rng.normal(size=(80, 5)), labels)
    fused = fuse(spatial, scores("temporal", rng.normal(size=(80, 5)), labels))
    matrix = confusion_matrix(labels, fused.scores.argmax(1), labels=range(5))
    found = analyse([spatial], fused).confusions
    counts = {(pair.truth, pair.guess): pair.count for pair in found}
    expected = {
        (f"c{truth}", f"c{guess}"): matrix[truth, guess]
        for truth in range(5)
        for guess in range(5)
        if truth != guess and matrix[truth, guess]
    }
    assert counts == expected
    assert [pair.count for pair in found] == sorted(counts.values(), reverse=True)


def test_streams_in_another_order_give_the_same_analysis():
    order = [2, 0, 4, 3, 1]
    shuffled = scores(
        "temporal",
        TEMPORAL.scores[order],
        TEMPORAL.labels[order],
        ids=[TEMPORAL.ids[row] for row in order],
    )
    assert analyse([SPATIAL, shuffled], fuse(SPATIAL, shuffled)) == analyse(
        [SPATIAL, TEMPORAL], fuse(SPATIAL, TEMPORAL)
    )


def test_probabilities_of_the_fusion_are_the_fused_ones():
    after = fuse(SPATIAL, TEMPORAL, when="after_softmax")
    mixed = (softmax(SPATIAL.scores) + 1.5 * softmax(TEMPORAL.scores)) / 2.5
    np.testing.assert_allclose(np.exp(after.log_probabilities()), mixed, rtol=1e-5)
    before = fuse(SPATIAL, TEMPORAL)
    np.testing.assert_allclose(np.exp(before.log_probabilities()).sum(1), 1)


def test_comparisons_are_plain_json():
    found = analyse([SPATIAL, TEMPORAL], fuse(SPATIAL, TEMPORAL))
    value = json.loads(json.dumps([item.to_json() for item in found.comparisons]))
    assert set(value[0]["top1"]) == {"difference", "interval"} and len(value[0]["top1"]["interval"]) == 2
    assert json.loads(json.dumps(found.calibration["fused"].to_json()))["bins"][14]["high"] == 1.0
