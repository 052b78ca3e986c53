"""How far each stage of a run is, read from its files while it goes on and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stin_pipe.stin.results.stored import is_number, json_object, read_lines, read_metrics, read_result

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest


def extract_state(run: "RunDir") -> dict[str, Any]:
    """Return how far the extraction is, from its plans and marks."""
    from stin_pipe.pipeline.planning.ledger import plan_paths, read_ledger
    from stin_pipe.pipeline.shard.make_shard import running_shards
    from stin_pipe.workflows.run.lock import is_alive, read_holder

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


def training_state(path: Path, manifest: "Manifest | None" = None) -> dict[str, Any]:
    """Return how far the training in the folder `path` is, `train-spatial/split1`.

    Args:
        path: the training's folder.
        manifest: the run's videos now, for telling whether a finished training has had others.
    """
    name = f"{path.parent.name}/{path.name}"
    finished = path / "result.json"
    if finished.exists():
        result = read_result(path)
        if not result:
            return {
                "stage": name,
                "state": f"damaged: {finished} cannot be read; delete {path} to train anew",
            }
        change = _list_change(path, result, manifest) if manifest else ""
        top1 = result["last_val_top1"]
        return {
            "stage": name,
            "state": "done",
            "steps": result["steps"],
            "val_top1": top1,
            "older_list": change,
        }
    step, loss = 0, None
    for record in read_lines(path / "metrics.jsonl"):
        step = int(record["step"]) if is_number(record.get("step")) else step
        if record.get("kind") == "train" and is_number(record.get("loss")):
            loss = record["loss"]
    return {"stage": name, "state": "unfinished", "steps": step, "loss": loss}


def manifest_now(run: "RunDir") -> "Manifest | None":
    """Return the run's videos; None where there are none yet, or their file is damaged."""
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.shards.schema import Manifest

    try:
        return Manifest.load(run.manifest) if run.manifest.exists() else None
    except StinPipeError:
        return None


def _list_change(path: Path, result: dict[str, Any], manifest: "Manifest") -> str:
    """Return how the run's list differs from that of a finished training; empty where it does not."""
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.training.holdout import divide_training_list, list_digest, tell_list_change

    try:
        stored = json_object((path / "config.json").read_text(encoding="utf-8"))
        share, trained_on = stored["config"]["val_share"], stored["training_list"]
        videos = divide_training_list(manifest, split=stored["split"], share=share).train
    except (OSError, ValueError, KeyError, TypeError, StinPipeError):
        return ""  # not known
    return "" if list_digest(videos) == trained_on else tell_list_change(result.get("num_train"), len(videos))


def evaluation_state(path: Path) -> dict[str, Any]:
    """Return whether the evaluation in the folder `path` is there, `fuse-eval/split1`."""
    name = f"{path.parent.name}/{path.name}"
    metrics = path / "metrics.json"
    if not metrics.exists():
        scored = ", ".join(sorted(item.stem for item in path.glob("*.npz"))) or "no stream"
        scoring = ", ".join(sorted(item.stem for item in path.glob("*.journal")))
        under_way = f", {scoring} begun" if scoring else ""
        return {"stage": name, "state": f"unfinished ({scored} scored{under_way}); fuse-eval goes on there"}
    value = read_metrics(path)
    if not value:
        return {"stage": name, "state": f"damaged: {metrics} cannot be read; run fuse-eval again"}
    report = str(path / "report.html")
    return {"stage": name, "state": "done", "fused_top1": value["fused"]["top1"], "report": report}
