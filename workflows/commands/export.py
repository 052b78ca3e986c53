"""`stin-pipe export`: the videos of a run as folders of images, for other programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import DIRECTORY, FiniteRange, WholeNumber

if TYPE_CHECKING:
    from stin_pipe.stin.shards.schema import Manifest

EXAMPLES = """\b
Example:
  stin-pipe export --run runs/ucf --out ucf-frames --format rawframes      # as TSN and mmaction2 read them
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option("--out", type=DIRECTORY, required=True, help="Folder to write: new or empty, or to resume.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["rawframes"]),
    default="rawframes",
    help="OUT/rawframes/<class>/<video>/img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg, and OUT/lists.",
)
@click.option(
    "--bound",
    type=FiniteRange(min=0, min_open=True),
    help="Motion that grey 255 stands for, pixels a frame [default: that of the run].",
)
@click.option("--workers", type=WholeNumber(min=1), help="Processes [default: all CPUs].")
@common_options
def export(
    output: Output, run_path: Path, out: Path, image_format: str, bound: float | None, workers: int | None
) -> None:
    """Write each video's frames and flow as images counted from 1, with the lists that loaders read.

    Frames keep the bytes of the shards; flow becomes `q = round(255 (v + bound) / (2 bound))`, x and y apart.
    Lists hold `path total_frames label`. The same command again resumes.
    """
    from stin_pipe.pipeline.export import (
        export_tasks,
        num_workers_here,
        renamed_folders,
        run_export,
        write_lists,
    )
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.run.run_dir import open_run

    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    bound_px = bound or manifest.bound_px
    _prepare(out, manifest, bound_px)
    with run_lock(out / "lock.json", activity="export", to_break=f"delete {out / 'lock.json'}"):
        tasks = export_tasks(run.extract, manifest, out, bound_px)
        num_before = len(manifest.videos) - sum(len(task.folders) for task in tasks)
        if num_before:
            output.say(f"resuming: {num_before} of {len(manifest.videos)} videos are exported already")
        problems: list[str] = []
        num_videos, num_frames = num_before, 0
        with output.progress("export", len(manifest.videos), unit="videos") as meter:
            if tasks:
                for report in run_export(tasks, num_workers=num_workers_here(workers, len(tasks))):
                    num_videos += report.num_videos
                    num_frames += report.num_frames
                    problems += report.problems
                    meter.update(num_videos)
        lists = write_lists(out, manifest)
    for problem in problems:
        output.show(problem)
    output.show(f"{num_videos} videos in {out}, flow bound {bound_px:g} px a frame (grey 0 to 255 is -+ it)")
    output.show(f"lists in {out / 'lists'}; their paths are relative to {out / 'rawframes'}")
    if renamed := renamed_folders(list(manifest.videos)):
        first = ", ".join(f"{name} -> {folder}" for name, folder in list(renamed.items())[:3])
        output.show(
            f"{len(renamed)} folders have other names than their videos (only letters, digits and -_.+@; "
            f"none twice): {first}{', ...' if len(renamed) > 3 else ''}; classInd.txt has the classes' own"
        )
    if manifest.num_pending:
        output.warn(f"{manifest.num_pending} videos are not extracted yet; export again when they are")
    code = 1 if problems else 0
    result: dict[str, Any] = {
        "videos": num_videos,
        "frames_written": num_frames,
        "bound_px": bound_px,
        "lists": [path.name for path in lists],
        "renamed": renamed,
        "problems": problems,
    }
    output.result({**result, "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)


def _prepare(out: Path, manifest: "Manifest", bound_px: float) -> None:
    """Make the folder, or see that it holds an export of the same content."""
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.shards.publish import publish_json

    about: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "bound_px": bound_px,
        "videos": {video.id: video.digest for video in manifest.videos.values()},
    }
    out.mkdir(parents=True, exist_ok=True)
    record = out / "export.json"
    if not record.exists():
        if any(item.name != "lock.json" for item in out.iterdir()):
            raise StinPipeError(f"--out {out}: the folder holds other things; give a new or empty one")
        publish_json(record, about)
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StinPipeError(f"{record}: cannot be read ({error}); export into a new folder") from error
    known = found.get("videos", {}) if isinstance(found, dict) else {}
    if not isinstance(found, dict) or found | {"videos": {}} != about | {"videos": {}}:
        raise StinPipeError(
            f"--out {out}: holds an export of other parameters or another --bound (see export.json); "
            "give a new folder"
        )
    if other := [name for name, digest in about["videos"].items() if known.get(name, digest) != digest]:
        raise StinPipeError(
            f"--out {out}: holds other content of {len(other)} videos (first: {other[0]}); give a new folder"
        )
    publish_json(record, about | {"videos": known | about["videos"]})
