"""`stin-pipe import`: folders of frames and flow images, made by other tools, become shards."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.workflows.terminal.options import common_options, failure_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import EXISTING_DIRECTORY, FiniteRange, Names, WholeNumber

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
@click.option("--classes", type=Names(), default=None, help="Use only these classes.")
@click.option("--limit", type=WholeNumber(min=1), help="Use at most N videos, spread over the classes.")
@click.option("--image-name", default="img_%05d", help="Names of frames in a video's folder.")
@click.option("--flow-x-name", default="flow_x_%05d", help="Names of images of flow to the right.")
@click.option("--flow-y-name", default="flow_y_%05d", help="Names of images of flow downwards.")
@click.option(
    "--streams",
    type=click.Choice(["both", "rgb", "flow"]),
    default="both",
    help="Which images to take: frames (rgb), flow, or both. A run of one stream gets the other by the "
    "same command with both.",
)
@click.option(
    "--bound",
    type=FiniteRange(min=0, min_open=True),
    help="Motion in pixels a frame that grey 255 stands for [default: that of an export, else 20].",
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
@click.option(
    "--break-lock", is_flag=True, help="Take over from an import on another host that no longer runs."
)
@common_options
def import_(output: Output, run_path: Path, frames: Path, **values: Any) -> None:
    """Take folders of JPEG or PNG images, as TSN and mmaction2 use them, into the shards of a run.

    Flow images must be `q = round(255 (v + bound) / (2 bound))`. T frames need T-1 fields; of T fields the
    last is left out. The same command again resumes; RUN/extract/failures.jsonl lists bad folders.
    """
    from stin_pipe.workflows.run.import_frames import ImportOptions, import_run
    from stin_pipe.workflows.terminal.extract_report import show_result, shown_extract

    options = ImportOptions(**values)
    with usage_errors(), shown_extract(output) as show:
        result = import_run(run_path, frames, options, show)
    if code := show_result(output, run_path / "extract", result, options.max_failure_rate):
        raise click.exceptions.Exit(code)
