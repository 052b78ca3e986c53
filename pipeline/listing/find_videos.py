"""Find the videos of a data set, their labels and their side in each split.

Four sources give one kind of listing: UCF101 (class folders and ucfTrainTestlist), HMDB51 (class folders and
testTrainMulti_7030_splits), plain class folders, and a CSV list. Lists come from outside: no path in one may
lead out of the videos folder.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.csv_list import csv_listing
from stin_pipe.pipeline.listing.files import FileFinder, FoundFiles, folded, look_through, require_folder
from stin_pipe.pipeline.listing.hash_split import HASH_SPLIT, hash_split, hashed_name
from stin_pipe.pipeline.listing.listing import LeftOut, ListedVideo, Listing, display_name, group_key
from stin_pipe.pipeline.listing.official_lists import ListStyle, read_lists, recognise
from stin_pipe.pipeline.listing.subset import keep_classes, keep_matching, spread
from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError

SIDES = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Names of folders that are no classes where they hold folders of videos."""

OFFICIAL_CLASSES = {"ucf101": 101, "hmdb51": 51}


def list_videos(
    root: Path,
    *,
    dataset: str = "auto",
    splits_dir: Path | None = None,
    list_csv: Path | None = None,
    classes: Sequence[str] = (),
    match: Sequence[str] = (),
    limit: int | None = None,
    find: Callable[[Path], FoundFiles] = look_through,
) -> Listing:
    """List the videos under `root`.

    Args:
        root: folder of videos, `root/<class>/<video>`.
        dataset: `auto`, `ucf101`, `hmdb51` or `folder`; `auto` looks at the lists in `splits_dir`.
        splits_dir: folder with UCF-style or HMDB-style split lists.
        list_csv: CSV of path,label[,split,start_s,end_s] that replaces folders and lists.
        classes: keep only these classes; labels then count from 0 in the order of the data set.
        match: keep only videos whose path under `root` or file name matches one of these globs (`*` also
            spans `/`); labels stay as they are.
        limit: keep at most this many videos, spread evenly over the classes.
        find: returns what lies under a folder; an import finds folders of frames.

    Raises:
        StinPipeError: nothing to list, or contradictory or unreadable lists.
        ArgumentError: arguments that exclude each other, or a class or glob that no video has.
    """
    require_folder(root, "videos folder")
    if list_csv is not None and (splits_dir is not None or dataset != "auto"):
        other = "--splits" if splits_dir is not None else f"--dataset {dataset}"
        raise ArgumentError(f"--list {list_csv} and {other} exclude each other; give one of them", "list_csv")
    if list_csv is not None:
        listing = csv_listing(root, list_csv)
    elif style := _list_style(dataset, splits_dir):
        assert splits_dir is not None
        found = find(root)
        listing = _from_split_lists(root, found.videos, splits_dir, style, official=dataset == style)
        listing = _with_left_out(listing, found)
    else:
        found = find(root)
        listing = _with_left_out(_from_folders(root, found), found)

    listing = keep_matching(keep_classes(listing, classes), match)
    if not listing.videos:
        absent = f" ({listing.num_absent} listed videos are absent)" if listing.num_absent else ""
        raise StinPipeError(
            f"{root}: no video to extract{absent}; check --videos, --splits, --classes and --match"
        )

    # Two entries of a list can mean one file, say in another case.
    for video_id, count in Counter(video.id for video in listing.videos).items():
        if count > 1:
            paths = ", ".join(sorted({video.path for video in listing.videos if video.id == video_id}))
            raise StinPipeError(
                f"{video_id}: listed {count} times ({paths}); every video must be listed once"
            )
    listing = replace(listing, notes=(*listing.notes, *_like_classes(listing.classes)))
    return listing if limit is None else replace(listing, videos=spread(listing.videos, limit))


