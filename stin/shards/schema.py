"""The contract between extraction and training: what a shard, its mark and the manifest hold.

docs/shard-format.md describes the HDF5 file itself; `writer` makes it, `reader` reads it.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.from_json import from_json, shown
from stin_pipe.stin.shards.names import require_group_name, require_name, require_shard_name
from stin_pipe.stin.shards.publish import canonical_json, is_whole, publish_checked_json

FORMAT_VERSION = 1
"""Version of shard, plan, mark and manifest where every shard holds both streams."""
ONE_STREAM_VERSION = 2
"""Their version where a shard holds one stream, which older programs would take for damage."""
FORMAT_VERSIONS = (FORMAT_VERSION, ONE_STREAM_VERSION)
"""The versions that are read; a reader refuses any other."""

MAX_PIXELS = 1 << 26
"""Of a frame; a larger one is refused before memory is taken for it. A field has twice as many."""

Stream = Literal["rgb", "flow"]
Streams = Literal["both", "rgb", "flow"]
"""What is stored of a video: its frames, its flow, or both."""
STREAMS: tuple[Stream, ...] = ("rgb", "flow")
STORED_OF: Mapping[str, Stream] = {"spatial": "rgb", "temporal": "flow"}
"""What each stream of the network reads."""
Subset = Literal["train", "test"]
ImageCodec = Literal["jpeg", "png"]
SplitOrigin = Literal["lists", "column", "hash"]
"""Who decides the side of a video: split lists, the split column of a CSV, or a hash of its name."""

HASH_SENTENCE_OF_0_1_0 = "split 1 was made by a stable hash, 70 % train, 30 % test"
"""Part of the `split_source` of hash splits in version 0.1.0, whose files had no `split_from`."""

MARK = FileKind(name="mark", next_step="run extract again to rebuild its shard")
MANIFEST = FileKind(name="manifest", max_bytes=1 << 30, next_step="run extract again to rebuild it")


def streams_in(streams: Streams) -> tuple[Stream, ...]:
    """Return the streams that `both` or a single name stands for."""
    return STREAMS if streams == "both" else (streams,)


def join_streams(parts: Iterable[Streams]) -> Streams:
    """Return what several shards hold together."""
    names = {name for part in parts for name in streams_in(part)}
    return "both" if len(names) == len(STREAMS) else cast(Stream, names.pop())


def missing_stream(streams: Streams) -> Stream:
    """Return what a single stream lacks to be both."""
    return "flow" if streams == "rgb" else "rgb"


def format_version(streams: Streams) -> int:
    """Return the version of the files of a shard that holds these streams."""
    return FORMAT_VERSION if streams == "both" else ONE_STREAM_VERSION


@dataclass(frozen=True, kw_only=True)
class FlowCoding:
    """How a stored byte becomes motion: `v_px = (q - zero) * scale`.

    Attributes:
        zero: byte value of no motion.
        scale: pixels a frame for one step of the byte.
    """

    zero: float = 128.0
    scale: float = 20.0 / 127.0

    @classmethod
    def from_bound(cls, bound_px: float) -> "FlowCoding":
        """Return the coding of our own shards: no motion is exactly 128, +-`bound_px` are 255 and 1."""
        if not bound_px > 0:
            raise ValueError(f"bound_px must be > 0, got {bound_px}")
        return cls(zero=128.0, scale=bound_px / 127.0)

    @classmethod
    def of_frame_folders(cls, bound_px: float) -> "FlowCoding":
        """Return the coding of TSN's tools: `q = round(255 (v + b) / (2 b))`, so 0 and 255 are -+b.

        No byte means no motion: the nearest, 128, is +b/255.
        """
        if not bound_px > 0:
            raise ValueError(f"bound_px must be > 0, got {bound_px}")
        return cls(zero=127.5, scale=2.0 * bound_px / 255.0)


@dataclass(frozen=True, kw_only=True)
class VideoMeta:
    """What a shard stores about one video beside its frames: the attributes of its group."""

    id: str
    label: int
    class_name: str
    num_frames: int
    height: int
    width: int
    fps: float
    source_sha256: str
    notes: Mapping[str, Any]
    digest: str

    def __post_init__(self) -> None:
        _require_counts(self)


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """What became of one planned video: an entry of a shard's mark.

    Attributes:
        reason: short key of the failure (`too_short`, `undecodable`, ...), empty if done.
        message: a sentence for people, empty if done.
        retry: whether another try may succeed (after a timeout it may, with a text file it will not).
        meta: the stored video if done.
        group: name of its group in the shard if done.
        notes: what the decoder reported (frames announced and decoded, messages).
        seconds: time spent; estimates of what is left rest on it.
    """

    id: str
    state: Literal["done", "failed"]
    group: str = ""
    reason: str = ""
    message: str = ""
    retry: bool = False
    meta: VideoMeta | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.group or self.meta:
            require_group_name(self.group)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The file NNNNN.json beside a shard, written last: its presence means the shard is done."""

    shard: str
    fingerprint: str
    outcomes: tuple[VideoOutcome, ...]
    digest: str
    num_bytes: int
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require_shard_name(self.shard)

    def save(self, path: Path) -> None:
        """Publish the mark; from now on the shard counts as done."""
        publish_checked_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Mark":
        """Read a mark.

        Raises:
            StinPipeError: the file is damaged or of another format version.
        """
        return load_checked(cls, path, MARK)


