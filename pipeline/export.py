"""The stage from shards to folders of images and lists, as the loaders of TSN and mmaction2 read them.

OUT/rawframes/<class>/<video>/img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg, ... and OUT/lists. Frames
keep the bytes of the shard. A folder gets its name when it is whole, so that the same call resumes.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stin_pipe.pipeline.runners.workers import WorkerDied, worker_pool
from stin_pipe.pipeline.shard.image_folders import FRAMES, FrameNames
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_json
from stin_pipe.stin.shards.codec import decode_field, encode_image, recode_field
from stin_pipe.stin.shards.errors import ShardError, StinPipeError
from stin_pipe.stin.shards.publish import is_temporary, publish_bytes, publish_json, temporary_name
from stin_pipe.stin.shards.reader import ShardFile
from stin_pipe.stin.shards.schema import (
    STREAMS,
    FlowCoding,
    ImageCodec,
    Manifest,
    ManifestVideo,
    Stream,
    Streams,
    streams_in,
)

MAX_NAME_BYTES = 120
_RECORD = FileKind(name="record of the export", max_bytes=1 << 30, next_step="export into a new folder")


@dataclass(frozen=True, kw_only=True)
class ExportStart:
    """What is about to be exported; `num_before` videos were written by earlier calls."""

    num_before: int
    total_videos: int


@dataclass(frozen=True, kw_only=True)
class ExportProgress:
    """How many videos are written by now, those of earlier calls included."""

    num_videos: int


ExportEvent = ExportStart | ExportProgress


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export holds.

    Attributes:
        videos: folders of videos, those of earlier calls included.
        streams: what the folders hold of a video.
        frames_written: frames that this call wrote.
        bound_px: motion in pixels a frame that grey 255 stands for.
        lists: names of the files in OUT/lists.
        renamed: folder by video id, where it is not `class/video`.
        problems: a line for each video that could not be written; it names shard and video.
        pending: videos that are planned and not extracted yet.
    """

    videos: int
    streams: Streams
    frames_written: int
    bound_px: float
    lists: tuple[str, ...]
    renamed: Mapping[str, str]
    problems: tuple[str, ...]
    pending: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """The videos of one shard that are to be written, by their folders under `out`."""

    shards: Path
    out: Path
    bound_px: float
    folders: Mapping[str, ManifestVideo]


@dataclass(frozen=True, kw_only=True)
class ShardExport:
    """What became of one shard's videos."""

    num_videos: int
    num_frames: int
    problems: tuple[str, ...]


def claim_folder(out: Path, manifest: Manifest, bound_px: float) -> None:
    """Make the folder of an export, or make sure that it holds an export of the same content.

    Raises:
        StinPipeError: it holds other things, or an export of other parameters or videos.
    """
    digests = {
        video.id: "+".join(dict.fromkeys(video.digest_of(stream) for stream in STREAMS if video.has(stream)))
        for video in manifest.videos.values()
    }
    settings: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "bound_px": bound_px,
    }
    if manifest.streams != "both":  # a folder that is whole without flow is not when flow was added
        settings["streams"] = manifest.streams

    out.mkdir(parents=True, exist_ok=True)
    record = out / "export.json"
    if not record.exists():
        if any(item.name != "lock.json" for item in out.iterdir()):
            raise StinPipeError(f"--out {out}: the folder holds other things; give a new or empty one")
        publish_json(record, settings | {"videos": digests})
        return

    stored = read_json(record, _RECORD)
    stored_digests = stored.pop("videos", {})
    if not isinstance(stored_digests, dict):
        raise UnreadableFileError(record, _RECORD, "its videos are not an object")
    if stored != settings:
        raise StinPipeError(
            f"--out {out}: holds an export of other parameters or another --bound (see export.json); "
            "give a new folder"
        )
    changed = [name for name, digest in digests.items() if stored_digests.get(name, digest) != digest]
    if changed:
        raise StinPipeError(
            f"--out {out}: holds other content of {len(changed)} videos (first: {changed[0]}); "
            "give a new folder"
        )
    # Videos that have left the run keep their folders, and so their entries.
    publish_json(record, settings | {"videos": stored_digests | digests})


