"""The report of one split: one HTML file that opens offline; every name in it is escaped."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.results.analysis import Agreement, Analysis
from stin_pipe.stin.results.split_result import DataPath, SplitResult
from stin_pipe.stin.results.tuning import Tuning
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.report.charts import Chart, line_chart, reliability_chart, training_charts
from stin_pipe.workflows.report.comparison_text import shows_top5
from stin_pipe.workflows.report.page import render_page
from stin_pipe.workflows.report.sources import source_links
from stin_pipe.workflows.report.splits import render_splits
from stin_pipe.workflows.report.training_table import training_table
from stin_pipe.workflows.report.video_cards import video_cards
from stin_pipe.workflows.run.evaluation import Pages

MAX_FAILURES_SHOWN = 200
MAX_IDS_SHOWN = 100
MANY_CLASSES, CROWD_OF_CLASSES = 24, 48
MAX_MATRIX_CLASSES = 200
"""A matrix of more classes makes the page slow."""

SECTIONS: tuple[tuple[str, str], ...] = (
    ("result", "Result"),
    ("made", "Protocol"),
    ("data", "Data"),
    ("training", "Training"),
    ("classes-title", "Classes"),
    ("confusion", "Confusion"),
    ("agreement", "Agreement"),
    ("calibration", "Calibration"),
    ("tuning", "Fusion weights"),
    ("videos", "Videos"),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the matrix: its count, the style that shades it, and the id of the list of its videos."""

    count: int
    style: str
    place: str


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """One true class: its videos, how many of them are classified correctly, and a cell per prediction."""

    name: str
    count: int
    hits: int
    share: float
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class CellVideos:
    """The videos of one cell of the matrix."""

    place: str
    truth: str
    guess: str
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How many videos reached one stage between the lists and the scores."""

    count: int
    what: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AgreementPart:
    """One part of the bar that shows which streams are right; `start` sums the counts before it."""

    what: str
    style: str
    start: int
    count: int


def evaluation_pages() -> Pages:
    """Return what draws the pages of an evaluation."""
    return Pages(split=render_report, mean=render_splits)


def render_report(
    run: RunDir,
    manifest: Manifest,
    result: SplitResult,
    models: Mapping[str, TrainedModel],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> str:
    """Return the report of one split as HTML.

    Args:
        run: holds trainings and shards; whatever is missing there is left out of the page.
        manifest: of the run.
        result: of fuse-eval.
        models: stream -> the model that made its scores; a stream without one gets no maps.
        on_progress: called with how many of the telling videos are drawn, and how many there are.
    """
    analysis, answer, agreement = result.analysis, result.answer, result.analysis.agreement
    examples = video_cards(run, manifest, result, models, on_progress)
    left_out = {"tuning": result.tuning is None, "agreement": agreement is None}

    return render_page(
        "report.html.jinja",
        run_name=run.path.name,
        split=result.split,
        version=metadata.version("stin-pipe"),
        sections=[item for item in SECTIONS if not left_out.get(item[0])],
        metrics=result.metrics,
        manifest=manifest,
        data=result.data,
        analysis=analysis,
        literature=result.literature,
        how_made=result.how_made,
        num_classes=len(manifest.classes),
        names=answers_first(analysis),
        verdict=result.verdict,
        answer=analysis.answer,
        shows_top5=shows_top5(len(manifest.classes)),
        stages=data_stages(result.data),
        training=training_table(result.metrics["trainings"]),
        curves=[
            chart
            for members in result.trainings.values()
            for training in members
            for chart in training_charts(training)
        ],
        classes=sorted(analysis.classes, key=lambda row: (row.recall, row.name)),
        **_matrix_values(answer),
        links=source_links(run, Path(result.metrics["report"]).parent, answer.ids),
        agreement=[] if agreement is None else agreement_parts(agreement, result.data.test_scored),
        agreement_lists=[] if agreement is None else _agreement_lists(agreement),
        max_ids=MAX_IDS_SHOWN,
        reliability=[reliability_chart(name, found) for name, found in analysis.calibration.items()],
        tuning=result.tuning,
        tuning_chart=None if result.tuning is None else tuning_chart(result.tuning),
        videos=examples.groups,
        key_picture=examples.key_picture,
        no_pictures=examples.missing,
        failures=manifest.failed[:MAX_FAILURES_SHOWN],
    )


def _matrix_values(answer: Scores) -> dict[str, Any]:
    """Return what the template draws of the confusion matrix."""
    guesses = answer.scores.argmax(1)
    rows = matrix_rows(answer.class_names, answer.labels, guesses)
    return {
        "matrix": rows,
        "matrix_totals": np.array([[cell.count for cell in row.cells] for row in rows]).sum(0).tolist(),
        "matrix_left_out": len(np.union1d(answer.labels, guesses)) - len(rows),
        "matrix_size": _matrix_size(len(rows)),
        "cell_videos": cell_videos(answer),
    }


def answers_first(analysis: Analysis) -> list[str]:
    """Return what answered, with that first which decides: on a phone the last columns are out of sight."""
    return [analysis.answer, *(name for name in analysis.accuracies if name != analysis.answer)]


def matrix_rows(classes: tuple[str, ...], labels: np.ndarray, guesses: np.ndarray) -> list[MatrixRow]:
    """Return the confusion matrix without the classes that neither occur nor are predicted.

    Of more than `MAX_MATRIX_CLASSES`, those with the most errors (missed or wrongly predicted) are kept.

    Args:
        classes: names by label.
        labels: int64 (N,), true classes.
        guesses: int64 (N,), predicted classes.
    """
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, guesses), 1)
    mistakes = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)

    # Labels ascend again after the choice, so that rows and columns keep the order of the classes.
    present = np.union1d(labels, guesses)
    order = present[np.argsort(-mistakes[present], kind="stable")]
    present = sorted(int(label) for label in order[:MAX_MATRIX_CLASSES])

    rows = []
    for truth in present:
        total = int(counts[truth].sum())
        hits = int(counts[truth, truth])
        cells = []
        for guess in present:
            count = int(counts[truth, guess])
            kind = "r" if guess == truth else "w"
            # Ten steps of shade, since the page's policy forbids a style of its own for each cell.
            style = f"{kind} s{math.ceil(10 * count / total)}" if count else ""
            cells.append(Cell(count=count, style=style, place=_place(truth, guess)))
        rows.append(
            MatrixRow(
                name=classes[truth], count=total, hits=hits, share=hits / max(1, total), cells=tuple(cells)
            )
        )
    return rows


def cell_videos(answer: Scores) -> list[CellVideos]:
    """Return the videos of every cell of the matrix that has some, errors first."""
    ids: dict[tuple[int, int], list[str]] = {}
    for video_id, truth, guess in zip(answer.ids, answer.labels, answer.scores.argmax(1), strict=True):
        ids.setdefault((int(truth), int(guess)), []).append(video_id)
    return [
        CellVideos(
            place=_place(truth, guess),
            truth=answer.class_names[truth],
            guess=answer.class_names[guess],
            ids=tuple(found),
        )
        for (truth, guess), found in sorted(ids.items(), key=lambda item: (item[0][0] == item[0][1], item[0]))
    ]


def _place(truth: int, guess: int) -> str:
    return f"cell-{truth}-{guess}"


def data_stages(data: DataPath) -> list[Stage]:
    """Return how many videos reached each stage, from the lists to the scores."""

    def streams(counts: Mapping[str, int], word: str) -> str:
        if len(set(counts.values())) <= 1:
            return "".join(f"{count} {word}" for count in list(counts.values())[:1])
        return ", ".join(f"{name} {count} {word}" for name, count in counts.items())

    trained = ", ".join(
        text for text in (streams(data.trained, "trained on"), streams(data.held_out, "held out")) if text
    )
    return [
        Stage(count=data.listed, what="videos listed"),
        Stage(count=data.extracted, what="extracted", note=f"{data.failed} failed" if data.failed else ""),
        Stage(count=data.train, what="in the training list", note=trained),
        Stage(
            count=data.test_listed,
            what="in the test list",
            note=f"{data.test_failed} not extracted" if data.test_failed else "",
        ),
        Stage(count=data.test_scored, what="scored"),
    ]


def agreement_parts(agreement: Agreement, num_scored: int) -> list[AgreementPart]:
    """Return which streams are right how often, as parts of a bar; the counts sum to the scored videos."""
    alone = {name: len(ids) for name, ids in agreement.right_alone.items()}
    every, none = len(agreement.right_in_all), len(agreement.right_in_none)
    counts = [("all streams right" if len(alone) > 2 else "both streams right", "both fused", every)]
    counts += [
        (f"only {name} right", name if name in ("spatial", "temporal") else "other", count)
        for name, count in alone.items()
    ]

    # Of three or more streams (with scores from files) two can be right together.
    some = num_scored - every - none - sum(alone.values())
    if some:
        counts.append(("several streams right, but not all", "other", some))
    counts.append(("no stream right", "none", none))

    starts = np.cumsum([0, *(count for _, _, count in counts)])
    return [
        AgreementPart(what=what, style=style, start=int(start), count=count)
        for (what, style, count), start in zip(counts, starts, strict=False)
    ]


def tuning_chart(tuning: Tuning) -> Chart:
    """Return held-out top-1 over the share of the temporal stream, with the chosen share marked."""
    series = [(point.temporal_share, point.top1) for point in tuning.curve]
    return line_chart(
        "held-out top-1",
        {"fused": series},
        x_label="share of the temporal stream",
        y_label="held-out top-1, %",
        text="Held-out top-1 by the share of the temporal stream: "
        + "; ".join(f"{share:g}: {100 * top1:.1f} %" for share, top1 in series),
        chosen_x=tuning.temporal_share,
    )


def _agreement_lists(agreement: Agreement) -> list[tuple[str, tuple[str, ...]]]:
    return [
        *((f"Only the {name} stream is right", ids) for name, ids in agreement.right_alone.items()),
        ("No stream is right", agreement.right_in_none),
        ("Only the fusion is right", agreement.won_by_fusion),
        ("Right in a stream, wrong after fusion", agreement.lost_by_fusion),
    ]


def _matrix_size(num_classes: int) -> str:
    if num_classes > CROWD_OF_CLASSES:
        return "crowd"
    return "many" if num_classes > MANY_CLASSES else ""
