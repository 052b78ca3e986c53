"""`stin-pipe status`: how far a run is, while it goes on and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.run.stage_state import evaluation_state, extract_state, manifest_now, training_state
from stin_pipe.workflows.run.stages import chain_stages, recorded_splits
from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir

EXAMPLES = """\b
Example:
  stin-pipe status --run runs/mine
"""


@click.command(epilog=EXAMPLES)
@run_option()
@common_options
def status(output: Output, run_path: Path) -> None:
    """Show how far each stage of a run is; works from any terminal or node while the run goes on."""
    from stin_pipe.workflows.run.run_dir import open_run

    run = open_run(run_path)
    extract = extract_state(run)
    manifest = manifest_now(run)
    trainings = [training_state(path, manifest) for path in sorted(run.path.glob("train-*/split*"))]
    evaluations = [evaluation_state(path) for path in sorted(run.path.glob("fuse-eval/split*"))]
    _show(output, run, extract, trainings, evaluations)
    stages = chain_stages(run, recorded_splits(run))
    left = [stage for stage in stages if stage.progress != "done"]
    output.show(
        f"chain: {len(stages) - len(left)} of {len(stages)} stages done"
        + (f"; next: {left[0].name} ({left[0].progress})" if left else "")
    )
    output.result(
        {
            "extract": extract,
            "training": trainings,
            "fuse_eval": evaluations,
            "chain": [stage.to_json() for stage in stages],
        }
    )


def _show(
    output: Output,
    run: "RunDir",
    extract: dict[str, Any],
    trainings: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
) -> None:
    output.show(f"run {run.path}")
    output.show(
        f"extract: {extract['state']}: {extract['done']} of {extract['videos']} videos done, "
        f"{extract['failed']} failed, {extract['not_yet']} not yet"
        + (f" ({extract['in_hand']} of them in hand)" if extract.get("in_hand") else "")
    )
    for reason, count in extract.get("failures", {}).items():
        output.show(f"  failed, {reason}: {count}")
    if extract["failed"] and (run.extract / "failures.jsonl").exists():  # written when extract ends
        output.show(
            f"  which and why: {run.extract / 'failures.jsonl'}; the same extract or import "
            "command with --retry-failed tries them again"
        )
    if extract.get("damaged"):
        output.show(f"  damaged in part, kept with what could be decoded: {extract['damaged']}")
    for message in extract.get("broken", []):
        output.show(f"  broken: {message}")
    for item in trainings:
        if "steps" not in item:
            output.show(f"{item['stage']}: {item['state']}")
            continue
        value = item.get("val_top1") if item["state"] == "done" else item.get("loss")
        what = "held-out top-1" if item["state"] == "done" else "loss"
        shown = f", {what} {value:.3f}" if value is not None else ""
        older = f", trained on an older list ({item['older_list']})" if item.get("older_list") else ""
        output.show(f"{item['stage']}: {item['state']}, {item['steps']} steps{shown}{older}")
    for item in evaluations:
        shown = f", fused top-1 {item['fused_top1']:.3f}, {item['report']}" if "fused_top1" in item else ""
        output.show(f"{item['stage']}: {item['state']}{shown}")
