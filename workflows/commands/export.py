"""`stin-pipe export`: the videos of a run become folders of images, for other programs."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.stin.shards.errors import and_more
from stin_pipe.workflows.terminal.exits import EXIT_FAILED
from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import DIRECTORY, FiniteRange, WholeNumber

EXAMPLES = """\b
Example:
  stin-pipe export --run runs/ucf --out ucf-frames --format rawframes      # as TSN and mmaction2 read them
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option("--out", type=DIRECTORY, required=True, help="Folder to write: new, empty, or one to resume.")
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
    help="Motion in pixels a frame that grey 255 stands for [default: that of the run].",
)
@click.option("--workers", type=WholeNumber(min=1), help="Processes [default: all CPUs].")
@common_options
def export(output: Output, run_path: Path, out: Path, image_format: str, **values: Any) -> None:
    """Write the frames and flow of each video as images counted from 1, with the lists that loaders read.

    Frames keep the bytes of the shards; flow becomes `q = round(255 (v + bound) / (2 bound))`, x and y apart.
    Lists hold `path total_frames label`. The same command again resumes.
    """
    from stin_pipe.pipeline.export import ExportEvent, ExportProgress, ExportStart
    from stin_pipe.workflows.run.export import ExportOptions, export_run

    with output.progress("export", 1, unit="videos") as meter:

        def show(event: ExportEvent) -> None:
            match event:
                case ExportStart():
                    meter.total = event.total_videos
                    if event.num_before:
                        done = f"{event.num_before} of {event.total_videos} videos are exported already"
                        output.say(f"resuming: {done}")
                case ExportProgress():
                    meter.update(event.num_videos)

        result = export_run(run_path, out, ExportOptions(**values), show)
    for problem in result.problems:
        output.show(problem)
    parts = {"both": "", "rgb": ", frames alone", "flow": ", flow alone"}[result.streams]
    bound = f", flow bound {result.bound_px:g} px a frame (grey 0 to 255 is -+ it)"
    output.show(f"{result.videos} videos in {out}{parts}{'' if result.streams == 'rgb' else bound}")
    output.show(f"lists in {out / 'lists'}; their paths are relative to {out / 'rawframes'}")
    if result.renamed:
        names = [f"{name} -> {folder}" for name, folder in result.renamed.items()]
        output.show(
            f"{len(names)} folders are not named like their videos (only letters, digits and -_.+@, each "
            f"name once): {and_more(names, 3)}; classInd.txt keeps the names of the classes"
        )
    if result.pending:
        output.warn(f"{result.pending} videos are not extracted yet; export again when they are")

    code = EXIT_FAILED if result.problems else 0
    output.result({**result.to_json(), "exit_code": code})
    if code:
        raise click.exceptions.Exit(code)
