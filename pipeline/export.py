"""The videos of a run as folders of images and lists, for the loaders of TSN and mmaction2.

OUT/rawframes/<class>/<video>/img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg, ... and OUT/lists. Frames
keep the bytes of the shard. A folder gets its name when it is whole, so that the same call resumes.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.pipeline.runners.workers import worker_pool
from stin_pipe.pipeline.shard.image_folders import FRAMES, FrameNames
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.shards.codec import decode_field, encode_image, recode_field
from stin_pipe.stin.shards.errors import ShardError, StinPipeError
from stin_pipe.stin.shards.publish import is_temporary, publish_bytes, temporary_name
from stin_pipe.stin.shards.reader import ShardFile
from stin_pipe.stin.shards.schema import FlowCoding, ImageCodec, Manifest, ManifestVideo

MAX_NAME_BYTES = 120


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """The videos of one shard that are to be written: folder under `out` -> (id, group in the shard)."""

    shard: Path
    out: Path
    bound_px: float
    folders: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What became of one shard's videos; a problem names shard and video."""

    num_videos: int
    num_frames: int
    problems: tuple[str, ...]


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


def export_tasks(extract_dir: Path, manifest: Manifest, out: Path, bound_px: float) -> list[ExportTask]:
    """Return what is still to be written, a task a shard; removes what a killed export left."""
    folders = folder_names(list(manifest.videos))
    by_shard: dict[str, dict[str, tuple[str, str]]] = {}
    for video in manifest.videos.values():
        folder = folders[video.id]
        if not (out / FRAMES / folder).is_dir():
            by_shard.setdefault(video.shard, {})[folder] = (video.id, video.group)
    for leftover in (out / FRAMES).glob("*/.*.tmp"):
        if is_temporary(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    return [
        ExportTask(shard=extract_dir / "shards" / f"{shard}.h5", out=out, bound_px=bound_px, folders=videos)
        for shard, videos in sorted(by_shard.items())
    ]


def run_export(tasks: Sequence[ExportTask], *, num_workers: int) -> Iterator[ExportReport]:
    """Write the folders in processes of this machine, a report a shard.

    Raises:
        StinPipeError: a process died, or none can start.
    """
    try:
        with worker_pool(num_workers, export_shard) as pool:
            for future in as_completed([pool.submit(export_shard, task) for task in tasks]):
                yield future.result()
    except BrokenProcessPool as error:
        raise StinPipeError(
            "a process of the export died (out of memory?); the same command resumes, perhaps with fewer "
            "--workers"
        ) from error


def export_shard(task: ExportTask) -> ExportReport:
    """Write the folders of one shard's videos; a damaged video leaves no folder.

    Raises:
        OSError: `out` cannot be written.
    """
    problems, num_videos, num_frames = [], 0, 0
    try:
        shard = ShardFile(task.shard)
    except StinPipeError as error:
        return ExportReport(num_videos=0, num_frames=0, problems=(str(error),))
    try:
        for folder, (video_id, group) in task.folders.items():
            target = task.out / FRAMES / folder
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_name(target)
            temporary.mkdir()
            try:
                if shard.video(group).id != video_id:
                    raise ShardError(f"{task.shard}: group {group} is not {video_id}; run extract again")
                num_frames += _write_images(shard, group, temporary, task.bound_px)
                temporary.rename(target)
                num_videos += 1
            except ShardError as error:
                problems.append(str(error))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    finally:
        shard.close()
    return ExportReport(num_videos=num_videos, num_frames=num_frames, problems=tuple(problems))


def write_lists(out: Path, manifest: Manifest) -> list[Path]:
    """Write OUT/lists: `<stream>_<side>_split_<split>.txt` with `folder total label`, and classInd.txt.

    Lists of flow count T-1 fields, those of frames T frames. Videos without a folder are in none.
    """
    folders = folder_names(list(manifest.videos))
    (out / "lists").mkdir(exist_ok=True)
    written = [out / "lists" / "classInd.txt"]
    text = "".join(f"{number} {_one_line(name)}\n" for number, name in enumerate(manifest.classes, 1))
    publish_bytes(written[0], text.encode())
    for split in manifest.split_names:
        for side in ("train", "test"):
            videos = [
                video
                for video in manifest.videos.values()
                if video.splits.get(split) == side and (out / FRAMES / folders[video.id]).is_dir()
            ]
            for stream, less in (("rgb", 0), ("flow", 1)):
                path = out / "lists" / f"{stream}_{side}_split_{_safe(split)}.txt"
                publish_bytes(path, "".join(_row(video, folders, less) for video in videos).encode())
                written.append(path)
    return written


def _row(video: ManifestVideo, folders: Mapping[str, str], less: int) -> str:
    return f"{folders[video.id]} {video.num_frames - less} {video.label}\n"


def _write_images(shard: ShardFile, group: str, folder: Path, bound_px: float) -> int:
    names = FrameNames()
    old, new = shard.flow_coding, FlowCoding.of_frame_folders(bound_px)
    count = int(shard.video(group).attributes["num_frames"])
    for index in range(count):
        content = shard.read_bytes(group, "rgb", index).tobytes()
        (folder / (names.image % (index + 1) + _suffix(content))).write_bytes(content)
    for index in range(count - 1):
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
    return count


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
    kept = "".join(char if char.isalnum() or char in "-_.+@" else "_" for char in name)
    kept = "_" + kept[1:] if kept.startswith(".") else kept or "_"
    if len(kept.encode()) <= MAX_NAME_BYTES:
        return kept
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return kept.encode()[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore") + "-" + digest


def _one_line(name: str) -> str:
    return " ".join(name.split())


def num_workers_here(wanted: int | None, num_tasks: int) -> int:
    """Return how many processes to use."""
    return max(1, min(wanted or usable_cpus(), num_tasks))
