"""The result of one split: scores, what was counted on them, and all of it as metrics.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stin_pipe.stin.results.analysis import Analysis, analyse, answers_of, likeliest
from stin_pipe.stin.results.examples import Example, find_examples
from stin_pipe.stin.results.intervals import LEVEL, NUM_RESAMPLES
from stin_pipe.stin.results.literature import Published
from stin_pipe.stin.results.trained import Training
from stin_pipe.stin.results.tuning import Tuning
from stin_pipe.stin.results.verdict import Verdict, find_baseline, judge
from stin_pipe.stin.scoring.fusion import FusedScores, label_ranks
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, Stream, streams_in

INTERVAL_METHOD = (
    f"{100 * LEVEL:.0f} % intervals: the standard error from {NUM_RESAMPLES} bootstrap resamplings of "
    "recordings (a video without one is its own), within each class for mean class accuracy, put into "
    "Wilson's interval; differences are paired by video"
)


@dataclass(frozen=True, kw_only=True)
class DataPath:
    """How many videos there are at each stage, from the lists to the scores.

    Attributes:
        listed: videos of the lists or folders, without absent ones.
        absent: videos of the lists that the folder lacks.
        skipped: files of the folder that no list names.
        unlisted: videos in the run that the lists or the folder no longer name, and nothing uses.
        pending: videos that are planned and not extracted yet.
        extracted: videos in shards.
        failed: videos that could not be extracted.
        failed_reasons: reason -> number of videos.
        train: extracted videos of the split's training list.
        trained: stream -> number of videos that it was trained on, where known.
        held_out: stream -> number of videos of the training list that it was validated on, where known.
        test_listed: videos of the split's test list, failed ones among them.
        test_failed: videos of the test list that could not be extracted.
        test_scored: videos of the test list with scores.
        num_frames: of all extracted videos.
        bound_px: largest stored motion, in pixels a frame.
    """

    listed: int
    absent: int
    skipped: int
    unlisted: int
    pending: int
    extracted: int
    failed: int
    failed_reasons: Mapping[str, int]
    train: int
    trained: Mapping[str, int]
    held_out: Mapping[str, int]
    test_listed: int
    test_failed: int
    test_scored: int
    num_frames: int
    bound_px: float


@dataclass(frozen=True, kw_only=True)
class Literature:
    """Published rows of the data set, and how our protocol differs from theirs, in sentences."""

    rows: tuple[Published, ...]
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """Everything that the evaluation of one split found.

    Attributes:
        split: its name.
        streams: scores by stream in the order of the weights; ``spatial`` and ``temporal`` first.
        fused: their fusion; None for one stream alone.
        analysis: what was counted on them.
        verdict: what it comes to.
        examples: the videos that tell most.
        trainings: stream -> how each of its models was trained, where this is a training's.
        tuning: how the weights were chosen on held-out videos; None where they were not.
        data: number of videos at each stage from the lists to the scores.
        literature: published numbers, without rows for other data sets.
        how_made: sentences that say how the numbers were made.
        metrics: all of it as JSON values; metrics.json.
    """

    split: str
    streams: Mapping[str, Scores]
    fused: FusedScores | None
    analysis: Analysis
    verdict: Verdict
    examples: tuple[Example, ...]
    trainings: Mapping[str, Sequence[Training]]
    tuning: Tuning | None
    data: DataPath
    literature: Literature
    how_made: tuple[str, ...]
    metrics: dict[str, Any]

    @property
    def parts(self) -> tuple[Scores, ...]:
        """The scores of each stream, and of the fusion if there is one."""
        return (*self.streams.values(), *(() if self.fused is None else (self.fused,)))

    @property
    def answer(self) -> Scores:
        """The scores that decide: the fusion, or those of the stream that stands alone."""
        return self.parts[-1]


def judge_split(
    split: str,
    streams: Sequence[Scores],
    fused: FusedScores | None,
    manifest: Manifest,
    *,
    protocol: Mapping[str, Any],
    report: str,
    tuning: Tuning | None = None,
    literature: Literature = Literature(rows=(), differences=()),
    how_made: Sequence[str] = (),
    trainings: Mapping[str, Sequence[Training]] | None = None,
    trained: Mapping[str, int] | None = None,
    held_out: Mapping[str, int] | None = None,
    score_files: Mapping[str, str] | None = None,
) -> SplitResult:
    """Count everything on the scores of a split, and put it into JSON values.

    Args:
        split: its name.
        streams: what was fused, in that order.
        fused: the fusion; None for one stream alone.
        manifest: of the run.
        protocol: segments, crops and the like, as metrics.json shows them.
        report: path of the report that will be written.
        tuning: how the weights were chosen, if they were.
        literature: published numbers to show beside ours.
        how_made: how the numbers were made, in sentences.
        trainings: stream -> how each of its models was trained.
        trained: stream -> number of training videos, where known.
        held_out: stream -> number of validation videos, where known.
        score_files: stream -> sha256 of the file that its scores are kept in, where they are.
    """
    answer = streams[0] if fused is None else fused
    parts = [*streams] if fused is None else [*streams, fused]
    trainings = trainings or {}

    stored = [STORED_OF[scores.stream] for scores in streams if scores.stream in STORED_OF]
    data = _data_path(
        split,
        manifest,
        [stream for stream in stored if stream in streams_in(manifest.streams)],
        num_scored=len(answer.ids),
        trained=trained,
        held_out=held_out,
    )

    analysis = analyse(streams, fused, recordings=recordings_of(manifest), num_listed=data.test_listed)
    verdict = _judge(split, streams, answer, analysis, manifest, is_tuned=tuning is not None)
    examples = find_examples(
        answer.ids, answer.labels, answer.class_names, [answers_of(scores, answer.ids) for scores in parts]
    )

    result = SplitResult(
        split=split,
        streams={scores.stream: scores for scores in streams},
        fused=fused,
        analysis=analysis,
        verdict=verdict,
        examples=examples,
        trainings=trainings,
        tuning=tuning,
        data=data,
        literature=literature,
        how_made=tuple(how_made),
        metrics={},
    )
    metrics = _metrics_json(result, protocol=protocol, report=report, score_files=score_files or {})
    return replace(result, metrics=metrics)


def _metrics_json(
    result: SplitResult, *, protocol: Mapping[str, Any], report: str, score_files: Mapping[str, str]
) -> dict[str, Any]:
    """Return what metrics.json holds."""
    analysis, answer, fused, data = result.analysis, result.answer, result.fused, result.data
    cells = [list(cell) for cell in analysis.cells]

    # Programs read these keys: they are added to, never renamed. Streams are keys beside them, which is why
    # no stream may be called as one of them (RESERVED_NAMES of the command line).
    return {
        "split": result.split,
        "num_videos": data.test_scored,
        "num_listed": data.test_listed,
        "num_classes": len(answer.class_names),
        "verdict": result.verdict.to_json(),
        "answer": analysis.answer,
        **{name: _accuracy_json(analysis, name) for name in analysis.accuracies},
        "streams": [*result.streams],
        "fusion_weights": None if fused is None else list(fused.weights),
        "fusion": None if fused is None else fused.when,
        "protocol": dict(protocol),
        **_analysis_json(analysis),
        "confusion_matrix": {
            "class_names": list(answer.class_names),
            "cells": cells,
        },
        "examples": [item.to_json() for item in result.examples],
        "trainings": {
            name: [item.to_json() for item in members] for name, members in result.trainings.items()
        },
        "tuning": None if result.tuning is None else result.tuning.to_json(),
        "data": asdict(data),
        "literature": {
            "rows": [row.to_json() for row in result.literature.rows],
            "differences": list(result.literature.differences),
        },
        "how_made": list(result.how_made),
        "report": report,
        "score_files": dict(score_files),
    }


def _judge(
    split: str,
    streams: Sequence[Scores],
    answer: Scores,
    analysis: Analysis,
    manifest: Manifest,
    *,
    is_tuned: bool,
) -> Verdict:
    return judge(
        {name: found.top1 for name, found in analysis.accuracies.items()},
        {name: found["top1"] for name, found in analysis.intervals.items()},
        analysis.comparisons,
        baseline=find_baseline(
            answer.labels,
            answer.class_names,
            train_labels=[video.label for video in manifest.subset(split, "train")],
        ),
        num_videos=len(answer.ids),
        num_recordings=analysis.num_recordings,
        own_streams=[scores.stream for scores in streams if scores.model_digest],
        is_tuned=is_tuned,
    )


def _data_path(
    split: str,
    manifest: Manifest,
    stored: Sequence[Stream],
    *,
    num_scored: int,
    trained: Mapping[str, int] | None,
    held_out: Mapping[str, int] | None,
) -> DataPath:
    num_failed = len(manifest.failed_of(split, "test", *stored))
    return DataPath(
        listed=len(manifest.videos) + len(manifest.failed) + manifest.num_pending,
        absent=manifest.num_absent,
        skipped=manifest.num_skipped,
        unlisted=manifest.num_unlisted,
        pending=manifest.num_pending,
        extracted=len(manifest.videos),
        failed=len(manifest.failed),
        failed_reasons=dict(Counter(video.reason for video in manifest.failed).most_common()),
        train=len(manifest.subset(split, "train")),
        trained=dict(trained or {}),
        held_out=dict(held_out or {}),
        test_listed=len(manifest.subset(split, "test", *stored)) + num_failed,
        test_failed=num_failed,
        test_scored=num_scored,
        num_frames=sum(video.num_frames for video in manifest.videos.values()),
        bound_px=manifest.bound_px,
    )


def _accuracy_json(analysis: Analysis, name: str) -> dict[str, float]:
    value = analysis.accuracies[name].to_json()
    return {key: value[key] for key in ("top1", "top5", "mean_class", "top1_of_listed")}


def _analysis_json(analysis: Analysis) -> dict[str, Any]:
    """Return what was counted beside the accuracies."""
    agreement = analysis.agreement
    return {
        "intervals": {
            name: {metric: interval.to_json() for metric, interval in intervals.items()}
            for name, intervals in analysis.intervals.items()
        },
        "interval_method": INTERVAL_METHOD,
        "num_recordings": analysis.num_recordings,
        "comparisons": [item.to_json() for item in analysis.comparisons],
        "calibration": {name: item.to_json() for name, item in analysis.calibration.items()},
        "classes": [item.to_json() for item in analysis.classes],
        "confusions": [asdict(item) for item in analysis.confusions],
        "agreement": None if agreement is None else agreement.to_json(),
    }


def recordings_of(manifest: Manifest) -> dict[str, str]:
    """Return the recording of each video that has one."""
    return {video.id: video.group_key for video in manifest.videos.values() if video.group_key}


def prediction_lines(result: SplitResult) -> bytes:
    """Return one JSON line a video: truth, rank of the truth and the five likeliest classes of each stream
    and of the fusion."""
    ids, labels, names = result.answer.ids, result.answer.labels, result.answer.class_names
    answers = [answers_of(scores, ids) for scores in result.parts]
    ranks = [label_ranks(answer.scores, labels) for answer in answers]
    lines = []
    for row, video_id in enumerate(ids):
        value: dict[str, Any] = {"id": video_id, "truth": names[int(labels[row])]}
        for answer, rank in zip(answers, ranks, strict=True):
            value[answer.name] = {"rank": int(rank[row]) + 1, "top5": likeliest(answer, row, names)}
        lines.append(json.dumps(value))
    return ("\n".join(lines) + "\n").encode()
