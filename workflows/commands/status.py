"""`stin-pipe status`: how far a run is, while it goes on and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output

if TYPE_CHECKING:
    from stin_pipe.workflows.run.stages import EvaluationState, ExtractState, TrainingState

EXAMPLES = """\b
Example:
  stin-pipe status --run runs/mine
"""


@click.command(epilog=EXAMPLES)
@run_option()
@common_options
def status(output: Output, run_path: Path) -> None:
    """Show how far each stage of a run is; works from any terminal or node while the run goes on."""
    from stin_pipe.workflows.run.stages import read_status

    state = read_status(run_path)
    output.show(f"run {state.run.path}")
    _show_extract(output, state.extract)
    if state.trainings:
        _show_trainings(output, state.trainings)
    for evaluation in state.evaluations:
        output.show(_evaluation_line(evaluation))

    # The next step is what people ask for most when they come back to a run.
    left = [stage for stage in state.chain if stage.progress != "done"]
    done = f"chain: {len(state.chain) - len(left)} of {len(state.chain)} stages done"
    output.show(done + (f"; next: {left[0].name} ({left[0].progress})" if left else ""))
    output.result(state.to_json())


def _show_extract(output: Output, state: "ExtractState") -> None:
    output.show(
        f"{state.line}: {state.num_done} of {state.num_videos} videos done, "
        f"{state.num_failed} failed, {state.num_left} to do"
        + (f" ({state.num_in_hand} of them in progress)" if state.num_in_hand else "")
    )
    if state.streams != "both":
        what, other = {"rgb": ("frames", "flow"), "flow": ("flow", "frames")}[state.streams]
        output.show(f"  {what} alone; the same command with --streams both adds the {other}")
    for reason, count in state.failures.items():
        output.show(f"  failed, {reason}: {count}")
    if state.failures_file:
        output.show(
            f"  which and why: {state.failures_file}; the same extract or import command with "
            "--retry-failed tries them again"
        )

    if state.num_damaged:
        output.show(f"  damaged in part, kept with what could be decoded: {state.num_damaged}")
    if state.num_unlisted:
        output.show(f"  no longer in the folder or the lists, and not used: {state.num_unlisted}")
    if state.changed_sources:
        output.show(
            f"  files with another size or time than at their extraction: {len(state.changed_sources)} "
            f"(first: {state.changed_sources[0]}); the same extract command compares them"
        )
    for message in state.broken:
        output.show(f"  broken: {message}")


def _show_trainings(output: Output, trainings: Sequence["TrainingState"]) -> None:
    rows = [("trainings:", "recipe", "backbone", "start", "epochs", "seed", "held-out", "test top-1")]
    for item in trainings:
        place = item.training if item.split == "1" else f"{item.training}, split {item.split}"
        rows.append(
            (
                f"  {item.stream} {place}" + ("" if item.progress == "done" else f" ({item.progress})"),
                item.recipe or "-",
                item.backbone or "-",
                Path(item.init).name if item.init else "scratch",
                "-" if item.epochs is None else str(item.epochs),
                "-" if item.seed is None else str(item.seed),
                _share(item.val_top1),
                _share(item.test_top1),
            )
        )
    # Aligned text, not a table with borders: all of it fits into 80 columns.
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        output.show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    for item in trainings:
        if item.progress == "damaged":
            output.show(item.line)
        elif item.progress != "done" and item.loss is not None:
            output.show(f"{item.line}, loss {item.loss:.3f}")
        elif item.list_change:
            output.show(f"{item.line}, trained on an older list ({item.list_change})")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _evaluation_line(state: "EvaluationState") -> str:
    if state.progress != "done":
        return state.line
    return f"{state.line}, {state.detail}, {state.report}"
