"""`stin-pipe extract`: videos become shards."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.workflows.terminal.options import common_options, failure_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import (
    EXISTING_DIRECTORY,
    FILE,
    FiniteRange,
    Names,
    Setting,
    Size,
    WholeNumber,
)

EXAMPLES = """\b
Examples:
  stin-pipe extract --run runs/mine --videos ~/videos                 # ~/videos/<class>/<video>
  stin-pipe extract --run runs/ucf --videos UCF-101 --splits ucfTrainTestlist
  stin-pipe extract --run runs/hmdb --videos hmdb51 --splits testTrainMulti_7030_splits
  stin-pipe extract --run runs/big --videos /data/big --address auto --flow cuda
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option(
    "--videos", type=EXISTING_DIRECTORY, required=True, help="Folder of videos, DIR/<class>/<video>."
)
@click.option(
    "--dataset",
    type=click.Choice(["auto", "ucf101", "hmdb51", "folder"]),
    default="auto",
    help="Kind of data set; auto looks at the lists in --splits (style, number of classes).",
)
@click.option("--splits", type=EXISTING_DIRECTORY, help="Folder of UCF-style or HMDB-style split lists.")
@click.option(
    "--list", "list_csv", type=FILE, help="CSV of path,label[,split,start_s,end_s] instead of folders."
)
@click.option(
    "--streams",
    type=click.Choice(["both", "rgb", "flow"]),
    default="both",
    help="What to store: frames (rgb: no flow is computed, several times faster), flow, or both. A run of "
    "one stream gets the other by the same command with both.",
)
@click.option("--classes", type=Names(), default=None, help="Use only these classes.")
@click.option(
    "--match",
    multiple=True,
    metavar="GLOB",
    help="Use only files whose path or name matches, such as '*_g01_*'; repeatable.",
)
@click.option("--limit", type=WholeNumber(min=1), help="Use at most N videos, spread over the classes.")
@click.option(
    "--flow",
    type=click.Choice(["auto", "cuda", "cpu", "opencv", "reference"]),
    default="auto",
    help="Flow back end; auto is cuda if there is a GPU, else cpu.",
)
@click.option(
    "--flow-set",
    "flow_settings",
    type=Setting(example="num_scales=7"),
    multiple=True,
    callback=lambda ctx, param, value: dict(value),
    help="A parameter of TV-L1, such as num_scales=7 or median_filter=3; repeatable.",
)
@click.option(
    "--size", type=Size(), help="Stored frame size [default: 340x256 for UCF101 and HMDB51].", metavar="WxH"
)
@click.option(
    "--short-side",
    type=WholeNumber(16, 4096),
    help="Shorter side of stored frames, which keep their aspect ratio [default: 256 for other data].",
)
@click.option(
    "--bound",
    type=FiniteRange(min=0, min_open=True),
    help="Largest motion stored, in pixels a frame [default: 20 at 256 rows, else in proportion].",
)
@click.option(
    "--fps",
    type=FiniteRange(min=0, min_open=True, max=1000),
    help="Choose frames by time for this frame rate; a video with fewer keeps them all, none is repeated.",
)
@click.option("--stride", type=WholeNumber(min=1), default=1, help="Keep every N-th frame.")
@click.option(
    "--flow-pairs",
    type=click.Choice(["stored", "source"]),
    default="stored",
    help="With --fps or --stride: flow from a stored frame to the next stored one, or to the source's next.",
)
@click.option(
    "--interlaced",
    type=click.Choice(["deinterlace", "keep"]),
    default="deinterlace",
    help="Interlaced video: join the fields of each frame to a whole picture, or keep the combs.",
)
@click.option(
    "--codec",
    type=click.Choice(["jpeg", "png"]),
    default="jpeg",
    help="jpeg of quality 95, or lossless png (several times the disk).",
)
@click.option(
    "--partial",
    type=click.Choice(["keep", "refuse"]),
    default="keep",
    help="A partly damaged video: keep what could be decoded, or fail it.",
)
@click.option(
    "--runner",
    type=click.Choice(["auto", "ray", "local"]),
    default="auto",
    help="Who runs the workers; auto is ray if it is installed, else processes on this machine.",
)
@click.option("--address", help="Address of a Ray cluster [default: start Ray on this machine].")
@click.option(
    "--workers",
    type=WholeNumber(min=1),
    help="Slots, each of one CPU or of one share of a GPU [default: all CPUs].",
)
@click.option(
    "--gpus-per-worker",
    type=FiniteRange(min=0, min_open=True, max=1),
    default=0.25,
    help="Share of a GPU for each slot if flow runs on cuda.",
)
@click.option(
    "--cpus-per-worker",
    type=WholeNumber(1, 64),
    default=4,
    help="CPUs for each slot if flow runs on cuda, to decode and encode.",
)
@click.option(
    "--allow-mixed-flow",
    is_flag=True,
    help="With --flow auto on a cluster: let each node use the back end that suits it.",
)
@failure_options
@click.option(
    "--dry-run", is_flag=True, help="Only show what would be done, and the time and disk it would take."
)
@click.option(
    "--grace",
    type=FiniteRange(min=0),
    default=0.0,
    help="Seconds to finish the shards in hand after SIGTERM, for batch systems.",
)
@click.option(
    "--break-lock", is_flag=True, help="Take over from an extract on another host that no longer runs."
)
@common_options
def extract(output: Output, run_path: Path, videos: Path, dry_run: bool, **values: Any) -> None:
    """Extract frames and TV-L1 optical flow of all videos into checksummed HDF5 shards.

    The same command again resumes; videos added to the folder since then join the run. Videos that fail are
    listed with a reason in RUN/extract/failures.jsonl and do not stop the others.
    """
    from stin_pipe.workflows.run.dry_run import forecast_extract
    from stin_pipe.workflows.run.extraction import ExtractOptions, extract_run
    from stin_pipe.workflows.terminal.extract_report import show_result, shown_extract

    options = ExtractOptions(**values)
    with usage_errors(), shown_extract(output) as show:
        if dry_run:
            forecast = forecast_extract(run_path, videos, options, show)
            for line in forecast.lines():
                output.show(line)
            output.result(forecast.to_json())
            return
        result = extract_run(run_path, videos, options, show)

    if code := show_result(output, run_path / "extract", result, options.max_failure_rate):
        raise click.exceptions.Exit(code)
