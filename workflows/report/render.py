"""The report of one split: one HTML file that opens offline, every name from outside escaped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from workflows.report.curves import Curve, training_curves

if TYPE_CHECKING:
    from stin.shards.schema import Manifest
    from workflows.fuse_eval import SplitResult
    from workflows.run_dir import RunDir

MAX_FAILURES_SHOWN = 200
MAX_CONFUSIONS = 10


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: how many test videos, and the share that each stream gets right."""

    name: str
    count: int
    spatial: float
    temporal: float
    fused: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Videos of `truth` that the fusion calls `guess`."""

    truth: str
    guess: str
    count: int
    share: float


def render_report(run: "RunDir", manifest: "Manifest", result: "SplitResult") -> str:
    """Return the report of one split as HTML."""
    environment = Environment(
        loader=PackageLoader("workflows", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["percent"] = lambda share: "-" if share != share else f"{100 * share:.1f}"
    template = environment.get_template("report.html.jinja")
    matrix = confusion_matrix(result.fused.labels, result.fused.scores, len(manifest.classes))
    present = [
        index for index in range(len(manifest.classes)) if matrix[index].sum() or matrix[:, index].sum()
    ]
    return template.render(
        run_name=run.path.name,
        split=result.split,
        metrics=result.metrics,
        manifest=manifest,
        num_train=len(manifest.subset(result.split, "train")),
        num_frames=sum(video.num_frames for video in manifest.videos.values()),
        rows=class_rows(manifest.classes, result),
        matrix=[_matrix_row(manifest.classes, matrix, index, present) for index in present],
        matrix_classes=[manifest.classes[index] for index in present],
        confusions=most_confused(manifest.classes, matrix),
        curves=_curves(run, result.split),
        agreement=stream_agreement(result),
        failures=manifest.failed[:MAX_FAILURES_SHOWN],
        num_failures=len(manifest.failed),
    )


def confusion_matrix(labels: np.ndarray, scores: np.ndarray, num_classes: int) -> np.ndarray:
    """Count (truth, guess) pairs, int64 (C, C)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, scores.argmax(1)), 1)
    return matrix


def class_rows(classes: tuple[str, ...], result: "SplitResult") -> list[ClassRow]:
    """Return the classes that have test videos, the worst fused first."""
    labels = result.fused.labels
    right = {
        "spatial": result.spatial.logits.argmax(1) == result.spatial.labels,
        "temporal": result.temporal.logits.argmax(1) == result.temporal.labels,
        "fused": result.fused.scores.argmax(1) == labels,
    }
    by_id = {
        "spatial": dict(zip(result.spatial.ids, right["spatial"], strict=True)),
        "temporal": dict(zip(result.temporal.ids, right["temporal"], strict=True)),
        "fused": dict(zip(result.fused.ids, right["fused"], strict=True)),
    }
    rows = []
    for label, name in enumerate(classes):
        ids = [result.fused.ids[index] for index in np.flatnonzero(labels == label)]
        if ids:
            shares = {stream: float(np.mean([hits[i] for i in ids])) for stream, hits in by_id.items()}
            rows.append(ClassRow(name=name, count=len(ids), **shares))
    return sorted(rows, key=lambda row: (row.fused, row.name))


def most_confused(classes: tuple[str, ...], matrix: np.ndarray) -> list[Confusion]:
    """Return the pairs of classes that the fusion mixes up most."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(index), len(classes)) for index in order]
    return [
        Confusion(
            truth=classes[truth],
            guess=classes[guess],
            count=int(wrong[truth, guess]),
            share=float(wrong[truth, guess] / matrix[truth].sum()),
        )
        for truth, guess in pairs
        if wrong[truth, guess]
    ]


def stream_agreement(result: "SplitResult") -> dict[str, int]:
    """Count the videos that both streams, one alone, or none gets right."""
    spatial = dict(
        zip(result.spatial.ids, result.spatial.logits.argmax(1) == result.spatial.labels, strict=True)
    )
    temporal = dict(
        zip(result.temporal.ids, result.temporal.logits.argmax(1) == result.temporal.labels, strict=True)
    )
    pairs = [(bool(spatial[video]), bool(temporal[video])) for video in result.fused.ids]
    return {
        "both streams": pairs.count((True, True)),
        "the spatial stream alone": pairs.count((True, False)),
        "the temporal stream alone": pairs.count((False, True)),
        "neither": pairs.count((False, False)),
    }


def _matrix_row(
    classes: tuple[str, ...], matrix: np.ndarray, truth: int, present: list[int]
) -> dict[str, Any]:
    total = max(1, int(matrix[truth].sum()))
    cells = [
        {"guess": classes[guess], "count": int(matrix[truth, guess]), "share": matrix[truth, guess] / total}
        for guess in present
    ]
    return {"name": classes[truth], "cells": cells}


def _curves(run: "RunDir", split: str) -> list[Curve]:
    return [
        curve
        for stream in ("spatial", "temporal")
        for curve in training_curves(run.training(stream, split) / "metrics.jsonl", stream)
    ]
