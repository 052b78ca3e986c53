"""The plan of a run, frozen before any work starts: which video goes into which shard, with which parameters.

Identity is content: ordered video ids, and a fingerprint of everything that decides the bytes of a shard. The
number of workers is no part of it, so a resumed run may use any.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from stin_pipe.pipeline.decoding.header import Interlaced
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.stin.shards.bounded import FileKind
from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError
from stin_pipe.stin.shards.names import require_shard_name
from stin_pipe.stin.shards.publish import canonical_json, publish_checked_json
from stin_pipe.stin.shards.schema import (
    FORMAT_VERSION,
    FlowCoding,
    ImageCodec,
    SplitOrigin,
    Stream,
    Streams,
    format_version,
    join_streams,
    load_checked,
    require_split_names,
    streams_in,
    with_split_origin,
)

ALGORITHM_VERSION = 2
"""To be raised by hand when the same parameters give other bytes than before."""

MAX_VIDEOS_PER_SHARD = 16
MAX_SHARD_BYTES = 256 * 1024 * 1024
MIN_SHARDS = 32
"""A small data set gets smaller shards, so that every worker has something to do."""

STORED_PER_SOURCE_BYTE: Mapping[Streams, int] = {"both": 12, "rgb": 10, "flow": 2}
"""JPEG frames and fields at 340x256 for each byte of 320x240 video (UCF101: 7 GB give about 84 GB)."""

IMPORTED = "imported"
"""The `flow_backend` of shards whose frames and flow came as folders of images."""

MIXED = "mixed"
"""The `flow_backend` of a run where each node uses the back end that suits it; each shard names its own."""

ROWS_OF_BOUND_20 = 256
"""Rows at which a bound of 20 pixels a frame is usual; motion in pixels grows with the picture."""

NO_FLOW = "none"
"""The `flow_backend` of shards of frames alone."""
NO_BOUND_PX = 20.0
"""Their `bound_px`, a number like any other, so that a run resumes whatever the options of flow."""

DECODING = 2
"""How new runs take pictures from a file; see `ExtractParams.decoding`."""

FlowPairs = Literal["stored", "source"]
PlanKind = Literal["first", "added", "changed", "retry", "stream"]
"""Why a plan was made; `stream` adds to stored videos the stream that they lack."""
PLAN = FileKind(name="plan", max_bytes=1 << 30, next_step="restore it, or start a new run directory")


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Everything that decides what a shard holds.

    Attributes:
        size: (width, height) of stored frames in pixels; None keeps the aspect ratio and uses `short_side`.
        short_side: length of the shorter side in pixels if `size` is None.
        bound_px: motion in pixels a frame that the largest byte stands for.
        fps: resample to this rate; None keeps every frame.
        stride: keep every stride-th frame.
        flow_backend: a back end by name, never `auto`; or `mixed`, `imported` or `none` (see there).
        flow: parameters of TV-L1; for `imported` the names of the images.
        codec: `jpeg`, or `png` for lossless frames and fields.
        partial: whether a partly damaged video is kept with what could be decoded, or refused.
        streams: what is stored of a video.
        decoding: 2, or 1 in runs of earlier versions, which go on as they began: frames repeat where `fps` is
            above the source's rate, and fields of interlaced video and HDR colours stay as they are.
        interlaced: whether fields of interlaced video are joined to whole pictures.
        flow_pairs: whether flow leads from a frame to the next `stored` one, or to the next of the `source`.
    """

    size: tuple[int, int] | None
    short_side: int | None
    bound_px: float
    flow_backend: str
    flow: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fps: float | None = None
    stride: int = 1
    codec: ImageCodec = "jpeg"
    partial: Literal["keep", "refuse"] = "keep"
    streams: Streams = "both"
    decoding: int = 1
    interlaced: Interlaced = "deinterlace"
    flow_pairs: FlowPairs = "stored"

    def __post_init__(self) -> None:
        """Refuse values that no shard can have."""
        if self.streams not in get_args(Streams):
            raise ArgumentError(f"streams must be both, rgb or flow, got {self.streams!r}", "streams")
        if (self.size is None) == (self.short_side is None):
            raise ArgumentError("give either a size or a short side", "size", "short_side")
        sides = self.size or (self.short_side or 0,)
        if min(sides) < 16 or max(sides) > 4096:
            got = "x".join(map(str, sides))
            option = "size" if self.size else "short_side"
            raise ArgumentError(f"sides must be 16 to 4096 px (flow needs 16), got {got}", option)
        if not 0 < self.bound_px < float("inf"):
            raise ArgumentError(f"bound must be > 0 pixels a frame, got {self.bound_px:g}", "bound")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ArgumentError(f"fps must be > 0 and at most 1000, got {self.fps:g}", "fps")
        if self.stride < 1:
            raise ArgumentError(f"stride must be >= 1, got {self.stride}", "stride")
        if self.decoding not in (1, DECODING):
            raise ArgumentError(f"decoding must be 1 or {DECODING}, got {self.decoding!r}", "decoding")
        if self.interlaced not in get_args(Interlaced):
            raise ArgumentError(
                f"interlaced must be deinterlace or keep, got {self.interlaced!r}", "interlaced"
            )
        if self.flow_pairs not in get_args(FlowPairs):
            raise ArgumentError(f"flow_pairs must be stored or source, got {self.flow_pairs!r}", "flow_pairs")

    @property
    def flow_coding(self) -> FlowCoding:
        """How the stored bytes of flow become pixels a frame."""
        if self.flow_backend == IMPORTED:
            return FlowCoding.of_frame_folders(self.bound_px)
        return FlowCoding.from_bound(self.bound_px)

    def stores(self, stream: Stream) -> bool:
        """Tell whether a stream is stored."""
        return stream in streams_in(self.streams)

    def only(self, streams: Streams) -> "ExtractParams":
        """Return the parameters by which these streams alone are stored, with the same bytes."""
        params = replace(self, streams=streams)
        if params.stores("flow"):
            return params
        params = replace(params, flow_pairs="stored")
        if self.flow_backend == IMPORTED:  # its `flow` names the images of frames too
            return replace(params, bound_px=NO_BOUND_PX)
        return replace(params, flow_backend=NO_FLOW, flow={}, bound_px=NO_BOUND_PX)

    def as_record(self) -> dict[str, Any]:
        """Return plain values, without those that older programs do not know where they change nothing."""
        without = {"streams": "both", "decoding": 1, "interlaced": "deinterlace", "flow_pairs": "stored"}
        items = asdict(self).items()
        return {name: value for name, value in items if name not in without or without[name] != value}

    def going_on_from(self, plan: "Plan") -> "ExtractParams":
        """Return these parameters with the decoding that a run began with."""
        if plan.params.decoding == self.decoding:
            return self
        return replace(self, decoding=plan.params.decoding, interlaced=plan.params.interlaced)

    def fingerprint(self) -> str:
        """Return the digest that two runs share if and only if their shards may be mixed."""
        version = format_version(self.streams)
        identity = {"params": self.as_record(), "algorithm": ALGORITHM_VERSION, "format": version}
        return hashlib.sha256(canonical_json(identity)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """A planned shard: its name (five digits) and its videos in order."""

    name: str
    videos: tuple[ListedVideo, ...]

    def __post_init__(self) -> None:
        require_shard_name(self.name)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One frozen plan: `plan.json`, or `plan-NNNN.json` for videos added or retried later."""

    kind: PlanKind
    dataset: str
    root: str
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    split_from: SplitOrigin
    split_source: str
    num_skipped: int
    num_absent: int
    params: ExtractParams
    fingerprint: str
    shards: tuple[PlannedShard, ...]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require_split_names(self.split_names)

    def save(self, path: Path) -> None:
        """Publish the plan; it never changes afterwards."""
        publish_checked_json(path, asdict(self) | {"params": self.params.as_record()})

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan.

        Raises:
            StinPipeError: it is damaged or of another format version.
        """
        return load_checked(cls, path, PLAN, prepare=with_split_origin)


def make_plan(
    listing: Listing,
    params: ExtractParams,
    *,
    kind: PlanKind = "first",
    first_shard: int = 0,
    videos: Sequence[ListedVideo] | None = None,
) -> Plan:
    """Divide videos into shards of at most 16 videos and about 256 MB.

    Args:
        listing: the data set; its classes and splits are written into the plan.
        params: what decides the bytes.
        kind: `first`, or why this is a later plan.
        first_shard: number of the first shard.
        videos: the part of the listing to plan; None is all of it.
    """
    videos = listing.videos if videos is None else videos
    per_shard = min(MAX_VIDEOS_PER_SHARD, max(1, -(-len(videos) // MIN_SHARDS)))
    # Parts of one file share its bytes.
    num_parts = Counter(video.path for video in listing.videos)

    # Filled in order, without a look back: the same listing must give the same shards on every machine.
    groups: list[list[ListedVideo]] = []
    free_bytes = 0
    for video in videos:
        num_bytes = _stored_bytes(listing.root / video.path, params) // max(1, num_parts[video.path])
        if not groups or len(groups[-1]) >= per_shard or num_bytes > free_bytes:
            groups.append([])
            free_bytes = MAX_SHARD_BYTES
        groups[-1].append(video)
        free_bytes -= num_bytes

    return Plan(
        kind=kind,
        dataset=listing.dataset,
        root=str(listing.root.absolute()),
        classes=listing.classes,
        split_names=listing.split_names,
        split_from=listing.split_from,
        split_source=listing.split_source,
        num_skipped=listing.num_skipped,
        num_absent=listing.num_absent,
        params=params,
        fingerprint=params.fingerprint(),
        format_version=format_version(params.streams),
        shards=tuple(
            PlannedShard(name=f"{first_shard + number:05d}", videos=tuple(group))
            for number, group in enumerate(groups)
        ),
    )


def usual_bound_px(short_side: int) -> float:
    """Return the largest motion that is stored unless told otherwise, for frames of this shorter side."""
    return 20.0 * short_side / ROWS_OF_BOUND_20


def joined_params(plans: Sequence[Plan]) -> ExtractParams:
    """Return the parameters of all that some plans store together."""
    streams = join_streams(plan.params.streams for plan in plans)
    # All plans with flow make it alike; those without it say nothing of it.
    first = next((plan.params for plan in plans if plan.params.stores("flow")), plans[0].params)
    return replace(first, streams=streams)


def estimate_bytes(listing: Listing, params: ExtractParams) -> int:
    """Estimate the disk that the shards will take, from the sizes of source files and stored frames."""
    return sum(
        _stored_bytes(listing.root / path, params) for path in {video.path for video in listing.videos}
    )


def require_same_params(plans: Sequence[Plan], params: ExtractParams, *, path: Path) -> None:
    """Refuse to resume a run with other parameters, or with fewer streams than it has.

    Raises:
        StinPipeError: names every parameter that differs.
    """
    stored = joined_params(plans).streams
    both = join_streams([stored, params.streams])
    if both != params.streams:
        raise StinPipeError(
            f"{path}: the run stores {_STREAM_NAMES[stored]}, but --streams {params.streams} would store "
            f"{_STREAM_NAMES[params.streams]}; give --streams {both}, or another --run"
        )
    for plan in plans:
        _require_same(plan, params.only(plan.params.streams), path)


def _require_same(plan: Plan, params: ExtractParams, path: Path) -> None:
    """Compare a plan with parameters of the same streams."""
    if plan.fingerprint == params.fingerprint():
        return
    by_import, now_import = (item.flow_backend == IMPORTED for item in (plan.params, params))
    if by_import != now_import:
        maker, other = ("import", "extract") if by_import else ("extract", "import")
        raise StinPipeError(f"{path}: the run was made by {maker}; {other} needs another --run")

    old, new = (asdict(item) | dict(item.flow) for item in (plan.params, params))
    differences = [
        f"{name}: {_show(old.get(name))} in the run, {_show(new.get(name))} now"
        for name in {**old, **new}
        if name not in ("flow", "streams") and old.get(name) != new.get(name)
    ]
    if not differences:
        # Equal parameters, but another ALGORITHM_VERSION.
        raise StinPipeError(
            f"{path}: the run was made by a version of stin-pipe that extracts some videos differently "
            "(parts, --fps, pixels that are not square); it can be trained and evaluated as it is; to add "
            "videos, use the version that made it, or another --run"
        )
    raise StinPipeError(
        f"{path}: the run was planned with other parameters ({'; '.join(differences)}); "
        "give the same ones to resume, or another --run"
    )


def _stored_bytes(path: Path, params: ExtractParams) -> int:
    if params.flow_backend == IMPORTED:
        return _folder_bytes(path)
    width, height = params.size or (round(4 / 3 * (params.short_side or 0)), params.short_side or 0)
    try:
        num_bytes = path.stat().st_size
    except OSError:
        # Gone since it was listed; the extraction records why.
        return 0
    per_byte = STORED_PER_SOURCE_BYTE[params.streams]
    return round(per_byte * num_bytes * width * height / (340 * 256))


def _folder_bytes(folder: Path) -> int:
    """Estimate the size of a folder of images by one file in eight; shards keep most of its bytes."""
    try:
        images = sorted(folder.iterdir())
        return sum(8 * image.stat().st_size for image in images[::8])
    except OSError:
        # Gone, or not readable; the import records why.
        return 0


_STREAM_NAMES: Mapping[Streams, str] = {
    "both": "frames and flow",
    "rgb": "frames alone",
    "flow": "flow alone",
}


def _show(value: Any) -> str:
    """Write a size as 340x256, anything else as it is."""
    return "x".join(map(str, cast(tuple[int, ...], value))) if isinstance(value, tuple) else str(value)
