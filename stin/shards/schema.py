"""The contract between extraction and training: what a shard, its mark and the manifest say.

The layout of the HDF5 file itself is drawn in ARCHITECTURE.md; `writer` makes it, `reader` reads it.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import canonical_json, is_whole, publish_checked_json

FORMAT_VERSION = 1
"""Version of the shard, mark and manifest formats; a reader refuses any other."""

Stream = Literal["rgb", "flow"]
Subset = Literal["train", "test"]
ImageCodec = Literal["jpeg", "png"]
SplitOrigin = Literal["lists", "column", "hash"]
"""Who decides the side of a video: split lists, the split column of a CSV, or a hash of its name."""

HASH_SENTENCE_OF_0_1_0 = "split 1 was made by a stable hash, 70 % train, 30 % test"
"""In the `split_source` of a hash split of version 0.1.0, whose plans and manifests had no `split_from`."""


@dataclass(frozen=True, kw_only=True)
class FlowCoding:
    """How a stored byte becomes a motion: `v_px = (q - zero) * scale`.

    Attributes:
        zero: byte value of no motion.
        scale: pixels a frame for one step of the byte.
    """

    zero: float = 128.0
    scale: float = 20.0 / 127.0

    @classmethod
    def from_bound(cls, bound_px: float) -> "FlowCoding":
        """Return our own coding: zero is 128 exactly, +-`bound_px` are 255 and 1."""
        if not bound_px > 0:
            raise ValueError(f"bound_px must be > 0, got {bound_px}")
        return cls(zero=128.0, scale=bound_px / 127.0)

    @classmethod
    def of_frame_folders(cls, bound_px: float) -> "FlowCoding":
        """Return the coding of the tools around TSN: `q = round(255 (v + b) / (2 b))`, so 0 and 255 are -+b.

        No byte is motion 0: the nearest, 128, is +b/255.
        """
        if not bound_px > 0:
            raise ValueError(f"bound_px must be > 0, got {bound_px}")
        return cls(zero=127.5, scale=2.0 * bound_px / 255.0)


@dataclass(frozen=True, kw_only=True)
class VideoMeta:
    """What a shard stores beside the frames of one video (the attributes of its group)."""

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


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """What became of one planned video: one line of a shard's mark.

    Attributes:
        state: `done` or `failed`.
        reason: short key of the failure (`too_short`, `undecodable`, ...), empty when done.
        message: one sentence for a person, empty when done.
        retry: whether another try may succeed (a timeout may, a text file will not).
        meta: the stored video when done.
        group: name of its group in the shard when done.
        notes: what decoding had to say (frames announced and decoded, decoder messages).
        seconds: wall-clock seconds spent, for the ledger alone.
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


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The file NNNNN.json beside a shard, written last: its presence means that the shard is done."""

    shard: str
    fingerprint: str
    outcomes: tuple[VideoOutcome, ...]
    digest: str
    num_bytes: int
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        """Publish the mark; from here on the shard counts as done."""
        publish_checked_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Mark":
        """Read a mark.

        Raises:
            StinPipeError: the file is damaged or of another format version.
        """
        next_step = "run extract again to rebuild its shard"
        value = load_json(path, kind="mark", next_step=next_step)
        try:
            outcomes = tuple(_outcome(item) for item in value.pop("outcomes"))
            return cls(outcomes=outcomes, **value)
        except (AttributeError, KeyError, TypeError) as error:
            raise StinPipeError(f"{path}: damaged mark ({error})", next_step=next_step) from error


@dataclass(frozen=True, kw_only=True)
class ManifestVideo:
    """One extracted video as the later stages see it.

    Attributes:
        id: `class/name.ext`, the identity that joins everything.
        shard: five digits naming the shard file; `group` is the group inside it.
        splits: split name -> `train` or `test`; a split that does not use the video is absent.
        group_key: videos sharing it were cut from one recording (UCF101 g01..g25), else None.
        digest: content digest (frames, fields and attributes).
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

    @classmethod
    def of(
        cls,
        meta: VideoMeta,
        *,
        shard: str,
        group: str,
        splits: Mapping[str, Subset],
        group_key: str | None = None,
    ) -> "ManifestVideo":
        """Return the entry of a stored video: what its shard says of it, where it is, and its sides."""
        return cls(
            id=meta.id,
            label=meta.label,
            num_frames=meta.num_frames,
            height=meta.height,
            width=meta.width,
            fps=meta.fps,
            digest=meta.digest,
            shard=shard,
            group=group,
            splits=splits,
            group_key=group_key,
        )


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """One listed video that could not be extracted; fuse-eval counts it as wrong."""

    id: str
    label: int
    splits: Mapping[str, Subset]
    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Maps every video of a run to its one current shard; derived from plans and marks.

    Attributes:
        videos: extracted videos by id, in order of id.
        failed: videos that were tried and could not be extracted.
        split_from: who decided the sides of the splits.
        split_source: the same as a sentence for a person.
        num_skipped: video files that no list names.
        num_absent: listed videos that the folder lacks.
        num_pending: planned videos whose shard has no mark yet.
        bound_px: motion that the largest byte stands for.
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
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        """Publish the manifest, replacing it whole."""
        videos = [asdict(video) for video in self.videos.values()]
        publish_checked_json(path, asdict(self) | {"videos": videos})

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            StinPipeError: it is missing, damaged or of another format version.
        """
        if not path.exists():
            lock = path.with_name("lock.json")
            state = f"; if an extract works here now ({lock} names its process), wait for its end"
            raise StinPipeError(
                f"{path} does not exist: run `stin-pipe extract` on this run first{state * lock.exists()}"
            )
        next_step = "run extract again to rebuild it"
        value = load_json(path, kind="manifest", next_step=next_step)
        try:
            videos = [ManifestVideo(**item) for item in value.pop("videos")]
            failed = tuple(FailedVideo(**item) for item in value.pop("failed"))
            return cls(
                classes=tuple(value.pop("classes")),
                split_names=tuple(value.pop("split_names")),
                split_from=take_split_origin(value),
                videos={video.id: video for video in videos},
                failed=failed,
                **value,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise StinPipeError(f"{path}: damaged manifest ({error})", next_step=next_step) from error

    def subset(self, split: str, subset: Subset) -> tuple[ManifestVideo, ...]:
        """Return the videos of one side of a split, in order of id.

        Raises:
            StinPipeError: the run has no such split.
        """
        if split not in self.split_names:
            known = ", ".join(self.split_names) or "none"
            raise StinPipeError(f"split {split!r} is not in this run; its splits are: {known}")
        return tuple(video for video in self.videos.values() if video.splits.get(split) == subset)

    def failed_of(self, split: str, subset: Subset) -> tuple[FailedVideo, ...]:
        """Return the videos of one side of a split that could not be extracted."""
        return tuple(video for video in self.failed if video.splits.get(split) == subset)


def attributes_crc(attributes: Mapping[str, Any]) -> int:
    """Return the checksum that guards HDF5 attributes, which HDF5 itself leaves unguarded."""
    plain = {name: value for name, value in attributes.items() if name != "attrs_crc32"}
    return zlib.crc32(canonical_json(plain))


def take_split_origin(value: dict[str, Any]) -> SplitOrigin:
    """Take `split_from` out of a plan or manifest; version 0.1.0 said it in a sentence alone."""
    if "split_from" in value:
        return value.pop("split_from")
    if HASH_SENTENCE_OF_0_1_0 in value["split_source"]:
        return "hash"
    return "column" if value["dataset"] == "csv" else "lists"


def _outcome(item: dict[str, Any]) -> VideoOutcome:
    meta = item.pop("meta")
    return VideoOutcome(meta=None if meta is None else VideoMeta(**meta), **item)


def load_json(path: Path, *, kind: str, next_step: str) -> dict[str, Any]:
    """Read an object that `publish_checked_json` wrote.

    Raises:
        StinPipeError: it cannot be read, is of another format version, or differs from its checksum.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise StinPipeError(f"{path}: the {kind} cannot be read ({error})", next_step=next_step) from error
    if not isinstance(loaded, dict):
        raise StinPipeError(f"{path}: the {kind} is not a JSON object", next_step=next_step)
    value = cast(dict[str, Any], loaded)

    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise StinPipeError(
            f"{path}: {kind} of format version {version}, but this program reads version {FORMAT_VERSION}",
            next_step="use the program version that wrote the run, or a new run directory",
        )
    if not is_whole(value):
        raise StinPipeError(f"{path}: the {kind} differs from its checksum", next_step=next_step)
    return value
