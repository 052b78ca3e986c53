"""`stin-pipe import`: folders of frames and flow images, made by other tools, to shards."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.run.extract_work import make_shards
from stin_pipe.workflows.terminal.exits import Grace
from stin_pipe.workflows.terminal.extract_report import say_listing
from stin_pipe.workflows.terminal.options import common_options, failure_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import EXISTING_DIRECTORY, FiniteRange, Names, WholeNumber

if TYPE_CHECKING:
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.pipeline.shard.image_folders import FrameNames

EXAMPLES = """\b
Examples:
  stin-pipe import --run runs/a --frames rawframes --splits lists   # rawframes/<class>/<video>/img_00001.jpg
  stin-pipe import --run runs/b --frames frames --image-name f%06d --flow-x-name u/%06d --flow-y-name v/%06d
"""


@click.command("import", epilog=EXAMPLES)
@run_option()
@click.option(
    "--frames",
    type=EXISTING_DIRECTORY,
    required=True,
    help="Folder of folders of images, DIR/<class>/<video>/.",
)
@click.option(
    "--splits",
    type=EXISTING_DIRECTORY,
    help="Folder of split lists: UCF style, HMDB style, or `path total_frames label` in train_split_1.txt.",
)
@click.option("--classes", type=Names(), default=None, help="Use these classes alone.")
@click.option("--limit", type=WholeNumber(min=1), help="Use at most N videos, spread over the classes.")
@click.option("--image-name", default="img_%05d", help="Names of frames in a video's folder.")
@click.option("--flow-x-name", default="flow_x_%05d", help="Names of images of flow to the right.")
@click.option("--flow-y-name", default="flow_y_%05d", help="Names of images of flow downwards.")
@click.option(
    "--bound",
    type=FiniteRange(min=0, min_open=True),
    help="Motion in pixels a frame that grey 255 stands for [default: what an export says, else 20].",
)
@click.option("--fps", type=FiniteRange(min=0, min_open=True, max=1000), help="Rate of the frames.")
@click.option(
    "--codec",
    type=click.Choice(["jpeg", "png"]),
    default="jpeg",
    help="How fields are stored; frames keep their bytes.",
)
@click.option("--workers", type=WholeNumber(min=1), help="Processes [default: all CPUs].")
@failure_options
@click.option("--break-lock", is_flag=True, help="Take over from an import on another host that is gone.")
@common_options
def import_(output: Output, run_path: Path, frames: Path, **options: Any) -> None:
    """Take folders of JPEG or PNG images, as TSN and mmaction2 use them, into the shards of a new run.

    Flow images must be `q = round(255 (v + bound) / (2 bound))`. T frames need T-1 fields; of T fields the
    last is left out. The same command again resumes; bad folders are in RUN/extract/failures.jsonl.
    """
    # OpenCV reads it when loaded, here and in workers: a small file may claim to be a picture of gigabytes.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
    from stin_pipe.pipeline.listing.find_videos import list_videos
    from stin_pipe.pipeline.shard.from_images import require_images
    from stin_pipe.pipeline.shard.image_folders import FrameNames, scan_frame_folders
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    with usage_errors():
        names = FrameNames(
            image=options["image_name"], flow_x=options["flow_x_name"], flow_y=options["flow_y_name"]
        )
        found = scan_frame_folders(frames, names)
        if not found:
            raise StinPipeError(
                f"{frames}: no folders of images; expected {frames}/<class>/<video>/{names.image % 1}.jpg; "
                "give the folder above the classes, or --image-name; videos are taken by `stin-pipe extract`"
            )
        listing = list_videos(
            frames,
            splits_dir=options["splits"],
            classes=options["classes"] or (),
            limit=options["limit"],
            find=lambda _root: found,
        )
    require_images(listing, names)
    run = create_run(run_path)
    is_new = not (run.extract / "plan.json").exists()
    if is_new and options["bound"] is None and _exported_bound(listing.root) is None:
        output.warn(
            f"no export.json beside {frames} and no --bound: the flow images are taken to have a bound of "
            "20 px, as the tools of TSN write; give --bound B if not"
        )
    params = _params(run.extract, listing, names, options)
    say_listing(output, listing, params)
    run.extract.mkdir(exist_ok=True)
    (run.extract / "shards").mkdir(exist_ok=True)
    with (
        run_lock(run.extract / "lock.json", activity="import", break_lock=options["break_lock"]),
        recorded(run, "import", {"params": asdict(params), **options, "frames": str(frames)}),
    ):
        code = make_shards(
            output,
            run.extract,
            listing,
            params,
            retry_failed=options["retry_failed"],
            timeout_s=options["timeout"],
            max_failure_rate=options["max_failure_rate"],
            grace=Grace(0),
            run_tasks=lambda tasks: _run(tasks, options["workers"]),
        )
    if code:
        raise click.exceptions.Exit(code)


def _params(extract_dir: Path, listing: Any, names: "FrameNames", options: dict[str, Any]) -> "ExtractParams":
    """Describe what the shards hold; the short side is the first readable video's, or that of the run."""
    from stin_pipe.pipeline.planning.plan import IMPORTED, ExtractParams, Plan
    from stin_pipe.pipeline.shard.from_images import first_short_side

    first_plan = extract_dir / "plan.json"
    if first_plan.exists():
        short_side = Plan.load(first_plan).params.short_side
    else:
        short_side = first_short_side(listing, names)
    return ExtractParams(
        size=None,
        short_side=short_side or 256,
        bound_px=options["bound"] or _exported_bound(listing.root) or 20.0,
        flow_backend=IMPORTED,
        flow=asdict(names),
        fps=options["fps"],
        codec=options["codec"],
    )


def _exported_bound(frames: Path) -> float | None:
    """Return the bound that `export` wrote beside its frames."""
    try:
        bound = json.loads((frames.absolute().parent / "export.json").read_text(encoding="utf-8"))["bound_px"]
        return float(bound)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # other tools made the frames


def _run(tasks: Sequence[Any], num_workers: int | None) -> Any:
    from stin_pipe.pipeline.runners.local import run_local

    return run_local(tasks, num_workers=min(num_workers or len(os.sched_getaffinity(0)), len(tasks)))
