"""The fusion weight: chosen by its rule on held-out videos, and by nothing of the test list."""

from dataclasses import replace

import numpy as np
import pytest

from stin_pipe.stin.results.tuning import GRID, tune_fusion
from stin_pipe.stin.scoring.fusion import fuse
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.holdout import divide_training_list


def scores(stream, logits, labels):
    logits = np.asarray(logits, np.float32)
    return Scores(
        ids=tuple(f"v{row}" for row in range(len(labels))),
        labels=np.asarray(labels),
        class_names=tuple(f"c{column}" for column in range(logits.shape[1])),
        scores=logits,
        main_logits=logits,
        aux_logits=None,
        stream=stream,
    )


def test_the_best_share_wins_and_the_curve_is_what_fuse_gives():
    """Spatial is right where temporal is a little wrong: below a share of 0.4 all twelve are right."""
    labels = np.arange(12) % 3
    right = 3 * np.eye(3)[labels]
    wrong = 4.6 * np.eye(3)[(labels + 1) % 3]
    found = tune_fusion(
        scores("spatial", right, labels), scores("temporal", wrong, labels), when="before_softmax"
    )
    assert found.temporal_share == 0.35  # (1 - s) 3 > s 4.6 up to s = 0.3947; the nearest to 0.6
    assert found.weights == (0.65, 0.35) and found.top1 == 1.0 and found.num_videos == 12
    assert [point.temporal_share for point in found.curve] == list(GRID)
    assert [point.top1 for point in found.curve] == [1.0] * 8 + [0.0] * 13
    point = found.curve[5]
    fused = (0.75 * right + 0.25 * wrong)[0]
    assert point.nll == pytest.approx(np.log(np.exp(fused).sum()) - fused[0], rel=1e-5)
    assert found.interval.high == 1.0 and 0.7 < found.interval.low < 0.8


def test_of_equal_shares_the_one_nearest_to_tsn_is_taken():
    labels = np.arange(12) % 3
    same = 3 * np.eye(3)[labels]
    found = tune_fusion(
        scores("spatial", same, labels), scores("temporal", same, labels), when="after_softmax"
    )
    assert found.temporal_share == 0.6 and found.weights == (0.4, 0.6)


def test_nine_videos_are_too_few():
    nine = scores("spatial", np.eye(9), np.arange(9))
    with pytest.raises(StinPipeError) as caught:
        tune_fusion(nine, replace(nine, stream="temporal"), when="before_softmax")
    assert str(caught.value) == (
        "--tune-fusion: 9 held-out videos are too few to choose weights on (at least 10); train both "
        "streams with a larger --val-share, or leave --tune-fusion out"
    )


def test_weights_of_the_curve_are_those_of_the_fusion():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40)
    spatial = scores("spatial", rng.normal(size=(40, 4)), labels)
    temporal = scores("temporal", rng.normal(size=(40, 4)), labels)
    found = tune_fusion(spatial, temporal, when="before_softmax")
    fused = fuse(spatial, temporal, weights=found.weights)
    assert (fused.scores.argmax(1) == labels).mean() == found.top1 == max(p.top1 for p in found.curve)


def test_the_held_out_part_has_no_test_video(tiny_run):
    manifest = Manifest.load(tiny_run / "extract" / "manifest.json")
    lists = divide_training_list(manifest, split="1", share=0.3, stream="rgb")
    assert lists.held_out
    assert {video.splits["1"] for video in lists.held_out} == {"train"}
