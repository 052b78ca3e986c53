"""The whole chain of a run: which stages there are, and how far each is.

The order is extract, then both trainings of each split, then fuse-eval of each split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stin_pipe.workflows.run.stage_state import evaluation_state, extract_state, manifest_now, training_state

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest

Progress = Literal["not started", "running", "unfinished", "done", "damaged"]
TRAININGS = ("train-spatial", "train-temporal")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the chain and how far it is."""

    command: str
    split: str | None
    """None for extract, which serves all splits."""
    progress: Progress
    detail: str = ""

    @property
    def name(self) -> str:
        """What people call it, `train-spatial split 1`."""
        return self.command if self.split is None else f"{self.command} split {self.split}"

    def to_json(self) -> dict[str, Any]:
        """Return the stage for `--json`."""
        return {
            "stage": self.command,
            "split": self.split,
            "progress": self.progress,
            "detail": self.detail,
        }


def chain_stages(run: "RunDir", splits: Sequence[str]) -> list[Stage]:
    """Return every stage of the chain over these splits, in order, with its state."""
    stages = [_extract_stage(run)]
    manifest = manifest_now(run)
    stages += [_training_stage(run, command, split, manifest) for split in splits for command in TRAININGS]
    return stages + [_evaluation_stage(run, split) for split in splits]


def recorded_splits(run: "RunDir") -> list[str]:
    """Return the splits of the chain that was last asked for; else those worked on, or the first."""
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.run.run_dir import read_run_json

    for entry in reversed(read_run_json(run.path)["commands"]):
        if entry.get("command") == "run":
            return [str(split) for split in entry["config"]["splits"]]
    folders = [*run.path.glob("train-*/split*"), *run.path.glob("fuse-eval/split*")]
    if folders:
        return sorted({path.name.removeprefix("split") for path in folders})
    return list(Manifest.load(run.manifest).split_names[:1]) if run.manifest.exists() else []


def _extract_stage(run: "RunDir") -> Stage:
    state = extract_state(run)
    progress: Progress = "unfinished"
    for word in ("not started", "running", "done"):
        if state["state"].startswith(word):
            progress = word
    detail = f"{state['done']} of {state['videos']} videos" if state["videos"] else ""
    if state["failed"]:
        detail += f", {state['failed']} failed"
    return Stage(command="extract", split=None, progress=progress, detail=detail)


def _training_stage(run: "RunDir", command: str, split: str, manifest: "Manifest | None") -> Stage:
    path = run.training(command.removeprefix("train-"), split)
    if not path.exists():
        return Stage(command=command, split=split, progress="not started")
    state = training_state(path, manifest)
    if state["state"].startswith("damaged"):
        return Stage(command=command, split=split, progress="damaged", detail=state["state"])
    progress: Progress = "done" if state["state"] == "done" else "unfinished"
    detail = f"{state['steps']} steps"
    if older := state.get("older_list"):
        detail += f", trained on an older list ({older})"
    if progress == "unfinished" and _is_locked(path):
        progress = "running"
    return Stage(command=command, split=split, progress=progress, detail=detail)


def _evaluation_stage(run: "RunDir", split: str) -> Stage:
    path = run.fusion(split)
    if not path.exists():
        return Stage(command="fuse-eval", split=split, progress="not started")
    state = evaluation_state(path)
    if state["state"] == "done":
        detail = f"fused top-1 {state['fused_top1']:.3f}"
        return Stage(command="fuse-eval", split=split, progress="done", detail=detail)
    if state["state"].startswith("damaged"):
        return Stage(command="fuse-eval", split=split, progress="damaged", detail=state["state"])
    progress: Progress = "running" if _is_locked(path) else "unfinished"
    return Stage(command="fuse-eval", split=split, progress=progress)


def _is_locked(folder: Any) -> bool:
    """Tell whether a training or evaluation works in the folder, or may do so on another host."""
    from stin_pipe.workflows.run.lock import is_alive, read_holder

    holder = read_holder(folder / "lock.json")
    return holder is not None and is_alive(holder) is not False