def _like_classes(classes: Sequence[str]) -> list[str]:
    """Name the classes that a person would take for one."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[folded(name)].append(name)
    return [
        f"{' and '.join(map(repr, names))} are two classes, but differ only in case or form of Unicode"
        for names in alike.values()
        if len(names) > 1
    ]


def _list_style(dataset: str, splits_dir: Path | None) -> ListStyle | None:
    """Return the style of the lists to use, None for plain class folders."""
    if splits_dir is None:
        if dataset in ("ucf101", "hmdb51"):
            raise StinPipeError(f"--dataset {dataset} needs its split lists: give their folder with --splits")
        return None
    require_folder(splits_dir, "splits folder")
    if dataset == "ucf101" or dataset == "hmdb51":
        return dataset
    if dataset == "folder":
        raise StinPipeError("--dataset folder takes no --splits; leave one of them out")
    style = recognise(splits_dir)
    if style is None:
        raise StinPipeError(
            f"{splits_dir}: no split lists: expected trainlistNN.txt and testlistNN.txt (UCF style), "
            "<class>_test_splitN.txt (HMDB style) or train_split_N.txt of frame folders (TSN, mmaction2)"
        )
    return style


def _with_left_out(listing: Listing, found: FoundFiles) -> Listing:
    """Count what the folder holds beside the listed videos, and name folders that hold no video at all."""
    used = {video.path for video in listing.videos}
    kinds: dict[str, list[PurePosixPath]] = defaultdict(list)
    kinds["videos in no list, or at another depth than CLASS/VIDEO"] = [
        file for file in found.videos if str(file) not in used
    ]

    for file in found.others:
        kinds[f"{file.suffix.lower()} files" if file.suffix else "files without an ending"].append(file)
    kinds["hidden videos"] = found.hidden
    kinds["folders that lie too deep"] = found.too_deep

    with_videos = {file.parts[0] for file in found.videos}
    empty = Counter(
        file.parts[0] for file in found.others if len(file.parts) > 1 and file.parts[0] not in with_videos
    )
    notes = [
        f"the folder {display_name(name)} holds {count} files, but none with the ending of a video, so it "
        "is no class"
        for name, count in sorted(empty.items())
    ]

    left_out = [
        LeftOut(kind=display_name(kind), count=len(files), example=display_name(str(files[0])))
        for kind, files in kinds.items()
        if files
    ]
    return replace(listing, left_out=tuple(left_out), notes=(*listing.notes, *notes))


def _from_folders(root: Path, found: FoundFiles) -> Listing:
    files = found.videos
    if not files:
        other = (
            f" ({len(found.others)} files of other kinds, first: {found.others[0]})" if found.others else ""
        )
        raise StinPipeError(f"{root}: no video files; expected {root}/<class>/<video>{other}")
    by_class: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if len(file.parts) in (2, 3):
            by_class[file.parts[0]].append(file)
    _require_no_sides(root, [file for file in files if len(file.parts) == 3])
    if not by_class:
        raise StinPipeError(
            f"{root}: {len(files)} video files but no class folders; expected {root}/<class>/<video>, "
            "or name labels with --list FILE.csv"
        )

    classes = tuple(sorted(by_class))
    videos = []
    for label, class_name in enumerate(classes):
        # The hash is of the name as bytes of the file system; ids show names as text.
        sides = hash_split({hashed_name(file) for file in by_class[class_name]})
        videos += [
            ListedVideo(
                id=display_name(str(file)),
                path=str(file),
                label=label,
                class_name=display_name(class_name),
                splits={"1": sides[hashed_name(file)]},
                group_key=(
                    display_name(str(file.parent))
                    if len(file.parts) == 3
                    else group_key(class_name, file.name)
                ),
            )
            for file in by_class[class_name]
        ]

    num_grouped = sum(len(PurePosixPath(video.path).parts) == 3 for video in videos)
    grouped = f"{num_grouped} videos lie in CLASS/GROUP/VIDEO: a group is taken as one recording, on one side"
    return Listing(
        dataset="folder",
        root=root,
        classes=tuple(display_name(name) for name in classes),
        split_names=("1",),
        split_from="hash",
        split_source=f"no lists given: {HASH_SPLIT} in each class",
        videos=tuple(videos),
        num_skipped=len(files) - len(videos),
        notes=(grouped,) if num_grouped else (),
    )


def _require_no_sides(root: Path, deep: list[PurePosixPath]) -> None:
    """Refuse SIDE/CLASS/VIDEO: sides would become classes, and classes groups."""
    sides = sorted({file.parts[0] for file in deep if file.parts[0].lower() in SIDES})
    if sides:
        raise StinPipeError(
            f"{root}: the folders {' and '.join(sides)} look like sides of a split, not like classes; write "
            "a CSV of path,label,split and give it with --list, or give one of these folders as --videos"
        )


def _from_split_lists(
    root: Path, files: list[PurePosixPath], splits_dir: Path, style: ListStyle, *, official: bool
) -> Listing:
    lists = read_lists(splits_dir, style)
    # Lists with fewer classes are another data set, and the official defaults are not for it.
    official = official or len(lists.classes) == OFFICIAL_CLASSES.get(style)
    find = FileFinder(files)
    listed_files: set[PurePosixPath] = set()
    videos: list[ListedVideo] = []
    missing: list[ListedVideo] = []
    for entry in lists.entries:
        found = find(entry)
        file = found or PurePosixPath(entry.folder or entry.class_name, entry.file_name)
        if found:
            listed_files.add(found)
            if not entry.splits:  # listed, but in no split (HMDB51's code 0 in all three)
                continue

        # A list may take one class from several folders; the folder then keeps equal file names apart.
        in_class = folded(file.parent.name) in ("", folded(entry.class_name))
        folder = entry.class_name if in_class or not found else file.parent.name
        (videos if found else missing).append(
            ListedVideo(
                id=f"{display_name(folder)}/{display_name(file.name)}",
                path=str(file),
                label=lists.classes.index(entry.class_name),
                class_name=display_name(entry.class_name),
                splits=entry.splits,
                group_key=group_key(entry.class_name, file.name),
                num_frames=entry.num_frames,
            )
        )

    num_lists = len(lists.split_names)
    return Listing(
        dataset=style if official and style != "frames" else "lists",
        root=root,
        classes=tuple(display_name(name) for name in lists.classes),
        split_names=lists.split_names,
        split_from="lists",
        split_source=f"{num_lists} split{'s' * (num_lists != 1)} from {splits_dir}",
        videos=tuple(sorted(videos, key=lambda video: video.id)),
        num_skipped=len(files) - len(listed_files),
        missing=tuple(missing),
        notes=lists.notes,
    )