@dataclass(frozen=True, kw_only=True)
class Companion:
    """Where the stream of a video is stored that was added later: in a shard of that stream alone."""

    shard: str
    group: str
    digest: str

    def __post_init__(self) -> None:
        require_shard_name(self.shard)
        require_group_name(self.group)


@dataclass(frozen=True, kw_only=True)
class ManifestVideo:
    """One extracted video as later stages see it.

    Attributes:
        id: `class/name.ext` by the last listing; everything is joined by it. The shard may know the video by
            another, from before it was renamed or relabelled.
        shard: name of the shard file, five digits; `group` is the group inside it.
        splits: split name -> `train` or `test`; a split that does not use the video is absent.
        digest: content digest of frames, fields and attributes.
        group_key: equal for videos cut from one recording (UCF101's g01..g25); None if unknown.
        streams: what `shard` holds of the video.
        companion: the other stream, if it was added later.
    """

    id: str
    label: int
    num_frames: int
    height: int
    width: int
    fps: float
    shard: str
    group: str
    splits: Mapping[str, Subset]
    digest: str
    group_key: str | None = None
    streams: Streams = "both"
    companion: Companion | None = None

    def has(self, stream: Stream) -> bool:
        """Tell whether a stream of the video is stored."""
        return self.companion is not None or stream in streams_in(self.streams)

    def digest_of(self, stream: Stream) -> str:
        """Return the content digest of the shard's part that holds a stream."""
        if stream in streams_in(self.streams) or self.companion is None:
            return self.digest
        return self.companion.digest

    def __post_init__(self) -> None:
        require_shard_name(self.shard)
        require_group_name(self.group)
        _require_counts(self)

    @classmethod
    def of(
        cls,
        meta: VideoMeta,
        *,
        id: str | None = None,
        label: int | None = None,
        shard: str,
        group: str,
        splits: Mapping[str, Subset],
        group_key: str | None = None,
        streams: Streams = "both",
        companion: Companion | None = None,
    ) -> "ManifestVideo":
        """Return the entry of a stored video: what its shard says of it, where that is, and its sides.

        The lists may have given it another id and label since it was stored.
        """
        return cls(
            id=meta.id if id is None else id,
            label=meta.label if label is None else label,
            num_frames=meta.num_frames,
            height=meta.height,
            width=meta.width,
            fps=meta.fps,
            digest=meta.digest,
            shard=shard,
            group=group,
            splits=splits,
            group_key=group_key,
            streams=streams,
            companion=companion,
        )


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """A listed video that could not be extracted; fuse-eval counts it as wrong.

    Attributes:
        stream: the stream that could not be added to a stored video; None if nothing of it is stored.
    """

    id: str
    label: int
    splits: Mapping[str, Subset]
    reason: str
    message: str = ""
    stream: Stream | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The videos of a run, each with the shard that holds it; derived from plans and marks.

    Attributes:
        split_from: who decided the sides of the videos.
        split_source: the same as a sentence for people.
        videos: extracted videos by id, in order of id.
        failed: videos that were tried and could not be extracted.
        num_skipped: video files that no list names.
        num_absent: listed videos that the folder lacks.
        num_pending: listed videos whose shard is not done yet.
        bound_px: motion in pixels a frame that the largest byte stands for; of no meaning without flow.
        streams: what the run stores; a single video may lack a stream that could not be added to it.
        num_unlisted: videos in the run that the last listing does not name; they are in none of these lists.
    """

    dataset: str
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    split_from: SplitOrigin
    split_source: str
    videos: Mapping[str, ManifestVideo]
    failed: tuple[FailedVideo, ...]
    num_skipped: int
    num_absent: int
    num_pending: int
    bound_px: float
    flow_backend: str
    fingerprint: str
    streams: Streams = "both"
    num_unlisted: int = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require_split_names(self.split_names)

    def save(self, path: Path) -> None:
        """Publish the manifest; it replaces an older one as a whole."""
        videos = [_without(asdict(video), streams="both", companion=None) for video in self.videos.values()]
        failed = [_without(asdict(video), stream=None) for video in self.failed]
        publish_checked_json(
            path, _without(asdict(self), streams="both") | {"videos": videos, "failed": failed}
        )

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            StinPipeError: it is missing, damaged or of another format version.
        """
        if not path.exists():
            lock = path.with_name("lock.json")
            hint = f"; if an extract is at work now ({lock} names its process), wait until it ends"
            raise StinPipeError(
                f"{path} does not exist: run `stin-pipe extract` on this run first{hint * lock.exists()}"
            )
        manifest: Manifest = load_checked(cls, path, MANIFEST, prepare=_by_id)
        num_classes = len(manifest.classes)
        for video in (*manifest.videos.values(), *manifest.failed):
            if not 0 <= video.label < num_classes:
                reason = f"{video.id} has label {video.label}, but there are {num_classes} classes"
                raise UnreadableFileError(path, MANIFEST, reason)
        return manifest

    def subset(self, split: str, subset: Subset, *streams: Stream) -> tuple[ManifestVideo, ...]:
        """Return the videos of one side of a split that have all these streams, in order of id.

        Raises:
            StinPipeError: the run has no such split, or lacks a stream.
        """
        self.require(*streams)
        if split not in self.split_names:
            names = ", ".join(self.split_names) or "none"
            raise StinPipeError(f"split {split!r} is not in this run; its splits are: {names}")
        return tuple(
            video
            for video in self.videos.values()
            if video.splits.get(split) == subset and all(map(video.has, streams))
        )

    def failed_of(self, split: str, subset: Subset, *streams: Stream) -> tuple[FailedVideo, ...]:
        """Return the videos of one side of a split that failed, or lack one of the streams."""
        failed = [video for video in self.failed if video.stream is None]
        named = {video.id: video for video in self.failed if video.stream is not None}
        for video in self.videos.values():
            missing: list[Stream] = [stream for stream in streams if not video.has(stream)]
            if missing:
                unnamed = FailedVideo(
                    id=video.id,
                    label=video.label,
                    splits=video.splits,
                    reason="no_stream",
                    message=f"{video.id}: {missing[0]} was not added",
                    stream=missing[0],
                )
                failed.append(named.get(video.id, unnamed))
        return tuple(video for video in failed if video.splits.get(split) == subset)

    def require(self, *streams: Stream) -> None:
        """Refuse work on a stream that the run does not store.

        Raises:
            StinPipeError: names the stream, and the option that adds it.
        """
        for stream in streams:
            if stream not in streams_in(self.streams):
                name = {"rgb": "frames", "flow": "flow"}[stream]
                raise StinPipeError(
                    f"this run holds no {name}: it was extracted with --streams {self.streams}",
                    next_step=f"the same extract or import command with --streams both adds the {name}",
                )


