"""`stin-pipe extract`: videos to shards."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from stin_pipe.workflows.run.dry_run import dry_run
from stin_pipe.workflows.run.extract_work import make_shards
from stin_pipe.workflows.terminal.exits import Grace
from stin_pipe.workflows.terminal.extract_report import say_listing
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
    help="Kind of the lists; auto looks at --splits (style, number of classes).",
)
@click.option("--splits", type=EXISTING_DIRECTORY, help="Folder of UCF-style or HMDB-style split lists.")
@click.option(
    "--list", "list_csv", type=FILE, help="CSV of path,label[,split,start_s,end_s] instead of folders."
)
@click.option("--classes", type=Names(), default=None, help="Use these classes alone.")
@click.option(
    "--match",
    multiple=True,
    metavar="GLOB",
    help="Use files whose path or name fits alone, such as '*_g01_*'; may be given several times.",
)
@click.option("--limit", type=WholeNumber(min=1), help="Use at most N videos, spread over the classes.")
@click.option(
    "--flow",
    type=click.Choice(["auto", "cuda", "cpu", "opencv", "reference"]),
    default="auto",
    help="Flow back end; auto is cuda where there is a GPU, else cpu.",
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
    help="Stored length of the shorter side, aspect kept [default: 256 for other data].",
)
@click.option(
    "--bound",
    type=FiniteRange(min=0, min_open=True),
    help="Largest motion stored, pixels a frame [default: 20 at 256 rows, in proportion].",
)
@click.option("--fps", type=FiniteRange(min=0, min_open=True, max=1000), help="Resample to this frame rate.")
@click.option("--stride", type=WholeNumber(min=1), default=1, help="Keep every N-th frame.")
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
    help="A video damaged in part: keep what could be decoded, or fail it.",
)
@click.option(
    "--runner",
    type=click.Choice(["auto", "ray", "local"]),
    default="auto",
    help="Who runs the workers; auto is ray where it is installed, else processes of this machine.",
)
@click.option("--address", help="Address of a Ray cluster; without one Ray starts on this machine.")
@click.option(
    "--workers",
    type=WholeNumber(min=1),
    help="Slots of one CPU or one share of a GPU [default: all CPUs].",
)
@click.option(
    "--gpus-per-worker",
    type=FiniteRange(min=0, min_open=True, max=1),
    default=0.25,
    help="Share of a GPU that a slot asks Ray for when flow runs on cuda.",
)
@click.option(
    "--cpus-per-worker",
    type=WholeNumber(1, 64),
    default=4,
    help="CPUs of a slot with flow on cuda, for its decoders and encoders.",
)
@click.option(
    "--allow-mixed-flow",
    is_flag=True,
    help="With --flow auto on a cluster: each node uses the back end that suits it.",
)
@failure_options
@click.option(
    "--dry-run", is_flag=True, help="Show what would be done, with the time and disk it would take."
)
@click.option(
    "--grace",
    type=FiniteRange(min=0),
    default=0.0,
    help="Seconds after SIGTERM in which the shards in hand may still be finished, for batch systems.",
)
@click.option("--break-lock", is_flag=True, help="Take over from an extract on another host that is gone.")
@common_options
def extract(output: Output, run_path: Path, videos: Path, **options: Any) -> None:
    """Extract frames and TV-L1 optical flow of all videos into checksummed HDF5 shards.

    The same command again resumes; videos added to the folder since join the run. Videos that fail are
    listed with a reason in RUN/extract/failures.jsonl and do not stop the others.
    """
    from stin_pipe.pipeline.listing.find_videos import list_videos
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    if options["list_csv"] and (options["splits"] or options["dataset"] != "auto"):
        raise click.UsageError("--list and --splits or --dataset exclude each other; give one of them")
    options["runner"] = choose_runner(output, options["runner"], options["address"])
    with usage_errors():
        listing = list_videos(
            videos,
            dataset=options["dataset"],
            splits_dir=options["splits"],
            list_csv=options["list_csv"],
            classes=options["classes"] or (),
            match=options["match"],
            limit=options["limit"],
        )
    params = _params(listing.dataset, options)
    say_listing(output, listing, params)
    if options["dry_run"]:
        dry_run(output, run_path / "extract", listing, params, options)
        return
    run = create_run(run_path)
    run.extract.mkdir(exist_ok=True)
    (run.extract / "shards").mkdir(exist_ok=True)
    grace = Grace(options["grace"])
    with (
        run_lock(run.extract / "lock.json", break_lock=options["break_lock"]),
        recorded(run, "extract", {"params": asdict(params), **options, "videos": str(videos)}),
    ):
        code = make_shards(
            output,
            run.extract,
            listing,
            params,
            retry_failed=options["retry_failed"],
            timeout_s=options["timeout"],
            max_failure_rate=options["max_failure_rate"],
            grace=grace,
            run_tasks=lambda tasks: _runner(output, listing, tasks, options, lambda: grace.asked),
        )
    if code:
        raise click.exceptions.Exit(code)


def choose_runner(output: Output, runner: str, address: str | None) -> str:
    """Return `ray` or `local`, and say so when the lack of ray decides.

    Raises:
        click.UsageError: ray is asked for and not installed, or an address is given to the local runner.
    """
    from stin_pipe.stin.processes.ray_session import ray_installed

    if address and runner == "local":
        raise click.UsageError("--address needs --runner ray")
    if ray_installed():
        return "local" if runner == "local" else "ray"
    if runner == "ray" or address:
        option = "--address" if address else "--runner ray"
        raise click.UsageError(
            f'{option} needs ray, which is not installed: pip install "stin-pipe[cluster]"; '
            "without it, --runner local works on this machine"
        )
    if runner == "auto":
        output.say('ray is not installed ("stin-pipe[cluster]"): processes of this machine do the work')
    return "local"


def _params(dataset: str, options: dict[str, Any]):
    from stin_pipe.pipeline.flow import require_support, set_params
    from stin_pipe.pipeline.planning.plan import ExtractParams

    size_px, short_side = options["size"], options["short_side"]
    if size_px and short_side:
        raise click.UsageError("--size and --short-side exclude each other; give one of them")
    if options["fps"] and options["stride"] > 1:
        raise click.UsageError("--fps and --stride exclude each other; give one of them")
    if not size_px and not short_side:
        size_px, short_side = ((340, 256), None) if dataset in ("ucf101", "hmdb51") else (None, 256)
    shorter = min(size_px) if size_px else int(short_side or 0)
    flow_backend = _flow_backend(options)
    try:
        tvl1_params = set_params(options["flow_settings"])
        require_support(flow_backend, tvl1_params)
        return ExtractParams(
            size=size_px,
            short_side=short_side,
            bound_px=options["bound"] or 20.0 * shorter / 256,
            flow_backend=flow_backend,
            flow=tvl1_params.as_record(),
            fps=options["fps"],
            stride=options["stride"],
            codec=options["codec"],
            partial=options["partial"],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _flow_backend(options: dict[str, Any]) -> str:
    """Resolve the back end once, for all workers; a cluster may have the GPU that this machine lacks."""
    from stin_pipe.pipeline.flow import resolve_backend
    from stin_pipe.pipeline.runners.ray import flow_of_cluster
    from stin_pipe.stin.processes.ray_session import cluster_address

    address = cluster_address(options["address"]) if options["runner"] == "ray" else None
    if options["allow_mixed_flow"] and (options["flow"] != "auto" or not address):
        raise click.UsageError("--allow-mixed-flow needs --flow auto and a cluster (--address)")
    if not address or options["flow"] not in ("auto", "cuda"):
        return resolve_backend(options["flow"])
    if options["flow"] == "cuda":
        return "cuda"
    return flow_of_cluster(address, allow_mixed=options["allow_mixed_flow"])


def _runner(output: Output, listing, tasks, options: dict[str, Any], stop: Callable[[], bool]):
    from stin_pipe.pipeline.planning.plan import estimate_bytes
    from stin_pipe.stin.processes.cpus import usable_cpus

    if options["runner"] == "local":
        from stin_pipe.pipeline.runners.local import run_local

        cpus = options["cpus_per_worker"] if tasks[0].params.flow_backend == "cuda" else 1
        num_workers = options["workers"] or max(1, usable_cpus() // cpus)
        tasks = [replace(task, num_threads=2 * cpus if cpus > 1 else 1) for task in tasks]
        return run_local(tasks, num_workers=min(num_workers, len(tasks)), stop=stop)
    from stin_pipe.pipeline.runners.ray import run_ray

    return run_ray(
        tasks,
        num_workers=options["workers"],
        address=options["address"],
        gpus_per_worker=options["gpus_per_worker"],
        cpus_per_worker=options["cpus_per_worker"],
        need_bytes=estimate_bytes(listing, tasks[0].params),
        warn=output.warn,
        stop=stop,
    )
