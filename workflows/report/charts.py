"""Charts as geometry: lines, marks and ticks in the units of an SVG box; the template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stin_pipe.stin.results.calibration import Calibration
from stin_pipe.stin.results.numbers import percent
from stin_pipe.stin.results.trained import DEFAULT_NAME, Curve, Training

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
    whiskers: tuple[tuple[float, float, float], ...] = ()
    """Vertical intervals: x, and y of both ends."""
    is_faint: bool = False
    """Whether another line of the same style is the one to look at."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart in a box of WIDTH x HEIGHT; ticks are (position, label).

    Attributes:
        title: what is drawn.
        text: what it shows, in words, for screen readers.
        lines: drawn in this order.
        x_ticks, y_ticks: positions in the units of the box, y pointing down.
        x_label, y_label: meaning of the axes.
        diagonal: whether to draw the line on which both axes are equal.
    """

    title: str
    text: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    y_label: str
    diagonal: bool = False


Series = Sequence[tuple[float, float]]


def training_charts(training: Training) -> list[Chart]:
    """Return the losses and the accuracies of a training, on the training and the held-out part."""
    charts = []
    for metric, title in (("loss", "loss"), ("top1", "top-1")):
        curves = [curve for curve in training.curves if curve.metric == metric and len(curve.steps) >= 2]
        if curves:
            charts.append(_training_chart(curves, training, title, share=metric == "top1"))
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

    whiskers = tuple(
        (
            scale.place(item.confidence, 0)[0],
            scale.place(0, item.interval.low)[1],
            scale.place(0, item.interval.high)[1],
        )
        for item in bins
    )

    words = "; ".join(
        f"confidence {percent(item.confidence)} %, accuracy {percent(item.accuracy)} % (95 % interval "
        f"{percent(item.interval.low)} to {percent(item.interval.high)} %, {item.count} videos)"
        for item in bins
    )
    return Chart(
        title=name,
        text=f"Reliability of {name}: {words}",
        lines=(
            Line(style=name, name=f"n = {calibration.num_videos}", points="", marks=marks, whiskers=whiskers),
        ),
        x_ticks=scale.x_ticks((0.0, 0.5, 1.0), percent=True),
        y_ticks=scale.y_ticks((0.0, 0.5, 1.0), percent=True),
        x_label="confidence, %",
        y_label="accuracy, %",
        diagonal=True,
    )


def line_chart(
    title: str,
    lines: Mapping[str, Series],
    *,
    x_label: str,
    y_label: str,
    text: str,
    chosen_x: float | None = None,
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
        y_label=y_label,
    )


_PARTS = {"train": "training batches", "val": "held out"}


def _training_chart(curves: Sequence[Curve], training: Training, title: str, *, share: bool) -> Chart:
    # The texts give the numbers before thinning; the range is that of what is drawn.
    series = {curve: _thinned([*zip(curve.steps, curve.values, strict=True)]) for curve in curves}
    values = [value for points in series.values() for _, value in points]
    low, high = (0.0, 1.0) if share else _round_range(min(values), max(values))
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    scale = _Scale(x=(float(first), float(last)), y=(low, high))

    name = training.stream if training.name == DEFAULT_NAME else f"{training.stream} {training.name}"
    return Chart(
        title=f"{name}: {title}",
        text=f"{name}: {title}; " + "; ".join(_curve_text(curve, share=share) for curve in curves),
        lines=tuple(
            Line(
                style=training.stream,
                name=_part_text(curve),
                points=scale.points(points),
                is_faint=curve.part == "train",
            )
            for curve, points in series.items()
        ),
        x_ticks=scale.x_ticks((first, last)),
        y_ticks=scale.y_ticks((low, (low + high) / 2, high), percent=share),
        x_label="step",
        y_label="top-1, %" if share else "loss",
    )


def _part_text(curve: Curve) -> str:
    number = "" if curve.num_videos is None else f" (n = {curve.num_videos})"
    return f"{_PARTS[curve.part]}{number}"


def _curve_text(curve: Curve, *, share: bool) -> str:
    numbers = [
        f"{100 * value:.1f} %" if share else f"{value:.3g}"
        for value in (curve.values[0], curve.values[-1], curve.best)
    ]
    return (
        f"{_part_text(curve)} from {numbers[0]} at step {curve.steps[0]} to {numbers[1]} at step "
        f"{curve.steps[-1]}, best {numbers[2]}"
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