def export_videos(
    extract_dir: Path,
    manifest: Manifest,
    out: Path,
    *,
    bound_px: float,
    num_workers: int | None = None,
    on_event: Callable[[ExportEvent], None] = lambda _event: None,
) -> ExportResult:
    """Write the folders that are missing under `out`, then the lists.

    Args:
        extract_dir: the run's `extract` folder.
        manifest: of the run.
        out: a folder that `claim_folder` has accepted; the caller holds its lock.
        bound_px: motion in pixels a frame that grey 255 stands for.
        num_workers: processes; None is all CPUs.
        on_event: called at the start and after each shard.

    Raises:
        StinPipeError: a process died, or none can start.
    """
    tasks = _export_tasks(extract_dir, manifest, out, bound_px)
    total = len(manifest.videos)
    num_videos = total - sum(len(task.folders) for task in tasks)
    on_event(ExportStart(num_before=num_videos, total_videos=total))

    num_frames, problems = 0, []
    for report in _run_tasks(tasks, num_workers or usable_cpus()):
        num_videos += report.num_videos
        num_frames += report.num_frames
        problems += report.problems
        on_event(ExportProgress(num_videos=num_videos))

    return ExportResult(
        videos=num_videos,
        streams=manifest.streams,
        frames_written=num_frames,
        bound_px=bound_px,
        lists=tuple(path.name for path in write_lists(out, manifest)),
        renamed=renamed_folders(list(manifest.videos)),
        problems=tuple(problems),
        pending=manifest.num_pending,
    )


def folder_names(video_ids: Sequence[str]) -> dict[str, str]:
    """Return the folder `class/video` of each id: a name that any loader and file system takes.

    Letters, digits and `-_.+@` stay; all else, blanks above all (lists are split at them), becomes `_`. Ids
    that would share a folder, also one that differs by case alone, get eight digits of their sha256.
    """
    folders = {}
    for video_id in video_ids:
        class_name, _, name = video_id.rpartition("/")
        folders[video_id] = f"{_safe(class_name or 'videos')}/{_safe(_without_suffix(name))}"

    counts = Counter(folder.lower() for folder in folders.values())
    for video_id, folder in folders.items():
        if counts[folder.lower()] > 1:
            folders[video_id] = f"{folder}-{hashlib.sha256(video_id.encode()).hexdigest()[:8]}"
    return folders


def renamed_folders(video_ids: Sequence[str]) -> dict[str, str]:
    """Return the ids whose folder has another name than `class/video` without its extension."""
    renamed = {}
    for video_id, folder in folder_names(video_ids).items():
        class_name, _, name = video_id.rpartition("/")
        if folder != f"{class_name}/{_without_suffix(name)}":
            renamed[video_id] = folder
    return renamed


def _export_tasks(extract_dir: Path, manifest: Manifest, out: Path, bound_px: float) -> list[ExportTask]:
    """Return what is still to be written, a task a shard; removes what a killed export left."""
    for leftover in (out / FRAMES).glob("*/.*.tmp"):
        if is_temporary(leftover):
            shutil.rmtree(leftover, ignore_errors=True)

    folders = folder_names(list(manifest.videos))
    by_shard: dict[str, dict[str, ManifestVideo]] = {}
    for video in manifest.videos.values():
        folder = folders[video.id]
        # It has this name only if it is whole.
        if not (out / FRAMES / folder).is_dir():
            by_shard.setdefault(video.shard, {})[folder] = video
    return [
        ExportTask(shards=extract_dir / "shards", out=out, bound_px=bound_px, folders=videos)
        for _, videos in sorted(by_shard.items())
    ]


def _run_tasks(tasks: Sequence[ExportTask], num_workers: int) -> Iterator[ShardExport]:
    """Run the tasks in processes of this machine."""
    if not tasks:
        return
    try:
        with worker_pool(min(num_workers, len(tasks)), export_shard) as pool:
            for future in as_completed([pool.submit(export_shard, task) for task in tasks]):
                yield future.result()
    except WorkerDied as death:
        raise StinPipeError(
            f"a process of the export died{death}; the same command resumes, perhaps with fewer --workers"
        ) from death


def export_shard(task: ExportTask) -> ShardExport:
    """Write the folders of one shard's videos; a damaged video leaves no folder.

    Raises:
        OSError: `out` cannot be written.
    """
    problems: list[str] = []
    num_videos, num_frames = 0, 0
    opened: dict[str, ShardFile] = {}

    try:
        for folder, video in task.folders.items():
            target = task.out / FRAMES / folder
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_name(target)
            temporary.mkdir()

            # One damaged video is a problem to report; the others of its shard are written all the same.
            try:
                for stream in filter(video.has, STREAMS):
                    shard, group = _open_part(task.shards, video, stream, opened)
                    _WRITERS[stream](shard, group, temporary, task.bound_px)
                temporary.rename(target)
                num_videos += 1
                num_frames += video.num_frames if video.has("rgb") else 0
            except ShardError as error:
                problems.append(str(error))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    finally:
        for shard in opened.values():
            shard.close()
    problems = list(dict.fromkeys(problems))  # a shard that cannot be opened is one problem
    return ShardExport(num_videos=num_videos, num_frames=num_frames, problems=tuple(problems))


