"""`stin-pipe compare`: two or more results side by side, with paired differences."""

from collections.abc import Sequence
from pathlib import Path

import click

from stin_pipe.workflows.terminal.options import common_options, usage_errors
from stin_pipe.workflows.terminal.output import Output

EXAMPLES = """\b
Examples:
  stin-pipe compare runs/plain runs/stin
  stin-pipe compare runs/seed0 runs/seed1 runs/seed2 --split 2
  stin-pipe compare runs/mine:seed0 runs/mine:seed1 runs/mine:three-seeds
  stin-pipe compare runs/mine/fuse-eval/split1/fused.npz theirs.csv
"""


@click.command(epilog=EXAMPLES)
@click.option("--split", default="1", help="Split of the runs to compare.")
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the comparison as an HTML page.",
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@common_options
def compare(output: Output, results: Sequence[Path], split: str, html_path: Path | None) -> None:
    """Compare RESULTS: runs evaluated by fuse-eval, RUN:NAME, or score files (.npz, .json, .csv).

    RUN:NAME is an evaluation of a run, or a training that fuse-eval has scored; several of one run can be
    given. Where trainings differ in their settings, these are listed.

    Videos are joined by id, and only those that all results have count. Every further result is compared with
    the first: difference of top-1, its 95 % interval (paired by video, over recordings), and the exact
    McNemar p. A score file must hold its labels and classes.
    """
    from stin_pipe.stin.shards.publish import publish_bytes
    from stin_pipe.workflows.report.comparison import check_page_path, render_comparison
    from stin_pipe.workflows.report.comparison_text import show_comparison
    from stin_pipe.workflows.run.compared import compare_results

    if html_path is not None:
        check_page_path(html_path, results)
    with usage_errors():
        comparison = compare_results(results, split=split)
    show_comparison(output, comparison)
    if html_path is not None:
        html_path.parent.mkdir(exist_ok=True)
        publish_bytes(html_path, render_comparison(comparison).encode())
        output.show(f"page: {html_path}")
    output.result(comparison.to_json() | {"html": None if html_path is None else str(html_path)})
