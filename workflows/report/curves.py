"""Training curves as points of an SVG line."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 320.0, 120.0
MAX_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve: `points` is an SVG polyline in a box of 320 x 120; low and high label its axis."""

    title: str
    points: str
    low: float
    high: float
    last: float
    last_step: int


def training_curves(path: Path, stream: str) -> list[Curve]:
    """Return the loss and the held-out top-1 that a metrics.jsonl holds; none when it is missing."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    curves = []
    wanted = (("train", "loss", "training loss"), ("val", "top1", "top-1 on held-out training videos"))
    for kind, key, title in wanted:
        series = [
            (int(record["step"]), float(record[key]))
            for record in records
            if record.get("kind") == kind and math.isfinite(record[key])
        ]
        if len(series) >= 2:
            curves.append(_curve(f"{stream}: {title}", series, from_zero=kind == "val"))
    return curves


def _curve(title: str, series: Sequence[tuple[int, float]], *, from_zero: bool) -> Curve:
    series = _thinned(series)
    values = [value for _, value in series]
    low, high = (0.0, 1.0) if from_zero else (min(values), max(values))
    first_step, last_step = series[0][0], series[-1][0]
    span = (high - low) or 1.0
    points = " ".join(
        f"{WIDTH * (step - first_step) / max(1, last_step - first_step):.1f},"
        f"{HEIGHT * (1 - (value - low) / span):.1f}"
        for step, value in series
    )
    return Curve(title=title, points=points, low=low, high=high, last=values[-1], last_step=last_step)


def _thinned(series: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Average neighbouring values so that a long training stays a small picture; the last point is kept."""
    width = -(-len(series) // MAX_POINTS)
    if width == 1:
        return list(series)
    blocks = [series[start : start + width] for start in range(0, len(series), width)]
    return [(block[-1][0], sum(value for _, value in block) / len(block)) for block in blocks]
