"""The verdict on one split: what won, by how much, whether that is more than chance and more than noise.

Programs read the fields; `sentence` and `advice` are made from them here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from stin_pipe.stin.results.comparison import Comparison
from stin_pipe.stin.results.intervals import Interval
from stin_pipe.stin.results.numbers import p_text, percent, points
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.shards.errors import counted

SIGNIFICANT_P = 0.05
UNEQUAL = 1.5
MIN_RECORDINGS = 10
"""With fewer, a 95 % interval may cover half of all possible results."""


class Finding(StrEnum):
    """What a split shows, the first of these that applies."""

    TOO_FEW = "too_few"
    """There are too few independent test videos to tell anything."""
    AT_CHANCE = "at_chance"
    """No answer is shown to be better than guessing."""
    PERFECT = "perfect"
    """Every test video is classified correctly."""
    ALONE = "alone"
    """One stream, without a fusion, is better than guessing."""
    FUSION_BETTER = "fusion_better"
    FUSION_LEVEL = "fusion_level"
    """The fusion is at least as good as the best stream, by no more than noise."""
    FUSION_WORSE_IN_NOISE = "fusion_worse_in_noise"
    FUSION_WORSE = "fusion_worse"


class Tone(StrEnum):
    """Whether the finding is good news; decides the colour of the verdict."""

    GOOD = "good"
    NEUTRAL = "neutral"
    BAD = "bad"


class Advice(StrEnum):
    """What to do next."""

    NONE = "none"
    MORE_VIDEOS = "more_videos"
    CHECK_TRAINING = "check_training"
    TRAIN_OTHER_STREAM = "train_other_stream"
    TUNE_OR_ONE_STREAM = "tune_or_one_stream"
    ONE_STREAM = "one_stream"


TONES = {
    Finding.PERFECT: Tone.GOOD,
    Finding.FUSION_BETTER: Tone.GOOD,
    Finding.FUSION_WORSE: Tone.BAD,
    Finding.AT_CHANCE: Tone.BAD,
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What answers without looking reach.

    Attributes:
        chance: 1 / number of classes.
        majority_class: the most frequent class of the training list (of the test list, where nothing is
            trained on).
        majority: share of the test videos that have it.
        are_classes_unequal: whether a class has over 1.5 times the test videos of another, so that the second
            has to be beaten, too.
    """

    chance: float
    majority_class: str
    majority: float
    are_classes_unequal: bool

    @property
    def best(self) -> float:
        """The better of the two where classes are unequal, else chance: what a result has to beat."""
        return max(self.chance, self.majority) if self.are_classes_unequal else self.chance

    @property
    def name(self) -> str:
        """How the better of the two answers."""
        is_majority = self.are_classes_unequal and self.majority > self.chance
        return "always answering the most frequent class" if is_majority else "chance"

    @property
    def text(self) -> str:
        """The better of the two in words: `chance (10.0 %)`."""
        return f"{self.name} ({percent(self.best)} %)"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one split shows.

    Attributes:
        finding: what it comes to.
        answer: `fused`, or the stream that stands alone.
        top1: of the answer; `interval` is its 95 % interval.
        best_stream: the stream with the highest top-1, and what it reaches.
        lead: answer minus best stream, paired; None where there is only one answer.
        baseline: what guessing reaches.
        beats_baseline: answer -> whether its interval lies above the baseline.
        num_videos, num_recordings: on which all this rests.
        advice: what to do next.
    """

    finding: Finding
    answer: str
    top1: float
    interval: Interval
    best_stream: str
    best_top1: float
    lead: Comparison | None
    baseline: Baseline
    beats_baseline: Mapping[str, bool]
    num_videos: int
    num_recordings: int
    advice: Advice

    @property
    def tone(self) -> Tone:
        """Whether this is good news."""
        return TONES.get(self.finding, Tone.NEUTRAL)

    @property
    def sentence(self) -> str:
        """The finding in words, to be shown first."""
        return _SENTENCES[self.finding](self)

    @property
    def next_step(self) -> str:
        """The advice in words; empty where there is none."""
        return _next_step(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "tone": self.tone,
            "interval": self.interval.to_json(),
            "lead": None if self.lead is None else self.lead.to_json(),
            "sentence": self.sentence,
            "next_step": self.next_step,
        }


def find_baseline(
    test_labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    train_labels: Sequence[int] | np.ndarray = (),
) -> Baseline:
    """Return what guessing reaches on a test list.

    Args:
        test_labels: of the scored videos.
        class_names: by label.
        train_labels: of the training list: whoever guesses knows only that one.
    """
    counts = np.bincount(np.asarray(test_labels, np.int64), minlength=len(class_names))
    known = np.asarray(train_labels, np.int64)
    majority = int((np.bincount(known, minlength=len(class_names)) if len(known) else counts).argmax())
    return Baseline(
        chance=1 / len(class_names),
        majority_class=class_names[majority],
        majority=float(counts[majority] / max(1, counts.sum())),
        are_classes_unequal=bool(counts.max() > UNEQUAL * counts.min()),
    )


def judge(
    top1: Mapping[str, float],
    intervals: Mapping[str, Interval],
    comparisons: Sequence[Comparison],
    *,
    baseline: Baseline,
    num_videos: int,
    num_recordings: int,
    own_streams: Sequence[str] = (),
    is_tuned: bool = False,
) -> Verdict:
    """Judge a split.

    Args:
        top1: answer -> top-1; `fused` among them if there is a fusion.
        intervals: answer -> 95 % interval of it.
        comparisons: the fusion against each stream among them.
        baseline: what guessing reaches.
        num_videos: scored.
        num_recordings: that they were cut from.
        own_streams: those with a model of ours, which `predict` knows.
        is_tuned: whether the fusion weights were chosen on held-out videos already.
    """
    streams = [name for name in top1 if name != FUSED]
    best = max(streams, key=lambda name: top1[name])  # of equals the first
    answer = FUSED if FUSED in top1 else streams[0]
    lead = next((item for item in comparisons if (item.first, item.second) == (FUSED, best)), None)
    beats = {name: intervals[name].low > baseline.best for name in top1}

    if num_recordings < MIN_RECORDINGS:
        finding = Finding.TOO_FEW
    elif not any(beats.values()):
        finding = Finding.AT_CHANCE
    elif top1[answer] == 1:
        finding = Finding.PERFECT
    elif lead is None:
        finding = Finding.ALONE
    else:
        finding = _compared(lead)

    return Verdict(
        finding=finding,
        answer=answer,
        top1=top1[answer],
        interval=intervals[answer],
        best_stream=best,
        best_top1=top1[best],
        lead=lead,
        baseline=baseline,
        beats_baseline=beats,
        num_videos=num_videos,
        num_recordings=num_recordings,
        advice=_advice(finding, best in own_streams, is_tuned=is_tuned),
    )


def is_significant(item: Comparison) -> bool:
    """Tell whether a paired difference is more than noise, by its interval and by McNemar's test.

    Both, because each sees what the other does not: the interval that clips of one recording resemble each
    other, the exact test how few videos tell two answers apart.
    """
    interval = item.top1.interval
    return item.mcnemar_p < SIGNIFICANT_P and not interval.low <= 0 <= interval.high


def _compared(lead: Comparison) -> Finding:
    if lead.top1.value >= 0:
        return Finding.FUSION_BETTER if is_significant(lead) else Finding.FUSION_LEVEL
    return Finding.FUSION_WORSE if is_significant(lead) else Finding.FUSION_WORSE_IN_NOISE


def _advice(finding: Finding, is_best_ours: bool, *, is_tuned: bool) -> Advice:
    match finding:
        case Finding.TOO_FEW:
            return Advice.MORE_VIDEOS
        case Finding.AT_CHANCE:
            return Advice.CHECK_TRAINING
        case Finding.ALONE if is_best_ours:
            return Advice.TRAIN_OTHER_STREAM
        case Finding.FUSION_WORSE | Finding.FUSION_WORSE_IN_NOISE if is_best_ours:
            return Advice.ONE_STREAM if is_tuned else Advice.TUNE_OR_ONE_STREAM
        case _:
            return Advice.NONE


def _too_few(verdict: Verdict) -> str:
    recordings = ""
    if verdict.num_recordings != verdict.num_videos:
        recordings = f" from {counted(verdict.num_recordings, 'recording')}"
    return (
        f"Too few test videos to tell: {_who(verdict)} gets {percent(verdict.top1)} % of "
        f"{counted(verdict.num_videos, 'video')}{recordings} right, and the 95 % interval runs from "
        f"{_range(verdict.interval)} %"
    )


def _at_chance(verdict: Verdict) -> str:
    others = ""
    if verdict.lead is not None:
        others = f"; no stream alone does better than {percent(verdict.best_top1)} %"
    return (
        f"No better than guessing: {_who(verdict)} gets {percent(verdict.top1)} % of "
        f"{verdict.num_videos} test videos right (95 % interval {_range(verdict.interval)} %), where "
        f"{verdict.baseline.name} gives {percent(verdict.baseline.best)} %{others}"
    )


def _perfect(verdict: Verdict) -> str:
    sentence = (
        f"{_sentence_case(_who(verdict))} gets all {verdict.num_videos} test videos right (95 % "
        f"interval {_range(verdict.interval)} %)"
    )
    if verdict.lead is None:
        return sentence
    if verdict.best_top1 == 1:
        return f"{sentence}; so does the {verdict.best_stream} stream alone"
    noise = "more than noise" if is_significant(verdict.lead) else "within noise"
    return (
        f"{sentence}; the {verdict.best_stream} stream alone reaches {percent(verdict.best_top1)} %, and the "
        f"difference is {noise} ({_evidence(verdict.lead)})"
    )


def _alone(verdict: Verdict) -> str:
    return (
        f"The {verdict.answer} stream alone gets {percent(verdict.top1)} % of {verdict.num_videos} test "
        f"videos right (95 % interval {_range(verdict.interval)} %), more than {verdict.baseline.text}"
    )


def _fusion_better(verdict: Verdict) -> str:
    assert verdict.lead is not None
    return (
        f"Fusion helps: {percent(verdict.top1)} %, against {percent(verdict.best_top1)} % for the "
        f"{verdict.best_stream} stream alone; the gain of {percent(verdict.lead.top1.value)} points is more "
        f"than noise ({_evidence(verdict.lead)}){_above_baseline(verdict)}"
    )


def _fusion_level(verdict: Verdict) -> str:
    assert verdict.lead is not None
    gain = f"a difference of {points(verdict.lead.top1.value)} points is within noise"
    if verdict.lead.top1.value == 0:
        gain = "there is no difference"
    return (
        f"Fused {percent(verdict.top1)} %, the {verdict.best_stream} stream alone "
        f"{percent(verdict.best_top1)} %: {gain} ({_evidence(verdict.lead)}), so fusion is not shown to "
        f"help{_above_baseline(verdict)}"
    )


def _fusion_worse_in_noise(verdict: Verdict) -> str:
    assert verdict.lead is not None
    return (
        f"Fused {percent(verdict.top1)} %, and the {verdict.best_stream} stream alone reaches "
        f"{percent(verdict.best_top1)} %: fusing does not help here, though the loss is within noise "
        f"({_evidence(verdict.lead)}){_above_baseline(verdict)}"
    )


def _fusion_worse(verdict: Verdict) -> str:
    assert verdict.lead is not None
    return (
        f"Fused {percent(verdict.top1)} %, but the {verdict.best_stream} stream alone reaches "
        f"{percent(verdict.best_top1)} %: fusing hurts here, by more than noise "
        f"({_evidence(verdict.lead)}){_above_baseline(verdict)}"
    )


_SENTENCES = {
    Finding.TOO_FEW: _too_few,
    Finding.AT_CHANCE: _at_chance,
    Finding.PERFECT: _perfect,
    Finding.ALONE: _alone,
    Finding.FUSION_BETTER: _fusion_better,
    Finding.FUSION_LEVEL: _fusion_level,
    Finding.FUSION_WORSE_IN_NOISE: _fusion_worse_in_noise,
    Finding.FUSION_WORSE: _fusion_worse,
}


def _next_step(verdict: Verdict) -> str:
    match verdict.advice:
        case Advice.NONE:
            return ""
        case Advice.MORE_VIDEOS:
            return (
                f"Test on {MIN_RECORDINGS} recordings or more; to see a difference of a few points takes "
                "hundreds of videos"
            )
        case Advice.CHECK_TRAINING:
            return (
                "See whether the training loss falls; if it does not, train longer or at another rate, and "
                "if it does, check that the labels are right"
            )
        case Advice.TRAIN_OTHER_STREAM:
            other = "temporal" if verdict.answer == "spatial" else "spatial"
            return f"Train the {other} stream as well (train-{other}) to see what fusing them adds"
        case Advice.TUNE_OR_ONE_STREAM:
            return f"Try fuse-eval --tune-fusion, or predict with --streams {verdict.best_stream}"
        case Advice.ONE_STREAM:
            return f"The weights are tuned already: predict with --streams {verdict.best_stream}"


def _who(verdict: Verdict) -> str:
    return "the fusion" if verdict.answer == FUSED else f"the {verdict.answer} stream alone"


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]  # capitalize() would lower the names inside


def _above_baseline(verdict: Verdict) -> str:
    match verdict.beats_baseline[verdict.answer], verdict.beats_baseline[verdict.best_stream]:
        case True, True:
            return f"; both are more than {verdict.baseline.text}"
        case True, False:
            return f"; only the fusion is shown to be more than {verdict.baseline.text}"
        case _:
            return f"; the fusion is no better than {verdict.baseline.text}"


def _evidence(lead: Comparison) -> str:
    """What tells a difference from noise, for brackets."""
    low, high = lead.top1.interval.low, lead.top1.interval.high
    return f"95 % interval {points(low)} to {points(high)} points, exact McNemar p {p_text(lead.mcnemar_p)}"


def _range(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"
