"""Read split lists: those of UCF101 and HMDB51, and those of frame folders.

UCF style: `classInd.txt` (`1 ApplyEyeMakeup`), `trainlist01.txt` (`Class/name.avi 1`), `testlist01.txt`
(`Class/name.avi`), often with CRLF. HMDB style: `<class>_test_split1.txt` with `name.avi 1` (1 train, 2 test,
0 unused), often with a blank at the end of a line. Frame folders, as TSN and mmaction2 list them:
`ucf101_rgb_train_split_1.txt` or `ucf101_train_split_1_rawframes.txt` with `path total_frames label`; their
lists of flow repeat those of frames and are not read.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from stin_pipe.stin.shards.bounded import FileKind, open_list
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Subset

ListStyle = Literal["ucf101", "hmdb51", "frames"]

LIST = FileKind(name="list", max_bytes=1 << 30)
_UCF_LIST = re.compile(r"(train|test)list0*(\d+)\.txt", re.IGNORECASE)
_HMDB_LIST = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
_FRAME_LIST = re.compile(r"(?!.*flow)(?:.*_)?(train|val|test)_split_?(\d+)(?:_\w+)?\.txt", re.IGNORECASE)
_Sides = dict[tuple[str, str, str], dict[str, Subset]]
"""(class, folder if it has another name, file) -> side in each split."""
_HMDB_SUBSETS: dict[str, Subset | None] = {"0": None, "1": "train", "2": "test"}


@dataclass(frozen=True, kw_only=True)
class ListEntry:
    """A video that the lists name: its class, file name, and side in each split that uses it."""

    class_name: str
    file_name: str
    splits: dict[str, Subset]
    folder: str = ""
    """Folder that holds the video, if the list names one that is not the class."""
    num_frames: int | None = None
    """Frames that the list promises."""


@dataclass(frozen=True, kw_only=True)
class SplitLists:
    """All lists of a folder together; `classes` in label order, `notes` what a person should know of them."""

    style: ListStyle
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    entries: tuple[ListEntry, ...]
    notes: tuple[str, ...] = ()


def recognise(folder: Path) -> ListStyle | None:
    """Return the style of the lists in `folder`, None if there are none."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    if any(_UCF_LIST.fullmatch(name) for name in names):
        return "ucf101"
    if any(_HMDB_LIST.fullmatch(name) for name in names):
        return "hmdb51"
    if any(_FRAME_LIST.fullmatch(name) for name in names):
        return "frames"
    return None


def read_lists(folder: Path, style: ListStyle) -> SplitLists:
    """Read all splits that `folder` holds.

    Raises:
        StinPipeError: no such lists, a malformed line (named), or a video on both sides of a split.
    """
    readers = {"ucf101": _read_ucf, "hmdb51": _read_hmdb, "frames": _read_frame_lists}
    return readers[style](folder)


def _read_ucf(folder: Path) -> SplitLists:
    lists = sorted(path for path in folder.iterdir() if _UCF_LIST.fullmatch(path.name))
    if not lists:
        raise StinPipeError(f"{folder}: no trainlistNN.txt or testlistNN.txt (UCF style)")
    classes = _read_class_index(folder / "classInd.txt")
    numbers = _Numbers(classes)
    sides: _Sides = {}
    for path in lists:
        match = _UCF_LIST.fullmatch(path.name)
        assert match is not None
        subset: Subset = "train" if match[1].lower() == "train" else "test"
        for place, line in _lines(path):
            # Training lists have the label behind the name, test lists have none.
            name, label = line, None
            if labelled := re.fullmatch(r"(.+?)\s+(\d{1,9})", line):
                name, label = labelled[1], int(labelled[2])
            class_name, _, file_name = name.rpartition("/")
            if not class_name or "/" in class_name:
                raise StinPipeError(f"{place}: expected Class/video, got {line!r}")
            if classes and class_name not in classes:
                raise StinPipeError(f"{place}: class {class_name!r} is not in {folder / 'classInd.txt'}")
            if label is not None:
                numbers.check(class_name, label, place)
            _assign(sides.setdefault((class_name, "", file_name), {}), str(int(match[2])), subset, place)
    return _collect("ucf101", classes, sides)


