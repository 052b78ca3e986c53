"""A run directory as an object: what was extracted, what is trained, and how well it does."""

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from stin_pipe.stin.results.stored import answer_of, read_metrics
from stin_pipe.stin.shards.schema import FailedVideo, Manifest, ManifestVideo, Streams
from stin_pipe.workflows.run.run_dir import open_run as open_directory
from stin_pipe.workflows.run.stages import TrainingState, splits_with_files, training_states


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it stood when it was opened.

    Attributes:
        path: the run directory.
        dataset: where labels and splits came from: ``ucf101``, ``hmdb51``, ``folder`` or ``csv``.
        classes: names in the order of their labels.
        splits: names of the splits.
        streams: what is stored of a video: ``rgb`` (frames), ``flow``, or ``both``.
        videos: id -> stored video (label, frames, size, rate, side in each split).
        failed: videos that could not be extracted, with reason and message.
        trainings: how far each training is.
        evaluations: split -> content of its metrics.json.
    """

    path: Path
    dataset: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    streams: Streams
    videos: Mapping[str, ManifestVideo] = field(repr=False)
    failed: tuple[FailedVideo, ...] = field(repr=False)
    trainings: tuple[TrainingState, ...] = field(repr=False)
    evaluations: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def __repr__(self) -> str:
        lines = [f"{key}: {value}" for key, value in self._rows()]
        return f"Run({str(self.path)!r})\n  " + "\n  ".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self._rows()
        )
        return f"<table><caption>Run {html.escape(str(self.path))}</caption>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        frames = sum(video.num_frames for video in self.videos.values())
        parts = {"both": "", "rgb": ", without flow", "flow": " whose flow alone is stored"}[self.streams]
        rows = [
            ("videos", f"{len(self.videos)} of {len(self.classes)} classes, {frames} frames{parts}"),
            ("failed", f"{len(self.failed)} videos"),
        ]
        for split in self.splits:
            sides = Counter(video.splits.get(split) for video in self.videos.values())
            rows.append((f"split {split}", f"{sides['train']} train, {sides['test']} test"))

        rows += [(state.name, f"{state.progress}; {state.detail}") for state in self.trainings]
        for split, metrics in self.evaluations.items():
            names = dict.fromkeys((*metrics["streams"], answer_of(metrics)))
            figures = {name: metrics[name]["top1"] for name in names}
            text = ", ".join(f"{name} {top1:.3f}" for name, top1 in figures.items())
            rows.append((f"top-1 of split {split}", text))
        return rows


def open_run(path: str | PathLike[str]) -> Run:
    """Open a run directory and read what is in it.

    Args:
        path: the run directory, as `--run`.

    Raises:
        StinPipeError: it is no run, or nothing has been extracted in it yet.
    """
    run = open_directory(Path(path))
    manifest = Manifest.load(run.manifest)
    splits = splits_with_files(run)
    evaluations = {split: metrics for split in splits if (metrics := read_metrics(run.fusion(split)))}
    return Run(
        path=run.path,
        dataset=manifest.dataset,
        classes=manifest.classes,
        splits=manifest.split_names,
        streams=manifest.streams,
        videos=manifest.videos,
        failed=manifest.failed,
        trainings=tuple(training_states(run, splits, manifest)),
        evaluations=evaluations,
    )
