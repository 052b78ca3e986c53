"""The verdict on made scores: what won, whether it is more than chance and noise, and what is advised."""

import json

import numpy as np
import pytest

from stin_pipe.stin.results.analysis import analyse
from stin_pipe.stin.results.numbers import percent, points, signed, signless
from stin_pipe.stin.results.verdict import (
    Advice,
    Finding,
    Tone,
    Verdict,
    find_baseline,
    is_significant,
    judge,
)
from stin_pipe.stin.scoring.fusion import FusedScores
from stin_pipe.stin.scoring.scores import Scores

NUM_CLASSES = 5


def made_scores(stream: str, right: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores that are right in just these videos."""
    said = np.where(right, labels, (labels + 1) % NUM_CLASSES)
    scores = np.zeros((len(labels), NUM_CLASSES), np.float32)
    scores[np.arange(len(labels)), said] = 4
    kind = FusedScores if stream == "fused" else Scores
    more = {"weights": (1.0, 1.5), "when": "before_softmax"} if stream == "fused" else {"model_digest": "x"}
    return kind(
        ids=tuple(f"v{row:03d}" for row in range(len(labels))),
        labels=labels,
        class_names=tuple("abcde"),
        scores=scores,
        stream=stream,
        **more,
    )


def verdict_of(num_right: dict[str, int], *, num: int = 60, tuned: bool = False, recordings=None) -> Verdict:
    """Judge streams that get the first so many of the videos right."""
    labels = np.arange(num) % NUM_CLASSES
    rows = np.arange(num)
    scores = {name: made_scores(name, rows < right, labels) for name, right in num_right.items()}
    fused = scores.pop("fused", None)
    found = analyse([*scores.values()], fused, recordings=recordings)
    return judge(
        {name: item.top1 for name, item in found.accuracies.items()},
        {name: item["top1"] for name, item in found.intervals.items()},
        found.comparisons,
        baseline=find_baseline(labels, tuple("abcde")),
        num_videos=num,
        num_recordings=found.num_recordings,
        own_streams=[*scores],
        is_tuned=tuned,
    )


@pytest.mark.parametrize(
    ("num_right", "finding", "tone", "advice"),
    [
        ({"spatial": 20, "temporal": 40, "fused": 54}, Finding.FUSION_BETTER, Tone.GOOD, Advice.NONE),
        ({"spatial": 20, "temporal": 50, "fused": 52}, Finding.FUSION_LEVEL, Tone.NEUTRAL, Advice.NONE),
        ({"spatial": 20, "temporal": 50, "fused": 50}, Finding.FUSION_LEVEL, Tone.NEUTRAL, Advice.NONE),
        (
            {"spatial": 20, "temporal": 50, "fused": 48},
            *(Finding.FUSION_WORSE_IN_NOISE, Tone.NEUTRAL, Advice.TUNE_OR_ONE_STREAM),
        ),
        (
            {"spatial": 8, "temporal": 52, "fused": 32},
            *(Finding.FUSION_WORSE, Tone.BAD, Advice.TUNE_OR_ONE_STREAM),
        ),
        ({"spatial": 12, "temporal": 14, "fused": 13}, Finding.AT_CHANCE, Tone.BAD, Advice.CHECK_TRAINING),
        ({"spatial": 12}, Finding.AT_CHANCE, Tone.BAD, Advice.CHECK_TRAINING),
        ({"spatial": 40, "temporal": 50, "fused": 60}, Finding.PERFECT, Tone.GOOD, Advice.NONE),
        ({"spatial": 40}, Finding.ALONE, Tone.NEUTRAL, Advice.TRAIN_OTHER_STREAM),
    ],
)
def test_each_finding(num_right: dict[str, int], finding: Finding, tone: Tone, advice: Advice) -> None:
    found = verdict_of(num_right)
    assert (found.finding, found.tone, found.advice) == (finding, tone, advice)


def test_a_fusion_that_hurts_says_so_with_its_numbers_and_the_way_out() -> None:
    found = verdict_of({"spatial": 8, "temporal": 52, "fused": 32})
    assert found.sentence.startswith(
        "Fused 53.3 %, but the temporal stream alone reaches 86.7 %: fusing hurts here, by more than noise"
    )
    assert "exact McNemar p < 0.001" in found.sentence and "more than chance (20.0 %)" in found.sentence
    assert found.next_step == "Try fuse-eval --tune-fusion, or predict with --streams temporal"
    tuned = verdict_of({"spatial": 8, "temporal": 52, "fused": 32}, tuned=True)
    assert tuned.advice == Advice.ONE_STREAM and "--tune-fusion" not in tuned.next_step


def test_a_good_fusion_and_one_at_chance_say_so() -> None:
    good = verdict_of({"spatial": 20, "temporal": 40, "fused": 54})
    assert good.sentence.startswith(
        "Fusion helps: 90.0 %, against 66.7 % for the temporal stream alone; the gain of 23.3 points is more "
        "than noise"
    )
    assert good.next_step == ""
    chance = verdict_of({"spatial": 12, "temporal": 14, "fused": 13})
    assert chance.sentence.startswith(
        "No better than guessing: the fusion gets 21.7 % of 60 test videos right"
    )
    assert chance.sentence.endswith("chance gives 20.0 %; no stream alone does better than 23.3 %")


def test_streams_at_chance_are_not_said_to_be_more() -> None:
    sentence = verdict_of({"spatial": 12, "temporal": 14, "fused": 30}).sentence
    assert sentence.startswith("Fusion helps: 50.0 %, against 23.3 % for the temporal stream alone")
    assert sentence.endswith("; only the fusion is shown to be more than chance (20.0 %)")


def test_a_fusion_at_chance_beside_a_good_stream_is_worse_not_at_chance() -> None:
    found = verdict_of({"spatial": 8, "temporal": 52, "fused": 14})
    assert found.finding == Finding.FUSION_WORSE
    assert "the fusion is no better than chance (20.0 %)" in found.sentence


def test_few_videos_and_few_recordings_tell_nothing() -> None:
    found = verdict_of({"spatial": 4, "temporal": 5, "fused": 9}, num=9)
    assert (found.finding, found.tone, found.advice) == (Finding.TOO_FEW, Tone.NEUTRAL, Advice.MORE_VIDEOS)
    assert found.sentence.startswith("Too few test videos to tell: the fusion gets 100.0 % of 9 videos right")
    # Sixty clips, but cut from two recordings in each class: ten recordings suffice, five do not.
    for per_class, finding in ((2, Finding.FUSION_BETTER), (1, Finding.TOO_FEW)):
        recordings = {f"v{row:03d}": f"g{row // 5 % per_class}" for row in range(60)}
        streams = {"spatial": 20, "temporal": 30, "fused": 59}
        assert verdict_of(streams, recordings=recordings).finding == finding


def test_noise_and_the_exact_test_must_both_agree() -> None:
    """Eight clips decide: McNemar sees eight videos, the interval knows that they are one recording."""
    streams = {"spatial": 30, "temporal": 48, "fused": 56}
    assert verdict_of(streams).finding == Finding.FUSION_BETTER
    labels = np.zeros(60, np.int64)
    decisive = {f"v{row:03d}": "g1" for row in range(48, 56)}
    parts = [made_scores(name, np.arange(60) < right, labels) for name, right in streams.items()]
    assert isinstance(parts[2], FusedScores)
    for recordings, finding in (({}, True), (decisive, False)):
        pairs = analyse(parts[:2], parts[2], recordings=recordings).comparisons
        lead = next(item for item in pairs if (item.first, item.second) == ("fused", "temporal"))
        assert lead.mcnemar_p < 0.05 and is_significant(lead) is finding


def test_the_majority_class_is_to_be_beaten_where_classes_are_unequal() -> None:
    names = ("walk", "run")
    even = find_baseline([0, 1, 0, 1], names)
    assert (even.best, even.text) == (0.5, "chance (50.0 %)")
    nearly = find_baseline([0, 1] * 5 + [0], names)  # six and five: chance is what to beat
    assert (nearly.best, nearly.are_classes_unequal) == (0.5, False)
    uneven = find_baseline([0, 0, 0, 1], names, train_labels=[0, 0, 1])
    assert (uneven.majority_class, uneven.best) == ("walk", 0.75)
    assert uneven.text == "always answering the most frequent class (75.0 %)"
    # Whoever guesses knows the training list: its majority may be the test list's minority.
    turned = find_baseline([0, 0, 0, 1], names, train_labels=[1, 1, 0])
    assert (turned.majority, turned.best, turned.text) == (0.25, 0.5, "chance (50.0 %)")


def test_fields_are_json_beside_the_sentence() -> None:
    found = verdict_of({"spatial": 8, "temporal": 52, "fused": 32})
    value = json.loads(json.dumps(found.to_json()))
    assert (value["finding"], value["tone"], value["best_stream"]) == ("fusion_worse", "bad", "temporal")
    assert value["top1"] == pytest.approx(32 / 60) and value["best_top1"] == pytest.approx(52 / 60)
    assert value["lead"]["top1"]["difference"] == pytest.approx(-20 / 60)
    assert value["sentence"] == found.sentence and value["beats_baseline"]["spatial"] is False


@pytest.mark.parametrize("value", [0.0, -0.0, -0.0004, 0.0004, -1e-17])
def test_what_rounds_to_zero_has_no_sign(value: float) -> None:
    assert (points(value), percent(value), signed(value, digits=3)[:5]) == ("0.0", "0.0", "0.000")
    assert signless(value, digits=1) == "0.0"


def test_numbers_keep_their_sign_where_they_have_one() -> None:
    assert (points(0.0149), points(-0.0149)) == ("+1.5", "\u22121.5")
    assert (signed(-0.25, digits=3), signed(12.0, digits=0)) == ("\u22120.250", "+12")
    assert (signless(-0.25, digits=2), signless(10.0, digits=0)) == ("\u22120.25", "10")
