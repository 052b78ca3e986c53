"""What compare shows on the terminal; free of torch, so that it shows at once."""

from collections.abc import Sequence

from stin_pipe.stin.results.comparison import Comparison
from stin_pipe.stin.results.numbers import p_value, percent, points
from stin_pipe.stin.results.side_by_side import StreamTable
from stin_pipe.stin.results.verdict import is_significant
from stin_pipe.workflows.run.compared import RunComparison
from stin_pipe.workflows.terminal.output import Output

NUM_CLASSES_SHOWN = 8
MIN_CLASSES_OF_TOP5 = 15
METRIC_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class": "mean class",
    "top1_of_listed": "top-1 of listed",
}


def shows_top5(num_classes: int) -> bool:
    """Tell whether top-5 says anything: of ten classes, five guesses are half of them."""
    return num_classes >= MIN_CLASSES_OF_TOP5


def show_differences(output: Output, comparisons: Sequence[Comparison]) -> None:
    """Print paired differences as a table that says of each whether it is more than noise."""
    output.table(
        "paired differences of top-1, in points",
        ["", "difference", "95 % interval", "only first right", "only second right", "McNemar p", "reading"],
        [
            [
                f"{item.first} − {item.second}",
                points(item.top1.value),
                f"{points(item.top1.interval.low)} to {points(item.top1.interval.high)}",
                str(item.num_first_alone),
                str(item.num_second_alone),
                p_value(item.mcnemar_p),
                reading(item),
            ]
            for item in comparisons
        ],
    )


def reading(item: Comparison) -> str:
    """Return which of the two is better, in words, or that it is open."""
    if not is_significant(item):
        return "within noise"
    return f"{item.first if item.top1.value > 0 else item.second} is better"


def show_comparison(output: Output, result: RunComparison) -> None:
    """Print one table a stream with its paired differences, then the classes that differ most."""
    side_by_side = result.side_by_side
    for name, count in side_by_side.num_left_out.items():
        if count:
            output.warn(f"{count} videos of {name} are missing from other results and do not count")

    for title, differences in (
        ("evaluated differently", result.protocol_differences),
        ("trained differently", result.training_differences),
    ):
        if differences:
            output.table(
                title,
                ["setting", *side_by_side.names],
                [
                    [item.name, *(item.values.get(name) or "–" for name in side_by_side.names)]
                    for item in differences
                ],
            )

    columns = ["top5", "mean_class"] if shows_top5(side_by_side.num_classes) else ["mean_class"]
    for table in side_by_side.tables:
        output.table(
            f"{table.stream}, split {result.split}, {side_by_side.num_common} videos, in per cent",
            ["result", "top-1", "95 % interval", *(METRIC_NAMES[name] for name in columns)],
            [
                [
                    item.name,
                    percent(item.accuracy.top1),
                    f"{percent(item.intervals['top1'].low)} to {percent(item.intervals['top1'].high)}",
                    *(percent(getattr(item.accuracy, name)) for name in columns),
                ]
                for item in table.standings
            ],
        )
        show_differences(output, table.comparisons)

    _show_classes(output, side_by_side.tables[0])


def _show_classes(output: Output, table: StreamTable) -> None:
    """Print the classes in which the last result differs most from the first."""
    first, last = table.standings[0].by_class, table.standings[-1].by_class
    order = sorted(range(len(first)), key=lambda row: (-abs(last[row] - first[row]), row))
    order = [row for row in order if last[row] != first[row]][:NUM_CLASSES_SHOWN]
    if order:
        output.table(
            f"{table.stream}: top-1 of the classes that differ most, in per cent",
            ["class", "videos", *(item.name for item in table.standings)],
            [
                [
                    table.classes[row][0],
                    str(table.classes[row][1]),
                    *(percent(item.by_class[row]) for item in table.standings),
                ]
                for row in order
            ],
        )
