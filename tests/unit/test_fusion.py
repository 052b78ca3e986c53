"""Joining by id, fusing, and counting: by hand, and against orders that would fool a positional join."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stin_pipe.stin.results.foreign_scores import read_foreign_scores, read_labelled_scores
from stin_pipe.stin.scoring.fusion import accuracy, check_weights, fuse, label_ranks
from stin_pipe.stin.scoring.scores import Scores, softmax
from stin_pipe.stin.shards.errors import StinPipeError

NAMES = ("a", "b", "c")


def scores(ids, logits, *, labels=None, stream="spatial", names=NAMES, aux=None):
    logits = np.asarray(logits, np.float32)
    labels = np.zeros(len(ids), np.int64) if labels is None else np.asarray(labels)
    return Scores(
        ids=tuple(ids),
        labels=labels,
        class_names=names,
        scores=logits,
        main_logits=logits,
        aux_logits=aux,
        stream=stream,
        protocol={"num_segments": 25},
        model_digest="x",
    )


SPATIAL = scores(["v1", "v2"], [[1, 0, 0], [0, 1, 0]], labels=[0, 1])
TEMPORAL = scores(["v2", "v1"], [[0, 0, 3], [6, 0, 0]], labels=[1, 0], stream="temporal")


def test_fusion_joins_by_id_and_weighs_logits_one_to_one_and_a_half():
    fused = fuse(SPATIAL, TEMPORAL)
    assert fused.ids == ("v1", "v2")
    np.testing.assert_allclose(fused.scores, [[(1 + 1.5 * 6) / 2.5, 0, 0], [0, 1 / 2.5, 1.5 * 3 / 2.5]])
    assert (fused.weights, fused.when) == ((1.0, 1.5), "before_softmax")


def test_fusion_after_softmax_weighs_probabilities():
    fused = fuse(SPATIAL, TEMPORAL, weights=(2, 1), when="after_softmax")
    expected = (2 * softmax(SPATIAL.scores) + softmax(TEMPORAL.scores[::-1])) / 3
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(fused.scores.sum(1), 1, rtol=1e-6)


@given(seed=st.integers(0, 2**31), num=st.integers(1, 20))
def test_fusion_does_not_depend_on_the_order_of_either_stream(seed, num):
    rng = np.random.default_rng(seed)
    ids = [f"v{i}" for i in range(num)]
    labels = rng.integers(0, 3, num)
    first, second = rng.normal(size=(2, num, 3))
    order = rng.permutation(num)
    straight = fuse(scores(ids, first, labels=labels), scores(ids, second, labels=labels))
    shuffled = fuse(
        scores(ids, first, labels=labels),
        scores([ids[i] for i in order], second[order], labels=labels[order]),
    )
    assert (straight.scores == shuffled.scores).all()
    weights_scaled = fuse(
        scores(ids, first, labels=labels), scores(ids, second, labels=labels), weights=(2, 3)
    )
    np.testing.assert_allclose(weights_scaled.scores, straight.scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("spatial", "temporal", "message"),
    [
        (
            scores(["v1", "v2", "v3"], np.zeros((3, 3)), labels=[0, 1, 0]),
            TEMPORAL,
            "1 videos are scored by the spatial stream only: v3",
        ),
        (
            replace(
                SPATIAL,
                ids=("v1",),
                labels=np.array([0]),
                scores=np.zeros((1, 3)),
                main_logits=np.zeros((1, 3)),
            ),
            TEMPORAL,
            "1 videos are scored by the temporal stream only: v2",
        ),
        (
            scores(["v1", "v1"], np.zeros((2, 3))),
            TEMPORAL,
            "1 videos are scored more than once by the spatial stream: v1",
        ),
        (
            replace(SPATIAL, labels=np.array([0, 2])),
            TEMPORAL,
            "1 videos have different labels in the two streams: v2",
        ),
        (
            SPATIAL,
            replace(TEMPORAL, scores=np.array([[0, 0, np.nan], [0, np.inf, 0]], np.float32)),
            "2 videos have scores of the temporal stream that are not finite: v1, v2",
        ),
        (
            SPATIAL,
            scores(["v1", "v2"], np.zeros((2, 3)), labels=[0, 1], names=("a", "b", "x")),
            "the streams have different classes",
        ),
    ],
)
def test_what_does_not_join_is_refused_and_listed(spatial, temporal, message):
    with pytest.raises(StinPipeError, match=message):
        fuse(spatial, temporal)


def test_long_lists_of_misfits_are_shortened():
    ids = [f"v{i:02d}" for i in range(12)]
    other = [f"w{i:02d}" for i in range(12)]
    with pytest.raises(StinPipeError, match=r"12 videos .*: v00, v01, v02, v03, v04 and 7 more"):
        fuse(scores(ids, np.zeros((12, 3))), scores(other, np.zeros((12, 3))))


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (float("nan"), 1), (1, 2, 3), (1e308, 1e308), (1e7, 1)])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="fusion weights must be two numbers >= 0"):
        fuse(SPATIAL, TEMPORAL, weights=weights)
    with pytest.raises(ValueError, match=r"got 1, 2\.5, 3$"):
        check_weights((1.0, 2.5, 3.0), names=("spatial", "temporal"))


@pytest.mark.parametrize("share", [1e39, float("nan")])
def test_a_share_of_the_auxiliary_scores_that_no_score_survives_is_refused(share):
    with_aux = scores(["v1"], np.ones((1, 3)), aux=np.ones((1, 3), np.float32))
    with pytest.raises(StinPipeError, match=r"share \(--aux\) must be a number up to 1e\+06, got"):
        with_aux.with_aux(share)


def test_accuracies_by_hand():
    # Class 0: three videos, two right. Class 1: one video, wrong (ranked second). Class 2 has no video.
    table = np.array([[3, 1, 0], [2, 5, 0], [9, 1, 1], [4, 3, 0]], np.float32)
    found = accuracy(table, np.array([0, 0, 0, 1]), num_listed=8)
    assert found.top1 == 0.5
    assert found.top5 == 1.0
    assert found.mean_class == pytest.approx((2 / 3 + 0) / 2)
    assert found.top1_of_listed == 2 / 8
    assert (found.num_scored, found.num_listed) == (4, 8)
    assert found.to_json()["top1"] == 0.5


def test_equal_scores_rank_by_class_index():
    table = np.zeros((3, 6))
    assert label_ranks(table, np.array([0, 3, 5])).tolist() == [0, 3, 5]
    found = accuracy(table, np.array([0, 3, 5]))
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)


@given(seed=st.integers(0, 2**31))
def test_ranks_agree_with_a_stable_sort(seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, (10, 7)).astype(float)
    labels = rng.integers(0, 7, 10)
    order = np.argsort(-table, axis=1, kind="stable")
    expected = [int(np.flatnonzero(row == label)[0]) for row, label in zip(order, labels, strict=True)]
    assert label_ranks(table, labels).tolist() == expected


@pytest.mark.parametrize(
    ("table", "labels", "listed", "message"),
    [
        (np.zeros((0, 3)), np.empty(0, np.int64), None, "scores must be"),
        (np.zeros((2, 3)), np.array([0]), None, "scores must be"),
        (np.zeros((1, 3)), np.array([3]), None, r"labels must be in 0\.\.2, got 3\.\.3"),
        (np.zeros((2, 3)), np.array([0, 1]), 1, "num_listed must be >= the 2 scored videos, got 1"),
    ],
)
def test_accuracies_of_nonsense_are_refused(table, labels, listed, message):
    with pytest.raises(ValueError, match=message):
        accuracy(table, labels, num_listed=listed)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("aux", [None, np.ones((2, 3), np.float32)])
def test_scores_survive_their_file(tmp_path, suffix, aux):
    bad_name = b"class/\xff.avi".decode("utf-8", "surrogateescape")
    before = scores([bad_name, "v2"], [[0.1, 1e-9, 3e8], [0, 1, 0]], labels=[2, 1], aux=aux)
    path = tmp_path / f"scores{suffix}"
    before.save(path)
    after = Scores.load(path)
    assert (after.ids, after.class_names, after.stream) == (before.ids, before.class_names, before.stream)
    assert (after.protocol, after.model_digest) == (before.protocol, before.model_digest)
    assert (after.scores == before.scores).all() and (after.labels == before.labels).all()
    assert (after.aux_logits is None) == (aux is None)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_fusion_after_softmax_is_kept_as_probabilities(tmp_path, suffix):
    fused = fuse(SPATIAL, TEMPORAL, when="after_softmax")
    path = tmp_path / f"fused{suffix}"
    fused.save(path)
    kept = Scores.load(path)
    assert (kept.kind, kept.stream) == ("probabilities", "fused")
    np.testing.assert_allclose(np.exp(kept.log_probabilities()), fused.scores, rtol=1e-6)
    if suffix == ".npz":
        with np.load(path) as opened:
            assert sorted(opened.files) == ["about", "labels", "probabilities"]
    assert read_labelled_scores(path).kind == "probabilities"
    labels = dict(zip(fused.ids, fused.labels.tolist(), strict=True))
    taken = read_foreign_scores(path, stream="theirs", labels=labels, class_names=NAMES)
    assert taken.kind == "logits"
    np.testing.assert_allclose(softmax(taken.scores), fused.scores, rtol=1e-5)
    again = fuse(kept, TEMPORAL, weights=(1, 0))
    np.testing.assert_allclose(softmax(again.scores), fused.scores, rtol=1e-5)


def test_the_probabilities_that_0_1_0_kept_as_logits_are_known(tmp_path):
    fused = fuse(SPATIAL, TEMPORAL, when="after_softmax")
    about = {"format": 1, "ids": list(fused.ids), "class_names": NAMES, "stream": "fused", "model_digest": ""}
    for when, kind in (("after_softmax", "probabilities"), ("before_softmax", "logits")):
        text = json.dumps(about | {"protocol": {"weights": [1.0, 1.5], "when": when}}).encode()
        np.savez(
            tmp_path / "fused.npz",
            about=np.frombuffer(text, np.uint8),
            labels=fused.labels,
            logits=fused.scores,
            main_logits=fused.scores,
        )
        kept = Scores.load(tmp_path / "fused.npz")
        assert kept.kind == kind and (kept.scores == fused.scores).all()


def test_score_files_hold_no_objects(tmp_path):
    SPATIAL.save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as opened:
        assert all(opened[name].dtype != object for name in opened.files)


def test_damaged_score_files_are_refused(tmp_path):
    path = tmp_path / "s.npz"
    SPATIAL.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StinPipeError, match="not a readable score file"):
        Scores.load(path)
    with pytest.raises(StinPipeError, match="no such score file"):
        Scores.load(tmp_path / "absent.npz")


def test_scores_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"scores must have shape \(1, 3\)"):
        scores(["v"], np.zeros((1, 2)))