def attributes_crc(attributes: Mapping[str, Any]) -> int:
    """Return the checksum of HDF5 attributes, which HDF5 itself does not protect."""
    plain = {name: value for name, value in attributes.items() if name != "attrs_crc32"}
    return zlib.crc32(canonical_json(plain))


def load_checked(
    kind: Any,
    path: Path,
    file_kind: FileKind,
    *,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda value: value,
) -> Any:
    """Read a dataclass that `publish_checked_json` wrote.

    Args:
        kind: the dataclass.
        path: its file.
        file_kind: what the file is, for messages.
        prepare: brings what older versions wrote into the form of today.

    Raises:
        FileNotFoundError: there is no such file.
        StinPipeError: it cannot be read, is of another format version, differs from its checksum, or holds a
            value that it must not hold.
    """
    value = read_json(path, file_kind)
    # The version first: another format may have another checksum.
    version = value.get("format_version")
    if version not in FORMAT_VERSIONS:
        raise StinPipeError(
            f"{path}: {file_kind.name} of format version {shown(version)}, but this program reads "
            f"{' and '.join(map(str, FORMAT_VERSIONS))}",
            next_step="use the program version that wrote the run, or a new run directory",
        )
    if not is_whole(value):
        raise StinPipeError(
            f"{path}: the {file_kind.name} differs from its checksum", next_step=file_kind.next_step
        )
    try:
        return from_json(kind, prepare(value), name=f"the {file_kind.name}")
    except ValueError as error:
        raise UnreadableFileError(path, file_kind, str(error)) from error


