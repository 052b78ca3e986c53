"""The result of one split: scores, what was counted on them, and all of it as metrics.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stin_pipe.stin.results.analysis import Analysis, analyse, answers_of, likeliest
from stin_pipe.stin.results.intervals import LEVEL, NUM_RESAMPLES
from stin_pipe.stin.results.literature import Published
from stin_pipe.stin.results.tuning import Tuning
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
        fused: their fusion.
        analysis: what was counted on them.
        tuning: how the weights were chosen on held-out videos; None where they were not.
        data: number of videos at each stage from the lists to the scores.
        literature: published numbers, without rows for other data sets.
        how_made: sentences that say how the numbers were made.
        metrics: all of it as JSON values; metrics.json.
    """

    split: str
    streams: Mapping[str, Scores]
    fused: FusedScores
    analysis: Analysis
    tuning: Tuning | None
    data: DataPath
    literature: Literature
    how_made: tuple[str, ...]
    metrics: dict[str, Any]

    @property
    def spatial(self) -> Scores:
        """Scores of the RGB stream."""
        return self.streams["spatial"]

    @property
    def temporal(self) -> Scores:
        """Scores of the flow stream."""
        return self.streams["temporal"]


def judge_split(
    split: str,
    streams: Sequence[Scores],
    fused: FusedScores,
    manifest: Manifest,
    *,
    protocol: Mapping[str, Any],
    report: str,
    tuning: Tuning | None = None,
    literature: Literature = Literature(rows=(), differences=()),
    how_made: Sequence[str] = (),
    trained: Mapping[str, int] | None = None,
    held_out: Mapping[str, int] | None = None,
    score_files: Mapping[str, str] | None = None,
) -> SplitResult:
    """Count everything on the scores of a split, and put it into JSON values.

    Args:
        split: its name.
        streams: what was fused, in that order.
        fused: the fusion.
        manifest: of the run.
        protocol: segments, crops and the like, as metrics.json shows them.
        report: path of the report that will be written.
        tuning: how the weights were chosen, if they were.
        literature: published numbers to show beside ours.
        how_made: how the numbers were made, in sentences.
        trained: stream -> number of training videos, where known.
        held_out: stream -> number of validation videos, where known.
        score_files: stream -> sha256 of the file that its scores are kept in, where they are.
    """
    stored = [STORED_OF[scores.stream] for scores in streams if scores.stream in STORED_OF]
    data = _data_path(
        split,
        manifest,
        [stream for stream in stored if stream in streams_in(manifest.streams)],
        num_scored=len(fused.ids),
        trained=trained,
        held_out=held_out,
    )
    analysis = analyse(streams, fused, recordings=recordings_of(manifest), num_listed=data.test_listed)

    # Programs read these keys: they are added to, never renamed. Streams are keys beside them, which is why
    # no stream may be called as one of them (RESERVED_NAMES of the command line).
    metrics = {
        "split": split,
        "num_videos": data.test_scored,
        "num_listed": data.test_listed,
        **{name: _accuracy_json(analysis, name) for name in analysis.accuracies},
        "streams": [scores.stream for scores in streams],
        "fusion_weights": list(fused.weights),
        "fusion": fused.when,
        "protocol": dict(protocol),
        **_analysis_json(analysis),
        "tuning": None if tuning is None else tuning.to_json(),
        "data": asdict(data),
        "literature": {
            "rows": [row.to_json() for row in literature.rows],
            "differences": list(literature.differences),
        },
        "how_made": list(how_made),
        "report": report,
        "score_files": dict(score_files or {}),
    }

    return SplitResult(
        split=split,
        streams={scores.stream: scores for scores in streams},
        fused=fused,
        analysis=analysis,
        tuning=tuning,
        data=data,
        literature=literature,
        how_made=tuple(how_made),
        metrics=metrics,
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
        "classes": [
            {"class": item.name, "count": item.count, **item.right, "mistaken_for": item.mistaken_for}
            for item in analysis.classes
        ],
        "confusions": [asdict(item) for item in analysis.confusions],
        "agreement": {
            "right_in_all": len(agreement.right_in_all),
            "right_alone": {name: len(ids) for name, ids in agreement.right_alone.items()},
            "right_in_none": len(agreement.right_in_none),
            "won_by_fusion": len(agreement.won_by_fusion),
            "lost_by_fusion": len(agreement.lost_by_fusion),
        },
    }


def recordings_of(manifest: Manifest) -> dict[str, str]:
    """Return the recording of each video that has one."""
    return {video.id: video.group_key for video in manifest.videos.values() if video.group_key}


def prediction_lines(result: SplitResult) -> bytes:
    """Return one JSON line a video: truth, rank of the truth and the five likeliest classes of each stream
    and of the fusion."""
    fused = result.fused
    answers = [answers_of(scores, fused.ids) for scores in (*result.streams.values(), fused)]
    ranks = [label_ranks(answer.scores, fused.labels) for answer in answers]
    lines = []
    for row, video_id in enumerate(fused.ids):
        value: dict[str, Any] = {"id": video_id, "truth": fused.class_names[int(fused.labels[row])]}
        for answer, rank in zip(answers, ranks, strict=True):
            value[answer.name] = {
                "rank": int(rank[row]) + 1,
                "top5": likeliest(answer, row, fused.class_names),
            }
        lines.append(json.dumps(value))
    return ("\n".join(lines) + "\n").encode()
