"""The page of `compare`: results side by side, paired differences, and the classes in which they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stin_pipe.stin.results.comparison import Difference
from stin_pipe.stin.results.side_by_side import StreamTable
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.report.comparison_text import shows_top5
from stin_pipe.workflows.report.page import render_page
from stin_pipe.workflows.run.compared import RunComparison

WHISKER_MARGIN = 0.02


@dataclass(frozen=True, kw_only=True)
class ClassDifference:
    """One class: its videos, the accuracy of each contender, and the lead of the last over the first."""

    name: str
    count: int
    shares: tuple[float, ...]
    lead: float


@dataclass(frozen=True, kw_only=True)
class Made:
    """One contender: how many of its videos are left out, and how its numbers were obtained."""

    name: str
    path: str
    num_left_out: int
    how: tuple[str, ...]


def check_page_path(path: Path, results: Sequence[Path]) -> None:
    """Refuse a path for the page that would replace something else, or whose folder looks mistyped.

    Raises:
        StinPipeError: the file is one of the results, is not named as a page, or the folder above its folder
            does not exist.
    """
    if path.resolve() in {item.resolve() for item in results}:
        raise StinPipeError(f"--html {path}: this is one of the results; give another name")
    if path.suffix.lower() not in (".html", ".htm"):
        raise StinPipeError(f"--html {path}: a page's name must end in .html or .htm; give another name")
    folder = path.absolute().parent
    if not folder.is_dir() and not folder.parent.is_dir():
        raise StinPipeError(
            f"--html {path}: there is no folder {folder.parent}; make it, or give another name"
        )


def render_comparison(result: RunComparison) -> str:
    """Return the comparison as one HTML file that opens offline."""
    # One reach for all lines of the page, so that their lengths can be compared.
    side_by_side = result.side_by_side
    widest = max(
        (
            abs(edge)
            for table in side_by_side.tables
            for item in table.comparisons
            for edge in _edges(item.top1)
        ),
        default=0.0,
    )
    made = [
        Made(
            name=item.contender.name,
            path=str(item.path),
            num_left_out=side_by_side.num_left_out[item.contender.name],
            how=tuple(item.metrics.get("how_made", ())),  # score files of other programs do not say
        )
        for item in result.subjects
    ]

    return render_page(
        "comparison.html.jinja",
        names=side_by_side.names,
        split=result.split,
        num_common=side_by_side.num_common,
        num_classes=len(side_by_side.tables[0].classes),
        shows_top5=shows_top5(side_by_side.num_classes),
        tables=[(table, class_differences(table)) for table in side_by_side.tables],
        differences=[
            ("They were evaluated differently", result.protocol_differences),
            ("Their models were trained differently", result.training_differences),
        ],
        made=made,
        reach=min(1.0, widest + WHISKER_MARGIN),
        version=metadata.version("stin-pipe"),
    )


def class_differences(table: StreamTable) -> list[ClassDifference]:
    """Return the classes of one stream; the largest difference between last and first comes first."""
    rows = [
        ClassDifference(
            name=name,
            count=count,
            shares=tuple(item.by_class[label] for item in table.standings),
            lead=table.standings[-1].by_class[label] - table.standings[0].by_class[label],
        )
        for label, (name, count) in enumerate(table.classes)
    ]
    return sorted(rows, key=lambda row: (-abs(row.lead), row.name))


def _edges(difference: Difference) -> Sequence[float]:
    return difference.interval.low, difference.interval.high
