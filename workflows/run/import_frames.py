"""Import folders of frames and flow images, made by other tools, into a run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stin_pipe.pipeline.extraction import ExtractListed, ExtractNotice, ExtractResult, OnEvent
from stin_pipe.pipeline.listing.files import FoundFiles
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.listing import Listing
from stin_pipe.pipeline.planning.plan import IMPORTED, ExtractParams, Plan
from stin_pipe.pipeline.runners.local import run_local
from stin_pipe.pipeline.shard.from_images import first_short_side, require_images
from stin_pipe.pipeline.shard.image_folders import FrameNames, scan_frame_folders
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.results.stored import is_number, read_record
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import ImageCodec, Streams
from stin_pipe.workflows.run.extraction import FailureOptions, make_in_run

BOUND_OF_TSN_PX = 20.0
"""What the tools of TSN use; their files do not record it."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(FailureOptions):
    """The options of an import.

    Attributes:
        splits: folder of split lists: UCF style, HMDB style, or those of frame folders.
        classes: use only these classes.
        limit: use at most this many videos, spread over the classes.
        image_name: names of frames in the folder of a video.
        flow_x_name: names of the images of flow to the right.
        flow_y_name: names of the images of flow downwards.
        streams: which images are taken: those of frames, those of flow, or both.
        bound: motion in pixels a frame that grey 255 stands for; None is the bound of an export, else 20.
        fps: rate of the frames.
        codec: how fields are stored; frames keep their bytes.
        workers: processes; None is all CPUs.
    """

    splits: Path | None = None
    classes: Sequence[str] | None = None
    limit: int | None = None
    image_name: str = "img_%05d"
    flow_x_name: str = "flow_x_%05d"
    flow_y_name: str = "flow_y_%05d"
    streams: Streams = "both"
    bound: float | None = None
    fps: float | None = None
    codec: ImageCodec = "jpeg"
    workers: int | None = None


def import_run(
    run_path: Path,
    frames: Path,
    options: ImportOptions | None = None,
    on_event: OnEvent = lambda _event: None,
) -> ExtractResult:
    """Take folders of images, `frames/<class>/<video>/`, into the shards of a run.

    Args:
        run_path: the run directory; created if it does not exist.
        frames: folder of class folders.
        options: see `ImportOptions`.
        on_event: called with the listing, at the start of the work, and as it goes on.

    Raises:
        ValueError: an option is wrong or does not fit the others.
        StinPipeError: nothing to import, or a run that was made with other parameters or is in use.
    """
    options = options or ImportOptions()
    names = FrameNames(image=options.image_name, flow_x=options.flow_x_name, flow_y=options.flow_y_name)
    first_name = names.flow_x if options.streams == "flow" else names.image
    folders = scan_frame_folders(frames, first_name)
    if not folders:
        raise StinPipeError(
            f"{frames}: no folders of images; expected {frames}/<class>/<video>/{first_name % 1}.jpg; "
            "give the folder above the classes, or --image-name; for videos use `stin-pipe extract`"
        )

    # From here on a folder of images is a video like any other.
    listing = list_videos(
        frames,
        splits_dir=options.splits,
        classes=options.classes or (),
        limit=options.limit,
        find=lambda _root: FoundFiles(videos=folders),
    )
    require_images(listing, names, options.streams)

    params = _choose_params(run_path / "extract" / "plan.json", listing, names, options, on_event)
    on_event(ExtractListed(listing=listing, params=params))
    num_workers = options.workers or usable_cpus()
    return make_in_run(
        run_path,
        "import",
        listing,
        params,
        options,
        source={"frames": str(frames)},
        run_tasks=lambda tasks: run_local(tasks, num_workers=min(num_workers, len(tasks))),
        on_event=on_event,
    )


def _choose_params(
    first_plan: Path, listing: Listing, names: FrameNames, options: ImportOptions, on_event: OnEvent
) -> ExtractParams:
    """Describe the shards; their short side is that of the first readable video, or that of the run."""
    bound_px = options.bound or _exported_bound(listing.root)
    is_new = not first_plan.exists()
    has_flow = options.streams != "rgb"
    if is_new and has_flow and bound_px is None:
        message = (
            f"no export.json beside {listing.root} and no --bound: the flow images are assumed to have a "
            f"bound of {BOUND_OF_TSN_PX:g} px, as those of TSN's tools have; if not, give --bound"
        )
        on_event(ExtractNotice(message=message))
    first_name = names.image if options.streams != "flow" else names.flow_x
    short_side = first_short_side(listing, first_name) if is_new else Plan.load(first_plan).params.short_side
    params = ExtractParams(
        size=None,
        short_side=short_side or 256,
        bound_px=bound_px or BOUND_OF_TSN_PX,
        flow_backend=IMPORTED,
        flow=asdict(names),
        fps=options.fps,
        codec=options.codec,
    )
    return params.only(options.streams)


def _exported_bound(frames: Path) -> float | None:
    """Return the bound that `stin-pipe export` recorded beside its frames; other tools record none."""
    bound = read_record(frames.absolute().parent / "export.json").get("bound_px")
    return float(bound) if isinstance(bound, (int, float)) and is_number(bound) else None
