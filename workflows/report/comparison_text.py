"""What compare shows on the terminal; free of torch, so that it shows at once."""

from stin_pipe.stin.results.comparison import Comparison
from stin_pipe.stin.results.side_by_side import StreamTable
from stin_pipe.workflows.run.compared import RunComparison
from stin_pipe.workflows.terminal.output import Output

NUM_CLASSES_SHOWN = 8


def difference_text(item: Comparison) -> str:
    """Return a paired difference as one sentence."""
    low, high = item.top1.interval.to_json()
    return (
        f"{item.first} minus {item.second}: {100 * item.top1.value:+.1f} points of top-1 (95 % interval "
        f"{100 * low:+.1f} to {100 * high:+.1f}); videos that only {item.first} gets right: "
        f"{item.num_first_alone}, only {item.second}: {item.num_second_alone}; exact McNemar p = "
        f"{item.mcnemar_p:.2g}"
    )


def show_comparison(output: Output, result: RunComparison) -> None:
    """Print one table a stream with its paired differences, then the classes that differ most."""
    side_by_side = result.side_by_side
    for line in result.protocol_differences:
        output.warn(line)
    for name, count in side_by_side.num_left_out.items():
        if count:
            output.warn(f"{count} videos of {name} are missing from other results and do not count")

    for table in side_by_side.tables:
        output.table(
            f"{table.stream}, split {result.split}, {side_by_side.num_common} videos",
            ["result", "top-1", "95 % interval", "top-5", "mean class"],
            [
                [
                    item.name,
                    f"{item.accuracy.top1:.3f}",
                    f"{item.intervals['top1'].low:.3f} to {item.intervals['top1'].high:.3f}",
                    f"{item.accuracy.top5:.3f}",
                    f"{item.accuracy.mean_class:.3f}",
                ]
                for item in table.standings
            ],
        )
        for item in table.comparisons:
            output.show(difference_text(item))

    _show_classes(output, side_by_side.tables[0])


def _show_classes(output: Output, table: StreamTable) -> None:
    """Print the classes in which the last result differs most from the first."""
    first, last = table.standings[0].by_class, table.standings[-1].by_class
    order = sorted(range(len(first)), key=lambda row: (-abs(last[row] - first[row]), row))
    order = [row for row in order if last[row] != first[row]][:NUM_CLASSES_SHOWN]
    if order:
        output.table(
            f"{table.stream}: top-1 of the classes that differ most",
            ["class", "videos", *(item.name for item in table.standings)],
            [
                [
                    table.classes[row][0],
                    str(table.classes[row][1]),
                    *(f"{item.by_class[row]:.3f}" for item in table.standings),
                ]
                for row in order
            ],
        )
