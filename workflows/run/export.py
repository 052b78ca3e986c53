"""Export the videos of a run as folders of images, under the lock of the folder that is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.pipeline.export import ExportEvent, ExportResult, claim_folder, export_videos
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import open_run


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        bound: motion in pixels a frame that grey 255 stands for; None is that of the run.
        workers: processes; None is all CPUs.
    """

    bound: float | None = None
    workers: int | None = None


def export_run(
    run_path: Path,
    out: Path,
    options: ExportOptions | None = None,
    on_event: Callable[[ExportEvent], None] = lambda _event: None,
) -> ExportResult:
    """Write the videos of a run as folders of images, with lists; what `out` holds already stays.

    Raises:
        StinPipeError: a run without a manifest, or a folder that holds something else or is in use.
    """
    options = options or ExportOptions()
    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    bound_px = options.bound or manifest.bound_px
    claim_folder(out, manifest, bound_px)
    lock = out / "lock.json"
    with run_lock(lock, activity="export", to_break=f"delete {lock}"):
        return export_videos(
            run.extract,
            manifest,
            out,
            bound_px=bound_px,
            num_workers=options.workers,
            on_event=on_event,
        )
