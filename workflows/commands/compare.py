"""`stin-pipe compare`: two or more results side by side, with paired differences."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stin_pipe.workflows.run.compared import RunComparison, Subject, read_subject, with_one_stream
from stin_pipe.workflows.terminal.options import common_options
from stin_pipe.workflows.terminal.output import Output

if TYPE_CHECKING:
    from stin_pipe.stin.results.side_by_side import StreamTable

EXAMPLES = """\b
Examples:
  stin-pipe compare runs/plain runs/stin
  stin-pipe compare runs/seed0 runs/seed1 runs/seed2 --split 2
  stin-pipe compare runs/mine/fuse-eval/split1/fused.npz theirs.csv
"""
NUM_CLASSES_SHOWN = 8


@click.command(epilog=EXAMPLES)
@click.option("--split", default="1", help="Split of the runs.")
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the comparison as a page, too.",
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
def compare(output: Output, results: Sequence[Path], split: str, html_path: Path | None) -> None:
    """Compare RESULTS: run directories that fuse-eval has evaluated, or score files (.npz, .json, .csv).

    Videos are joined by id, and only those that all have count. Each later result is compared with the first:
    difference, 95 % interval (paired, over recordings), and the exact McNemar p. A score file has to name its
    labels and classes.
    """
    if len(results) < 2:
        raise click.UsageError("give two or more run directories or score files")
    if html_path is not None:
        check_page_path(html_path, results)
    found = compare_results(results, split=split)
    show_comparison(output, found)
    if html_path is not None:
        write_page(found, html_path)
        output.show(f"page: {html_path}")
    output.result(found.to_json() | {"html": None if html_path is None else str(html_path)})


def check_page_path(path: Path, results: Sequence[Path]) -> None:
    """Refuse a name for the page that would replace something else or make folders by mistake.

    Raises:
        StinPipeError: the file is one of the results, is not named as a page, or its folder's parent is not
            there.
    """
    from stin_pipe.stin.shards.errors import StinPipeError

    if path.resolve() in {item.resolve() for item in results}:
        raise StinPipeError(f"--html {path}: this is one of the results; give another name")
    if path.suffix.lower() not in (".html", ".htm"):
        raise StinPipeError(f"--html {path}: a page's name must end in .html or .htm; give another name")
    folder = path.absolute().parent
    if not folder.is_dir() and not folder.parent.is_dir():
        raise StinPipeError(
            f"--html {path}: there is no folder {folder.parent}; make it, or give another name"
        )


def write_page(result: RunComparison, path: Path) -> None:
    """Write the comparison as one HTML file; see ``check_page_path`` for where."""
    from stin_pipe.stin.shards.publish import publish_bytes
    from stin_pipe.workflows.report.comparison import render_comparison

    path.parent.mkdir(exist_ok=True)
    publish_bytes(path, render_comparison(result).encode())


def compare_results(results: Sequence[Path], *, split: str) -> RunComparison:
    """Read the results and put them side by side.

    Raises:
        StinPipeError: a run is not evaluated, a file cannot be read, or they do not match.
    """
    from stin_pipe.stin.results.side_by_side import stand_side_by_side

    subjects = [read_subject(path, name, split) for path, name in zip(results, _names(results), strict=True)]
    if any(not item.metrics for item in subjects):  # a file has one stream, whatever a run calls it
        subjects = [with_one_stream(item) for item in subjects]
    recordings: dict[str, str] = {}
    for item in reversed(subjects):
        recordings |= item.recordings
    return RunComparison(
        split=split,
        subjects=tuple(subjects),
        found=stand_side_by_side([item.contender for item in subjects], recordings=recordings),
        protocol_differences=_protocol_differences(subjects),
    )


def show_comparison(output: Output, result: RunComparison) -> None:
    """Print a table a stream, and the paired differences."""
    found = result.found
    for line in result.protocol_differences:
        output.warn(line)
    for name, count in found.num_left_out.items():
        if count:
            output.warn(f"{count} videos of {name} are not in all results and do not count")
    for table in found.tables:
        output.table(
            f"{table.stream}, split {result.split}, {found.num_common} videos",
            ["", "top-1", "95 %", "top-5", "mean class"],
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
            low, high = item.top1.interval.to_json()
            output.show(
                f"{item.first} less {item.second}: {100 * item.top1.value:+.1f} points of top-1 "
                f"({100 * low:+.1f} to {100 * high:+.1f}), right alone {item.num_first_alone} and "
                f"{item.num_second_alone} videos, exact McNemar p {item.mcnemar_p:.2g}"
            )
    _show_classes(output, found.tables[0])


def _show_classes(output: Output, table: "StreamTable") -> None:
    """Print the classes in which the last result differs most from the first."""
    first, last = table.standings[0].by_class, table.standings[-1].by_class
    order = sorted(range(len(first)), key=lambda place: (-abs(last[place] - first[place]), place))
    order = [place for place in order if last[place] != first[place]][:NUM_CLASSES_SHOWN]
    if order:
        output.table(
            f"{table.stream}: classes that differ most, share right",
            ["class", "videos", *(item.name for item in table.standings)],
            [
                [
                    table.classes[place][0],
                    str(table.classes[place][1]),
                    *(f"{item.by_class[place]:.3f}" for item in table.standings),
                ]
                for place in order
            ],
        )


def _names(paths: Sequence[Path]) -> list[str]:
    """Name each result as shortly as tells them apart."""
    resolved = [path.absolute() for path in paths]
    for parts in range(1, max(len(path.parts) for path in resolved)):
        names = ["/".join(path.parts[-parts:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    raise click.UsageError("the same result is given more than once")


def _protocol_differences(subjects: Sequence[Subject]) -> tuple[str, ...]:
    """Say where runs were evaluated otherwise than the first one."""
    known = [item for item in subjects if item.metrics]
    if not known:
        return ()
    base, said = known[0], []
    for item in known[1:]:
        for key in ("segments", "crops", "precision", "aux"):
            ours, theirs = item.metrics["protocol"].get(key), base.metrics["protocol"].get(key)
            if ours != theirs:
                names = item.contender.name, base.contender.name
                said.append(f"{names[0]} was evaluated with {key} {ours}, {names[1]} with {theirs}")
        for key in ("fusion_weights", "fusion"):
            if item.metrics[key] != base.metrics[key]:
                names = item.contender.name, base.contender.name
                said.append(
                    f"{names[0]} has {key.replace('_', ' ')} {item.metrics[key]}, "
                    f"{names[1]} {base.metrics[key]}"
                )
    return tuple(said)
