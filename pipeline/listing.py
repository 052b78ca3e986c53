"""Find the videos of a data set, their labels and their place in each split.

Four kinds of source, one kind of result: UCF101 (class folders + ucfTrainTestlist), HMDB51 (class folders +
testTrainMulti_7030_splits), plain class folders, and a CSV list. Lists and names from outside are data:
no path that they hold may leave the videos folder.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.split_lists import ListStyle, read_csv, read_lists, recognise
from pipeline.video_files import FileFinder, inside, require_folder, scan
from stin.shards.errors import StinPipeError
from stin.shards.schema import Subset

Dataset = Literal["ucf101", "hmdb51", "lists", "folder", "csv"]
"""`lists` are split lists in either official style that name another data set."""

OFFICIAL_CLASSES = {"ucf101": 101, "hmdb51": 51}

TEST_SHARE = 0.3
"""Share of each class that the hash split puts into the test list (HMDB51's 70/30)."""


@dataclass(frozen=True, kw_only=True)
class ListedVideo:
    """One video to extract.

    Attributes:
        id: `class/name.ext` (with `#start-end` for a part of a file), unique in the run.
        path: file, relative to the videos folder.
        splits: split name -> `train` or `test`.
        group_key: recording that the clip was cut from, where its name tells.
        start_s, end_s: the part of the file to use; None is its beginning or end.
    """

    id: str
    path: str
    label: int
    class_name: str
    splits: Mapping[str, Subset]
    group_key: str | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Everything that the folder and the lists say together.

    Attributes:
        split_source: a sentence for the person: where the splits come from.
        num_skipped: video files in the folder that no list names.
        num_absent: listed videos that the folder lacks.
    """

    dataset: Dataset
    root: Path
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    split_source: str
    videos: tuple[ListedVideo, ...]
    num_skipped: int = 0
    num_absent: int = 0


def list_videos(
    root: Path,
    *,
    dataset: str = "auto",
    splits_dir: Path | None = None,
    list_csv: Path | None = None,
    classes: Sequence[str] = (),
    limit: int | None = None,
    find: Callable[[Path], list[PurePosixPath]] = scan,
) -> Listing:
    """List the videos under `root`.

    Args:
        root: folder of videos, `root/<class>/<video>`.
        dataset: `auto`, `ucf101`, `hmdb51` or `folder`; auto looks at the lists in `splits_dir`.
        splits_dir: folder with UCF-style or HMDB-style split lists.
        list_csv: CSV of path,label[,split,start_s,end_s] that replaces folders and lists.
        classes: keep these classes alone; labels then count from 0 in the order of the data set.
        limit: keep at most this many videos, spread evenly over the classes.
        find: finds the videos under a folder, relative to it; folders of frames are videos too.

    Raises:
        StinPipeError: nothing to list, or lists that contradict each other or cannot be read.
    """
    require_folder(root, "videos folder")
    if list_csv is not None:
        listing = _from_csv(root, list_csv)
    elif style := _list_style(dataset, splits_dir):
        assert splits_dir is not None
        listing = _from_split_lists(root, find(root), splits_dir, style, official=dataset == style)
    else:
        listing = _from_folders(root, find(root))
    listing = _keep_classes(listing, classes)
    if not listing.videos:
        absent = f" ({listing.num_absent} listed videos are absent)" if listing.num_absent else ""
        raise StinPipeError(f"{root}: no video to extract{absent}; check --videos, --splits and --classes")
    for video_id, count in Counter(video.id for video in listing.videos).items():
        if count > 1:
            raise StinPipeError(f"{video_id}: listed {count} times; every video must be listed once")
    return listing if limit is None else replace(listing, videos=_spread(listing.videos, limit))


def hash_split(ids: Iterable[str]) -> dict[str, Subset]:
    """Split the videos of one class by a hash of their id: stable when videos are added.

    A class of two or more has at least one video on each side.
    """
    ranked = sorted(ids, key=_hash_share)
    sides: dict[str, Subset] = {video_id: hash_side(video_id) for video_id in ranked}
    if len(ranked) >= 2:
        sides[ranked[0]], sides[ranked[-1]] = "test", "train"
    return sides


def hash_side(video_id: str) -> Subset:
    """Return the side of the split that a video's hash says, whatever other videos there are."""
    return "test" if _hash_share(video_id) < TEST_SHARE else "train"


def group_key(class_name: str, file_name: str) -> str | None:
    """Return the recording that a clip was cut from, where the data set's names tell, else None.

    UCF101: `v_Class_g07_c03.avi`. HMDB51: the film's name precedes `_class_` and five attributes.
    """
    stem = PurePosixPath(file_name).stem
    if match := re.fullmatch(r"v_\w+_g(\d+)_c\d+", stem):
        return f"{class_name}/g{match[1]}"
    if match := re.fullmatch(rf"(.+)_{re.escape(class_name)}(?:_[a-z0-9]+){{5}}_\d+", stem):
        return match[1]
    return None


def _list_style(dataset: str, splits_dir: Path | None) -> ListStyle | None:
    """Return the style of the lists to use, None for plain class folders."""
    if splits_dir is None:
        if dataset in ("ucf101", "hmdb51"):
            raise StinPipeError(f"--dataset {dataset} needs its split lists: give their folder with --splits")
        return None
    require_folder(splits_dir, "splits folder")
    found = recognise(splits_dir)
    if dataset == "ucf101" or dataset == "hmdb51":
        return dataset
    if dataset == "folder":
        raise StinPipeError("--dataset folder takes no --splits; leave one of them out")
    if found is None:
        raise StinPipeError(
            f"{splits_dir}: no split lists: expected trainlistNN.txt and testlistNN.txt (UCF style), "
            "<class>_test_splitN.txt (HMDB style) or train_split_N.txt of frame folders (TSN, mmaction2)"
        )
    return found


def _from_folders(root: Path, files: list[PurePosixPath]) -> Listing:
    if not files:
        raise StinPipeError(f"{root}: no video files; expected {root}/<class>/<video>")
    loose = [file for file in files if len(file.parts) == 1]
    placed = [file for file in files if len(file.parts) == 2]
    if not placed:
        raise StinPipeError(
            f"{root}: {len(files)} video files but no class folders; expected {root}/<class>/<video>, "
            "or name labels with --list FILE.csv"
        )
    by_class: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in placed:
        by_class[file.parts[0]].append(file)
    classes = tuple(sorted(by_class))
    videos = []
    for label, class_name in enumerate(classes):
        sides = hash_split(str(file) for file in by_class[class_name])
        videos += [
            ListedVideo(
                id=_display(str(file)),
                path=str(file),
                label=label,
                class_name=_display(class_name),
                splits={"1": sides[str(file)]},
                group_key=group_key(class_name, file.name),
            )
            for file in by_class[class_name]
        ]
    deeper = len(files) - len(placed) - len(loose)
    return Listing(
        dataset="folder",
        root=root,
        classes=tuple(_display(name) for name in classes),
        split_names=("1",),
        split_source="no lists given: split 1 was made by a stable hash, 70 % train, 30 % test in each class",
        videos=tuple(videos),
        num_skipped=len(loose) + deeper,
    )


def _from_split_lists(
    root: Path, files: list[PurePosixPath], splits_dir: Path, style: ListStyle, *, official: bool
) -> Listing:
    lists = read_lists(splits_dir, style)
    official = official or len(lists.classes) == OFFICIAL_CLASSES.get(style)
    find = FileFinder(files)
    used: set[PurePosixPath] = set()
    videos, num_absent = [], 0
    for entry in lists.entries:
        file = find(entry)
        if file is None:
            num_absent += 1
            continue
        used.add(file)
        if not entry.splits:  # named, but used by no split (HMDB51's code 0 in all three)
            continue
        videos.append(
            ListedVideo(
                id=f"{_display(entry.class_name)}/{_display(file.name)}",
                path=str(file),
                label=lists.classes.index(entry.class_name),
                class_name=_display(entry.class_name),
                splits=entry.splits,
                group_key=group_key(entry.class_name, file.name),
            )
        )
    num_lists = len(lists.split_names)
    return Listing(
        dataset=style if official and style != "frames" else "lists",
        root=root,
        classes=tuple(_display(name) for name in lists.classes),
        split_names=lists.split_names,
        split_source=f"{num_lists} split{'s' * (num_lists != 1)} from {splits_dir}",
        videos=tuple(sorted(videos, key=lambda video: video.id)),
        num_skipped=len(files) - len(used),
        num_absent=num_absent,
    )


def _from_csv(root: Path, list_csv: Path) -> Listing:
    rows = read_csv(list_csv)
    classes = tuple(sorted({row.class_name for row in rows}))
    splits_given = any(row.subset for row in rows)
    videos, num_absent = [], 0
    for row in rows:
        path = inside(root, row.path, source=list_csv)
        if not (root / path).is_file():
            num_absent += 1
            continue
        part = "" if row.start_s is None and row.end_s is None else f"#{row.start_s or 0:g}-{row.end_s or ''}"
        name = path.name if path.parent.name == row.class_name else str(path)
        videos.append(
            ListedVideo(
                id=f"{_display(row.class_name)}/{_display(name)}{part}",
                path=str(path),
                label=classes.index(row.class_name),
                class_name=_display(row.class_name),
                splits={"1": row.subset} if row.subset else {},
                group_key=group_key(row.class_name, path.name),
                start_s=row.start_s,
                end_s=row.end_s,
            )
        )
    num_skipped = 0
    source = f"split 1 from the split column of {list_csv}"
    if splits_given:
        num_skipped = sum(not video.splits for video in videos)
        videos = [video for video in videos if video.splits]
    else:
        sides: dict[str, Subset] = {}
        for label in range(len(classes)):
            sides |= hash_split(video.id for video in videos if video.label == label)
        videos = [replace(video, splits={"1": sides[video.id]}) for video in videos]
        source = f"{list_csv} has no split column: split 1 was made by a stable hash, 70 % train, 30 % test"
    return Listing(
        dataset="csv",
        root=root,
        classes=tuple(_display(name) for name in classes),
        split_names=("1",),
        split_source=source,
        videos=tuple(sorted(videos, key=lambda video: video.id)),
        num_skipped=num_skipped,
        num_absent=num_absent,
    )


def _keep_classes(listing: Listing, wanted: Sequence[str]) -> Listing:
    if not wanted:
        return listing
    for name in wanted:
        if name not in listing.classes:
            known = ", ".join(listing.classes[:12]) + (", ..." if len(listing.classes) > 12 else "")
            raise StinPipeError(f"--classes: no class {name!r} in this data set; it has: {known}")
    kept = tuple(name for name in listing.classes if name in wanted)
    videos = tuple(
        replace(video, label=kept.index(video.class_name))
        for video in listing.videos
        if video.class_name in kept
    )
    num_skipped = listing.num_skipped + len(listing.videos) - len(videos)
    return replace(listing, classes=kept, videos=videos, num_skipped=num_skipped)


def _spread(videos: Sequence[ListedVideo], limit: int) -> tuple[ListedVideo, ...]:
    """Take `limit` videos in turn from each class and, within a class, from each side of the splits."""
    if limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    turn: Counter[tuple[int, str]] = Counter()
    ranked = []
    for video in sorted(videos, key=lambda video: _hash_share(video.id)):
        key = (video.label, str(sorted(video.splits.items())))
        ranked.append((turn[key], video.label, video.id, video))
        turn[key] += 1
    ranked.sort(key=lambda item: item[:3])
    return tuple(sorted((item[3] for item in ranked[:limit]), key=lambda video: video.id))


def _hash_share(text: str) -> float:
    """Map a name to [0, 1), the same on every machine."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _display(name: str) -> str:
    """Return a name as valid Unicode: bytes of a file name that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