def _open_part(
    shards: Path, video: ManifestVideo, stream: Stream, opened: dict[str, ShardFile]
) -> tuple[ShardFile, str]:
    """Return the shard that holds a stream of a video, opened once, and the video's group in it."""
    added = video.companion if stream not in streams_in(video.streams) else None
    name, group = (added.shard, added.group) if added else (video.shard, video.group)
    if name not in opened:
        opened[name] = ShardFile(shards / f"{name}.h5")
    shard = opened[name]
    if shard.video(group).attributes["digest"] != video.digest_of(stream):
        raise ShardError(f"{shard.path}: group {group} is not {video.id}; run extract again")
    return shard, group


def write_lists(out: Path, manifest: Manifest) -> list[Path]:
    """Write OUT/lists: `<stream>_<side>_split_<split>.txt` with `folder total label`, and classInd.txt.

    Lists of flow count T-1 fields, those of frames T frames. Videos without a folder are in none, and there
    are lists of what the run stores alone.
    """
    folders = folder_names(list(manifest.videos))
    (out / "lists").mkdir(exist_ok=True)
    class_index = out / "lists" / "classInd.txt"
    classes = (f"{number} {_one_line(name)}\n" for number, name in enumerate(manifest.classes, 1))
    publish_bytes(class_index, "".join(classes).encode())

    paths = [class_index]
    for split in manifest.split_names:
        for side in ("train", "test"):
            videos = [
                video
                for video in manifest.videos.values()
                if video.splits.get(split) == side and (out / FRAMES / folders[video.id]).is_dir()
            ]

            for stream in streams_in(manifest.streams):
                less = int(stream == "flow")
                path = out / "lists" / f"{stream}_{side}_split_{_safe(split)}.txt"
                rows = (
                    f"{folders[item.id]} {item.num_frames - less} {item.label}\n"
                    for item in videos
                    if item.has(stream)
                )
                publish_bytes(path, "".join(rows).encode())
                paths.append(path)
    return paths


def _write_frames(shard: ShardFile, group: str, folder: Path, _bound_px: float) -> None:
    names = FrameNames()
    for index in range(int(shard.video(group).attributes["num_frames"])):
        content = shard.read_bytes(group, "rgb", index).tobytes()
        (folder / (names.image % (index + 1) + _suffix(content))).write_bytes(content)


def _write_fields(shard: ShardFile, group: str, folder: Path, bound_px: float) -> None:
    names = FrameNames()
    old, new = shard.flow_coding, FlowCoding.of_frame_folders(bound_px)
    for index in range(int(shard.video(group).attributes["num_frames"]) - 1):
        content = shard.read_bytes(group, "flow", index).tobytes()
        codec: ImageCodec = "png" if _suffix(content) == ".png" else "jpeg"
        try:
            planes = recode_field(decode_field(content), old=old, new=new)
        except ShardError as error:
            video_id = shard.video(group).id
            raise ShardError(f"{shard.path}: video {video_id}, flow {index}: {error}") from error

        for plane, name in zip(planes, (names.flow_x, names.flow_y), strict=True):
            image = encode_image(plane, codec=codec)
            (folder / (name % (index + 1) + _suffix(content))).write_bytes(image)


_WRITERS = {"rgb": _write_frames, "flow": _write_fields}


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def _without_suffix(name: str) -> str:
    """Drop a video's extension, but keep the part of a file (`#2-5`) that may follow it."""
    stem, dot, rest = name.rpartition(".")
    if not dot or not stem:
        return name
    extension, hash_sign, part = rest.partition("#")
    return stem + hash_sign + part if extension.isalnum() and len(extension) <= 4 else name


def _safe(name: str) -> str:
    safe = "".join(char if char.isalnum() or char in "-_.+@" else "_" for char in name)
    safe = "_" + safe[1:] if safe.startswith(".") else safe or "_"
    if len(safe.encode()) <= MAX_NAME_BYTES:
        return safe
    # Cut at a whole character; the digest keeps apart what was cut alike.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return safe.encode()[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore") + "-" + digest


def _one_line(name: str) -> str:
    return " ".join(name.split())