def with_split_origin(value: dict[str, Any]) -> dict[str, Any]:
    """Add `split_from` to a plan or manifest of version 0.1.0, which kept it only as a sentence."""
    if "split_from" in value:
        return value
    source = value.get("split_source")
    if isinstance(source, str) and HASH_SENTENCE_OF_0_1_0 in source:
        return value | {"split_from": "hash"}
    return value | {"split_from": "column" if value.get("dataset") == "csv" else "lists"}


def _without(value: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """Leave out what has its default value, so that programs that do not know these fields can read on."""
    return {name: item for name, item in value.items() if name not in defaults or item != defaults[name]}


def require_split_names(names: tuple[str, ...]) -> None:
    """Refuse names of splits that cannot name a folder, `split1`.

    Raises:
        ValueError: names the split.
    """
    for name in names:
        require_name(name, "a split")


def _by_id(value: dict[str, Any]) -> dict[str, Any]:
    """Key the videos of a manifest, which its file holds as a list, by their ids."""
    value = with_split_origin(value)
    if "videos" not in value:
        return value
    videos = from_json(tuple[Mapping[str, Any], ...], value["videos"], name="videos")
    by_id = {str(video.get("id")): video for video in videos}
    if len(by_id) < len(videos):
        raise ValueError("two of its videos have one id")
    return value | {"videos": by_id}


def _require_counts(video: "VideoMeta | ManifestVideo") -> None:
    for name in ("label", "num_frames", "height", "width", "fps"):
        if not getattr(video, name) >= 0:
            raise ValueError(f"{video.id}: {name} must be >= 0, got {getattr(video, name)}")


def list_digest(videos: tuple[ManifestVideo, ...], stream: Stream) -> str:
    """Return a digest of the videos of a list: of their ids, labels, and what is stored of a stream."""
    text = "\n".join(f"{video.id}\t{video.label}\t{video.digest_of(stream)}" for video in videos)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