def _read_class_index(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their numbers; empty when there is no classInd.txt."""
    if not path.exists():
        return ()
    numbered: dict[int, str] = {}
    for place, line in _lines(path):
        number, _, name = line.partition(" ")
        if not number.isdigit() or not name.strip():
            raise StinPipeError(f"{place}: expected a number and a class name, got {line!r}")
        if int(number) in numbered or name.strip() in numbered.values():
            raise StinPipeError(f"{place}: class number or name repeated: {line!r}")
        numbered[int(number)] = name.strip()
    return tuple(numbered[number] for number in sorted(numbered))


def _read_hmdb(folder: Path) -> SplitLists:
    lists = sorted(path for path in folder.iterdir() if _HMDB_LIST.fullmatch(path.name))
    if not lists:
        raise StinPipeError(f"{folder}: no <class>_test_splitN.txt (HMDB style)")
    sides: _Sides = {}
    classes = set()
    for path in lists:
        match = _HMDB_LIST.fullmatch(path.name)
        assert match is not None
        classes.add(match[1])
        for place, line in _lines(path):
            file_name, _, code = line.rpartition(" ")
            if not file_name.strip() or code not in _HMDB_SUBSETS:
                raise StinPipeError(
                    f"{place}: expected `name 0`, `name 1` (train) or `name 2` (test), got {line!r}"
                )
            # Even a video that no split uses is listed: else its file would count as in no list.
            video_sides = sides.setdefault((match[1], "", file_name.strip()), {})
            subset = _HMDB_SUBSETS[code]
            if subset is not None:
                _assign(video_sides, match[2], subset, place)
    return _collect("hmdb51", tuple(sorted(classes)), sides)


def _read_frame_lists(folder: Path) -> SplitLists:
    """Read `path total_frames label`; classInd.txt or else the folder names the class of a label."""
    rows, notes = _used_rows(_frame_rows(folder))
    class_index = _read_class_index(folder / "classInd.txt")
    names = _names_of_labels(folder, class_index, rows)
    sides: _Sides = {}
    num_frames: dict[tuple[str, str, str], int] = {}
    for row in rows:
        name = names[row.label]
        key = (name, "" if row.video.parent.name == name else row.video.parent.name, row.video.name)
        _assign(sides.setdefault(key, {}), row.split, "train" if row.side == "train" else "test", row.place)
        if num_frames.setdefault(key, row.num_frames) != row.num_frames:
            raise StinPipeError(
                f"{row.place}: {row.num_frames} frames here, {num_frames[key]} in another list; correct one"
            )
    classes = class_index or tuple(names[label] for label in sorted(names))
    lists = _collect("frames", classes, sides)
    entries = tuple(
        replace(entry, num_frames=num_frames[entry.class_name, entry.folder, entry.file_name])
        for entry in lists.entries
    )
    return replace(lists, entries=entries, notes=notes)


@dataclass(frozen=True, kw_only=True)
class _FrameRow:
    place: str
    video: PurePosixPath
    num_frames: int
    label: int
    split: str
    side: str
    """`train`, `val` or `test`."""


def _frame_rows(folder: Path) -> list[_FrameRow]:
    rows = []
    for path in sorted(item for item in folder.iterdir() if _FRAME_LIST.fullmatch(item.name)):
        match = _FRAME_LIST.fullmatch(path.name)
        assert match is not None
        for place, line in _lines(path):
            video, *numbers = line.rsplit(None, 2)
            if len(numbers) != 2 or not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
                raise StinPipeError(f"{place}: expected `path total_frames label`, got {line!r}")
            rows.append(
                _FrameRow(
                    place=place,
                    video=PurePosixPath(video),
                    num_frames=int(numbers[0]),
                    label=int(numbers[1]),
                    split=str(int(match[2])),
                    side=match[1].lower(),
                )
            )
    return rows


def _used_rows(rows: list[_FrameRow]) -> tuple[list[_FrameRow], tuple[str, ...]]:
    """Leave out val lists where there are test lists too: to test on both would answer another question."""
    notes, unused = [], set[str]()
    for split in sorted({row.split for row in rows}):
        counts = Counter(row.side for row in rows if row.split == split)
        if counts["val"] and counts["test"]:
            unused.add(split)
            notes.append(
                f"split {split} has train, val and test lists: the {counts['val']} videos of val are left "
                "out (a part of train is held out to watch a training)"
            )
        elif counts["val"]:
            notes.append(f"split {split} has no test list: its val list is the test side")
    return [row for row in rows if row.side != "val" or row.split not in unused], tuple(notes)


def _names_of_labels(folder: Path, class_index: tuple[str, ...], rows: list[_FrameRow]) -> dict[int, str]:
    """Return the class of each label: by classInd.txt, wherever the labels start to count, or by folder."""
    if class_index:
        numbers = _Numbers(class_index)
        for row in rows:
            numbers.check(row.video.parent.name, row.label, row.place)
        first = numbers.first
        if first is None:  # no folder tells, so only a label beyond the last class can
            labels = [row.label for row in rows]
            first = int(min(labels) >= 1 and max(labels) == len(class_index))
        for row in rows:
            if not 0 <= row.label - first < len(class_index):
                raise StinPipeError(
                    f"{row.place}: label {row.label}, but classInd.txt names {len(class_index)} classes"
                )
        return {row.label: class_index[row.label - first] for row in rows}

    names: dict[int, str] = {}
    for row in rows:
        name = row.video.parent.name
        if names.setdefault(row.label, name or str(row.label)) != name:
            names[row.label] = str(row.label)  # its videos lie in several folders, so none names the class
    if len(set(names.values())) < len(names):
        raise StinPipeError(f"{folder}: two labels have one class folder; name them in {folder}/classInd.txt")
    return names


class _Numbers:
    """From which number the labels of some lists count, by the rows whose folder is a class too."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._places = {name: place for place, name in enumerate(classes)}
        self._seen: tuple[int, str] | None = None

    @property
    def first(self) -> int | None:
        """The label of the first class; None where no row tells."""
        return self._seen[0] if self._seen else None

    def check(self, class_name: str, label: int, place: str) -> None:
        """Compare a label with the folder of its video.

        Raises:
            StinPipeError: the two contradict each other, or do so in another way than the first row.
        """
        if class_name not in self._places:
            return
        first = label - self._places[class_name]
        self._seen = self._seen or (first, place)
        if first != self._seen[0]:
            expected = self._places[class_name] + self._seen[0]
            raise StinPipeError(
                f"{place}: label {label} with a video of the folder {class_name}, which is class {expected} "
                f"by classInd.txt and by {self._seen[1]}; correct the label or the folder"
            )


def _assign(sides: dict[str, Subset], split: str, subset: Subset, place: str) -> None:
    if sides.get(split, subset) != subset:
        raise StinPipeError(f"{place}: the video is in both train and test of split {split}")
    sides[split] = subset


def _collect(style: ListStyle, classes: tuple[str, ...], sides: _Sides) -> SplitLists:
    entries = tuple(
        ListEntry(class_name=class_name, file_name=file_name, splits=splits, folder=folder)
        for (class_name, folder, file_name), splits in sides.items()
    )
    names = {split for entry in entries for split in entry.splits}
    # By length first, so that split 10 comes after split 2.
    return SplitLists(
        style=style,
        classes=classes or tuple(sorted({entry.class_name for entry in entries})),
        split_names=tuple(sorted(names, key=lambda name: (len(name), name))),
        entries=entries,
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, text) of the lines that are not blank, stripped."""
    with open_text(path) as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                yield f"{path}:{number}", line.strip()


def open_text(path: Path):
    """Open a list; a byte-order mark is dropped, and bytes that are not UTF-8 are kept, as in file names."""
    try:
        return open_list(path, LIST)
    except FileNotFoundError as error:
        raise StinPipeError(f"{path}: cannot be read: {error.strerror}") from error
