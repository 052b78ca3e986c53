"""`stin-pipe status`: how far a run is, while it goes on and after."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.options import common_options, run_option
from workflows.output import Output

if TYPE_CHECKING:
    from workflows.run_dir import RunDir

EXAMPLES = """\b
Example:
  stin-pipe status --run runs/mine
"""


@click.command(epilog=EXAMPLES)
@run_option()
@common_options
def status(output: Output, run_path: Path) -> None:
    """Show how far each stage of a run is; works from any terminal or node while the run goes on."""
    from workflows.run_dir import open_run

    run = open_run(run_path)
    extract = _extract_status(run)
    trainings = [_training_status(path) for path in sorted(run.path.glob("train-*/split*"))]
    evaluations = [_evaluation_status(path) for path in sorted(run.path.glob("fuse-eval/split*"))]
    _show(output, run, extract, trainings, evaluations)
    output.result({"extract": extract, "training": trainings, "fuse_eval": evaluations})


def _extract_status(run: "RunDir") -> dict[str, Any]:
    from pipeline.ledger import plan_paths, read_ledger
    from pipeline.lock import is_alive, read_holder
    from pipeline.shard_task import running_shards

    if not plan_paths(run.extract):
        return {"state": "not started", "videos": 0, "done": 0, "failed": 0, "not_yet": 0}
    ledger = read_ledger(run.extract)
    holder = read_holder(run.extract / "lock.json")
    alive = is_alive(holder) if holder else False
    running = running_shards(run.extract) if holder and alive is not False else []
    if not ledger.pending:
        state = "done"
    elif holder and alive is not False:
        state = f"running (process {holder.process_id} on {holder.host})"
    else:
        state = "stopped; the same extract command resumes"
    num_damaged = sum(bool(entry.outcome and entry.outcome.notes.get("damaged")) for entry in ledger.done)
    reasons: dict[str, int] = {}
    for entry in ledger.failed:
        if entry.outcome:
            reasons[entry.outcome.reason] = reasons.get(entry.outcome.reason, 0) + 1
    return {
        "state": state,
        "videos": len(ledger.entries),
        "done": len(ledger.done),
        "failed": len(ledger.failed),
        "not_yet": len(ledger.not_yet),
        "in_hand": sum(shard.num_videos for shard in running),
        "frames": sum(
            entry.outcome.meta.num_frames for entry in ledger.done if entry.outcome and entry.outcome.meta
        ),
        "shards": ledger.num_shards,
        "shards_done": ledger.num_shards - len(ledger.pending),
        "failures": reasons,
        "damaged": num_damaged,
        "broken": list(ledger.broken.values()),
    }


def _training_status(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    finished = path / "result.json"
    if finished.exists():
        result = _record(finished.read_text(encoding="utf-8", errors="replace"))
        if not {"steps", "last_val_top1"} <= result.keys():
            return {
                "stage": name,
                "state": f"damaged: {finished} cannot be read; delete {path} to train anew",
            }
        return {"stage": name, "state": "done", "steps": result["steps"], "val_top1": result["last_val_top1"]}
    step, loss = 0, None
    metrics = path / "metrics.jsonl"
    if metrics.exists():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            record = _record(line)
            step = int(record.get("step", step))
            loss = record.get("loss", loss) if record.get("kind") == "train" else loss
    return {"stage": name, "state": "unfinished", "steps": step, "loss": loss}


def _record(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:  # the last line of a training that is writing it at this instant
        return {}
    return value if isinstance(value, dict) else {}


def _evaluation_status(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    metrics = path / "metrics.json"
    if not metrics.exists():
        return {"stage": name, "state": "unfinished"}
    value = _record(metrics.read_text(encoding="utf-8", errors="replace"))
    if "fused" not in value:
        return {"stage": name, "state": f"damaged: {metrics} cannot be read; run fuse-eval again"}
    report = str(path / "report.html")
    return {"stage": name, "state": "done", "fused_top1": value["fused"]["top1"], "report": report}


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
        output.show(f"{item['stage']}: {item['state']}, {item['steps']} steps{shown}")
    for item in evaluations:
        shown = f", fused top-1 {item['fused_top1']:.3f}, {item['report']}" if "fused_top1" in item else ""
        output.show(f"{item['stage']}: {item['state']}{shown}")
