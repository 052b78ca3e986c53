"""Charts as geometry: lines, marks and ticks in the units of an SVG box; the template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.stin.results.calibration import Calibration
from stin_pipe.stin.results.stored import is_number, read_lines

WIDTH, HEIGHT = 320.0, 150.0
MAX_POINTS = 200
MARK_RADIUS = 3.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: `points` is an SVG polyline or "", `marks` are (x, y, radius) of its dots."""

    style: str
    name: str
    points: str
    marks: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart in a box of WIDTH x HEIGHT; ticks are (position, label).

    Attributes:
        title: what is drawn.
        text: what it shows, in words, for screen readers.
        lines: drawn in this order.
        x_ticks, y_ticks: positions in the units of the box, y pointing down.
        x_label: meaning of the horizontal axis.
        diagonal: whether to draw the line on which both axes are equal.
    """

    title: str
    text: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    diagonal: bool = False


Series = Sequence[tuple[float, float]]


def training_charts(folder: Path, stream: str) -> list[Chart]:
    """Return the loss and the held-out top-1 of a training; nothing where its folder has no log."""
    records = read_lines(folder / "metrics.jsonl")
    charts = []
    for kind, key, title in (("train", "loss", "training loss"), ("val", "top1", "held-out top-1")):
        series = [
            (float(record["step"]), float(record[key]))
            for record in records
            if record.get("kind") == kind and is_number(record.get("step")) and is_number(record.get(key))
        ]
        if len(series) >= 2:
            charts.append(_training_chart(series, stream, title, share=kind == "val"))
    return charts


def reliability_chart(name: str, calibration: Calibration) -> Chart:
    """Return accuracy over confidence; the larger a dot, the more videos."""
    bins = [item for item in calibration.bins if item.count]
    most = max(item.count for item in bins)
    scale = _Scale(x=(0.0, 1.0), y=(0.0, 1.0))

    # By the root, so that a dot's area stands for its videos.
    series = [(item.confidence, item.accuracy) for item in bins]
    radii = [1.5 + 4.5 * math.sqrt(item.count / most) for item in bins]
    marks = tuple(
        (*scale.place(*point), round(radius, 1)) for point, radius in zip(series, radii, strict=True)
    )

    words = "; ".join(
        f"confidence {item.confidence:.2f}, accuracy {item.accuracy:.2f} ({item.count} videos)"
        for item in bins
    )
    return Chart(
        title=name,
        text=f"Reliability of {name}: {words}",
        lines=(Line(style=name, name=name, points="", marks=marks),),
        x_ticks=scale.x_ticks((0.0, 0.5, 1.0), percent=True),
        y_ticks=scale.y_ticks((0.0, 0.5, 1.0), percent=True),
        x_label="x: confidence, y: accuracy, per cent",
        diagonal=True,
    )


def line_chart(
    title: str, lines: Mapping[str, Series], *, x_label: str, text: str, chosen_x: float | None = None
) -> Chart:
    """Return lines of shares (0..1) by name, which is also their style; a dot marks the chosen x.

    Raises:
        ValueError: if a line has fewer than 2 points.
    """
    if any(len(series) < 2 for series in lines.values()):
        raise ValueError("a line needs at least 2 points, got fewer")

    values = [point for series in lines.values() for point in series]
    xs, ys = [x for x, _ in values], [y for _, y in values]
    low, high = _round_range(min(ys), max(ys))
    scale = _Scale(x=(min(xs), max(xs)), y=(low, high))

    return Chart(
        title=title,
        text=text,
        lines=tuple(
            Line(
                style=name,
                name=name,
                points=scale.points(series),
                marks=tuple((*scale.place(x, y), MARK_RADIUS) for x, y in series if x == chosen_x),
            )
            for name, series in lines.items()
        ),
        x_ticks=scale.x_ticks((min(xs), (min(xs) + max(xs)) / 2, max(xs))),
        y_ticks=scale.y_ticks((low, (low + high) / 2, high), percent=True),
        x_label=x_label,
    )


def _training_chart(series: Series, stream: str, title: str, *, share: bool) -> Chart:
    first, last = series[0], series[-1]
    best = max(value for _, value in series) if share else min(value for _, value in series)

    # The text gives the numbers before thinning; the line's range is that of what is drawn.
    series = _thinned(series)
    values = [value for _, value in series]
    low, high = (0.0, 1.0) if share else _round_range(min(values), max(values))
    scale = _Scale(x=(first[0], last[0]), y=(low, high))
    return Chart(
        title=f"{stream}: {title}",
        text=f"{stream}: {title} from {first[1]:.3g} at step {first[0]:.0f} to {last[1]:.3g} at step "
        f"{last[0]:.0f}; best {best:.3g}",
        lines=(Line(style=stream, name=stream, points=scale.points(series)),),
        x_ticks=scale.x_ticks((first[0], last[0])),
        y_ticks=scale.y_ticks((low, (low + high) / 2, high), percent=share),
        x_label="step",
    )


@dataclass(frozen=True, kw_only=True)
class _Scale:
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return round(WIDTH * across, 1), round(HEIGHT * (1 - up), 1)

    def points(self, series: Series) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in (self.place(*point) for point in series))

    def x_ticks(self, values: Sequence[float], *, percent: bool = False) -> tuple[tuple[float, str], ...]:
        return tuple((self.place(value, self.y[0])[0], _label(value, percent)) for value in values)

    def y_ticks(self, values: Sequence[float], *, percent: bool = False) -> tuple[tuple[float, str], ...]:
        return tuple((self.place(self.x[0], value)[1], _label(value, percent)) for value in values)


def _label(value: float, percent: bool) -> str:
    return f"{100 * value:.3g}" if percent else f"{value:.4g}"


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to round numbers; never empty."""
    unit = 10.0 ** math.floor(math.log10(max(high - low, abs(high) * 0.01, 1e-9))) / 2
    low, high = math.floor(low / unit) * unit, math.ceil(high / unit) * unit
    return low, high if high > low else low + unit


def _thinned(series: Series) -> Series:
    """Average neighbouring values, so that a long training stays a small picture; the last step is kept."""
    width = -(-len(series) // MAX_POINTS)
    if width == 1:
        return series
    blocks = [series[start : start + width] for start in range(0, len(series), width)]
    return [(block[-1][0], sum(value for _, value in block) / len(block)) for block in blocks]
