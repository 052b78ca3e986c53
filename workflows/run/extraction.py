"""Extract videos into a run: choose listing and parameters, then run the stage, locked and recorded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stin_pipe.pipeline.decoding.header import Interlaced
from stin_pipe.pipeline.extraction import (
    ExtractEvent,
    ExtractListed,
    ExtractNotice,
    ExtractResult,
    OnEvent,
    RunTasks,
    make_shards,
)
from stin_pipe.pipeline.flow import require_support, resolve_backend, set_params
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.listing import Listing
from stin_pipe.pipeline.planning.ledger import find_ledger
from stin_pipe.pipeline.planning.plan import (
    DECODING,
    NO_FLOW,
    ExtractParams,
    FlowPairs,
    estimate_bytes,
    usual_bound_px,
)
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.runners.local import run_local
from stin_pipe.pipeline.runners.ray import flow_of_cluster, run_ray
from stin_pipe.pipeline.shard.make_shard import ShardReport
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.processes.ray_session import cluster_address, ray_installed
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.stin.shards.names import make_inside
from stin_pipe.stin.shards.schema import ImageCodec, Streams
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import create_run, recorded
from stin_pipe.workflows.terminal.exits import Grace


@dataclass(frozen=True, kw_only=True)
class FailureOptions:
    """What extract and import have in common: when a video has failed, how many may fail, and the lock.

    Attributes:
        timeout: seconds after which work on a video is given up.
        retry_failed: try failed videos again.
        max_failure_rate: share of failed videos above which the result has `too_many_failed`.
        break_lock: take over from a process on another host that no longer runs.
    """

    timeout: float = 3600.0
    retry_failed: bool = False
    max_failure_rate: float = 0.05
    break_lock: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(FailureOptions):
    """The options of an extract.

    Attributes:
        dataset: `auto` looks at the lists in `splits`.
        splits: folder of UCF-style or HMDB-style split lists.
        list_csv: CSV of path,label[,split,start_s,end_s] instead of folders.
        classes: use only these classes.
        match: use only files whose path or name matches one of these globs.
        limit: use at most this many videos, spread over the classes.
        flow: flow back end; `auto` is cuda where there is a GPU, else cpu.
        flow_settings: parameters of TV-L1 by name, such as `{"num_scales": 7}`.
        streams: what is stored: frames (`rgb`), flow, or both; a later `both` adds what a run lacks.
        size: (width, height) of stored frames; None is 340x256 for UCF101 and HMDB51, else see `short_side`.
        short_side: length of the shorter side of stored frames, which keep their aspect ratio; None is 256.
        bound: largest motion stored, in pixels a frame; None is 20 at 256 rows, and in proportion.
        fps: choose frames by time for this rate; none is repeated where a video has fewer.
        stride: keep every stride-th frame.
        flow_pairs: flow leads from a stored frame to the next stored one, or to the next of the source.
        interlaced: join the fields of interlaced video to whole pictures, or keep them.
        codec: `jpeg` of quality 95, or lossless `png`.
        partial: whether a partly damaged video is kept with what could be decoded, or refused.
        runner: who runs the workers; `auto` is ray where it is installed, else processes of this machine.
        address: of a Ray cluster; None starts Ray on this machine.
        workers: slots, each of one CPU or of one share of a GPU; None is all CPUs.
        gpus_per_worker: share of a GPU that a slot asks Ray for when flow runs on cuda.
        cpus_per_worker: CPUs of such a slot, for its decoders and encoders.
        allow_mixed_flow: each node of a cluster uses the back end that suits it.
        grace: seconds after SIGTERM in which the shards in hand may still be finished; with 0 the signal is
            not handled.
    """

    dataset: Literal["auto", "ucf101", "hmdb51", "folder"] = "auto"
    splits: Path | None = None
    list_csv: Path | None = None
    streams: Streams = "both"
    classes: Sequence[str] | None = None
    match: Sequence[str] = ()
    limit: int | None = None
    flow: str = "auto"
    flow_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    size: tuple[int, int] | None = None
    short_side: int | None = None
    bound: float | None = None
    fps: float | None = None
    stride: int = 1
    flow_pairs: FlowPairs = "stored"
    interlaced: Interlaced = "deinterlace"
    codec: ImageCodec = "jpeg"
    partial: Literal["keep", "refuse"] = "keep"
    runner: Literal["auto", "ray", "local"] = "auto"
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.25
    cpus_per_worker: int = 4
    allow_mixed_flow: bool = False
    grace: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ResolvedExtract:
    """An extract with every open choice made: its videos, its parameters, `ray` or `local` as its runner."""

    options: ExtractOptions
    listing: Listing
    params: ExtractParams

    @property
    def cluster(self) -> str | None:
        """Address of the cluster that does the work; None for this machine."""
        return _cluster(self.options)

    @property
    def cpus_per_slot(self) -> int:
        """CPUs that one slot keeps busy."""
        return self.options.cpus_per_worker if self.params.flow_backend == "cuda" else 1

    def num_slots(self) -> int | None:
        """How many slots work at a time; None if the cluster decides."""
        if self.options.workers or self.cluster:
            return self.options.workers
        return max(1, usable_cpus() // self.cpus_per_slot)


def extract_run(
    run_path: Path,
    videos: Path,
    options: ExtractOptions | None = None,
    on_event: OnEvent = lambda _event: None,
) -> ExtractResult:
    """Extract frames and flow of the videos in a folder into a run; what is done is left alone.

    Args:
        run_path: the run directory; created if it does not exist.
        videos: folder of videos, `videos/<class>/<video>`.
        options: see `ExtractOptions`.
        on_event: called with the listing, at the start of the work, and as it goes on.

    Raises:
        ValueError: an option is wrong or does not fit the others.
        StinPipeError: nothing to extract, or a run that was made with other parameters or is in use.
        ExtractStopped: SIGTERM came, and `options.grace` is not 0.
    """
    resolved = resolve_extract(videos, options or ExtractOptions(), on_event)
    return make_in_run(
        run_path,
        "extract",
        resolved.listing,
        resolved.params,
        resolved.options,
        source={"videos": str(videos)},
        run_tasks=lambda tasks: _run_tasks(tasks, resolved, on_event),
        on_event=on_event,
    )


def resolve_extract(videos: Path, options: ExtractOptions, on_event: OnEvent) -> ResolvedExtract:
    """List the videos and decide what the options leave open; nothing is written.

    Raises:
        ValueError: an option is wrong or does not fit the others.
        StinPipeError: nothing to extract, or no cluster at the address.
    """
    options = replace(options, runner=_choose_runner(options, on_event))
    listing = list_videos(
        videos,
        dataset=options.dataset,
        splits_dir=options.splits,
        list_csv=options.list_csv,
        classes=options.classes or (),
        match=options.match,
        limit=options.limit,
    )
    params = _choose_params(listing.dataset, options)
    on_event(ExtractListed(listing=listing, params=params))
    return ResolvedExtract(options=options, listing=listing, params=params)


def make_in_run(
    run_path: Path,
    command: str,
    listing: Listing,
    params: ExtractParams,
    options: FailureOptions,
    *,
    source: Mapping[str, str],
    run_tasks: RunTasks,
    on_event: Callable[[ExtractEvent], None],
) -> ExtractResult:
    """Make the shards of a run under its lock, and record in run.json how.

    Args:
        run_path: the run directory; created if it does not exist.
        command: `extract` or `import`.
        listing: the videos.
        params: what decides the bytes of a shard.
        options: those of the command.
        source: the option that names the videos and its value, for the record.
        run_tasks: makes the shards.
        on_event: called at the start of the work and as it goes on.
    """
    # Not before the options have proved right: a mistake should leave no empty run behind.
    run = create_run(run_path)
    make_inside(run.extract / "shards", run.path)
    make_inside(run.extract, run.path)
    config = {"params": asdict(params), **asdict(options), **source}
    with (
        run_lock(run.extract / "lock.json", activity=command, break_lock=options.break_lock),
        recorded(run, command, config),
    ):
        return make_shards(
            run.extract,
            find_ledger(run.extract),
            listing,
            params,
            run_tasks=run_tasks,
            retry_failed=options.retry_failed,
            timeout_s=options.timeout,
            max_failure_rate=options.max_failure_rate,
            on_event=on_event,
        )


def _choose_runner(options: ExtractOptions, on_event: OnEvent) -> Literal["ray", "local"]:
    """Choose who runs the workers, and say so if it is only because ray is missing."""
    if options.address and options.runner == "local":
        raise ArgumentError("--address needs --runner ray", "address", "runner")
    if ray_installed():
        return "local" if options.runner == "local" else "ray"
    if options.runner == "ray" or options.address:
        flag = "--address" if options.address else "--runner ray"
        raise ArgumentError(
            f'{flag} needs ray, which is not installed: pip install "stin-pipe[cluster]"; '
            "without it, --runner local works on this machine",
            "address" if options.address else "runner",
        )
    if options.runner == "auto":
        message = 'ray is not installed ("stin-pipe[cluster]"): processes on this machine do the work'
        on_event(ExtractNotice(message=message, is_warning=False))
    return "local"


def _cluster(options: ExtractOptions) -> str | None:
    return cluster_address(options.address) if options.runner == "ray" else None


def _choose_params(dataset: str, options: ExtractOptions) -> ExtractParams:
    size, short_side = options.size, options.short_side
    if size and short_side:
        raise ArgumentError(
            "--size and --short-side exclude each other; give one of them", "size", "short_side"
        )
    if options.fps and options.stride > 1:
        raise ArgumentError("--fps and --stride exclude each other; give one of them", "fps", "stride")

    if not size and not short_side:
        # Published results on the two data sets use this size, although it changes the aspect ratio a little.
        size, short_side = ((340, 256), None) if dataset in ("ucf101", "hmdb51") else (None, 256)

    # Options of flow are checked without flow too; they wait for the day when it is added.
    tvl1_params = set_params(options.flow_settings)
    flow_backend = NO_FLOW if options.streams == "rgb" else _choose_flow(options)
    if flow_backend != NO_FLOW:
        require_support(flow_backend, tvl1_params)
    shorter = min(size) if size else int(short_side or 0)
    params = ExtractParams(
        size=size,
        short_side=short_side,
        bound_px=options.bound or usual_bound_px(shorter),
        flow_backend=flow_backend,
        flow=tvl1_params.as_record(),
        fps=options.fps,
        decoding=DECODING,
        interlaced=options.interlaced,
        flow_pairs=options.flow_pairs,
        stride=options.stride,
        codec=options.codec,
        partial=options.partial,
    )
    return params.only(options.streams)


def _choose_flow(options: ExtractOptions) -> str:
    """Choose the back end once, for all workers; a cluster may have the GPU that this machine lacks."""
    address = _cluster(options)
    if options.allow_mixed_flow and (options.flow != "auto" or not address):
        raise ArgumentError(
            "--allow-mixed-flow needs --flow auto and a cluster (--address)", "allow_mixed_flow"
        )
    if not address or options.flow not in ("auto", "cuda"):
        return resolve_backend(options.flow)
    if options.flow == "cuda":
        return "cuda"
    return flow_of_cluster(address, allow_mixed=options.allow_mixed_flow)


def _run_tasks(
    tasks: Sequence[ShardTask], resolved: ResolvedExtract, on_event: OnEvent
) -> Iterator[ShardReport | None]:
    """Give the tasks to the runner; within the time after SIGTERM it begins no further shard."""
    options, grace = resolved.options, Grace(resolved.options.grace)

    def stop() -> bool:
        grace.check()
        return grace.asked

    with grace:
        if options.runner == "local":
            # Twice as many videos as CPUs: decoders wait for the disk, and all of them for the GPU.
            cpus = resolved.cpus_per_slot
            tasks = [replace(task, num_threads=2 * cpus if cpus > 1 else 1) for task in tasks]
            num_workers = min(resolved.num_slots() or 1, len(tasks))
            yield from run_local(tasks, num_workers=num_workers, stop=stop)
        else:
            yield from run_ray(
                tasks,
                num_workers=options.workers,
                address=options.address,
                gpus_per_worker=options.gpus_per_worker,
                cpus_per_worker=options.cpus_per_worker,
                need_bytes=estimate_bytes(resolved.listing, resolved.params),
                warn=lambda line: on_event(ExtractNotice(message=line)),
                stop=stop,
            )
