"""`stin-pipe status`: how far a run is, while it goes on and after."""

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
    for training in state.trainings:
        output.show(_training_line(training))
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


def _training_line(state: "TrainingState") -> str:
    if state.progress == "damaged":
        return state.line
    name, value = ("held-out top-1", state.val_top1) if state.progress == "done" else ("loss", state.loss)
    line = f"{state.line}, {state.steps} steps" + (f", {name} {value:.3f}" if value is not None else "")
    return line + (f", trained on an older list ({state.list_change})" if state.list_change else "")


def _evaluation_line(state: "EvaluationState") -> str:
    if state.progress != "done":
        return state.line
    return f"{state.line}, fused top-1 {state.fused_top1:.3f}, {state.report}"
