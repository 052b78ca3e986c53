"""The videos of a data set, their labels and their side in each split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stin_pipe.stin.shards.names import require_relative
from stin_pipe.stin.shards.schema import SplitOrigin, Subset

Dataset = Literal["ucf101", "hmdb51", "lists", "folder", "csv"]
"""`lists`: split lists in one of the official styles, but of another data set."""


@dataclass(frozen=True, kw_only=True)
class ListedVideo:
    """One video to extract.

    Attributes:
        id: `class/name.ext` (with `#start-end` for a part of a file), unique in the run.
        path: file, relative to the videos folder.
        splits: split name -> `train` or `test`.
        group_key: recording that the clip was cut from, if its name tells.
        start_s, end_s: the part of the file to use; None is the beginning or the end of the file.
        num_frames: frames that a list promises; None where none does.
    """

    id: str
    path: str
    label: int
    class_name: str
    splits: Mapping[str, Subset]
    group_key: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        require_relative(self.path, "the path of a video")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files of one kind that are not listed."""

    kind: str
    count: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the videos folder and the lists hold together.

    Attributes:
        split_from: who decides the side of a video.
        split_source: the same as a sentence for a person.
        num_skipped: video files in the folder that no list names.
        notes: what a person should know of the lists and the folder, a sentence each.
        left_out: files in the folder that are no listed videos, by kind.
        missing: listed videos that the folder lacks; their paths are guesses by the lists.
    """

    dataset: Dataset
    root: Path
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    split_from: SplitOrigin
    split_source: str
    videos: tuple[ListedVideo, ...]
    num_skipped: int = 0
    missing: tuple[ListedVideo, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the listed videos that the folder lacks."""
        return tuple(sorted(video.id for video in self.missing))

    @property
    def num_absent(self) -> int:
        """Number of listed videos that the folder lacks."""
        return len(self.missing)


def group_key(class_name: str, file_name: str) -> str | None:
    """Return the recording that a clip was cut from if its name tells, else None.

    UCF101: `v_Class_g07_c03.avi`. HMDB51: the film's name precedes `_class_` and five attributes.
    """
    stem = PurePosixPath(file_name).stem
    if match := re.fullmatch(r"v_\w+_g(\d+)_c\d+", stem):
        return f"{class_name}/g{match[1]}"
    if match := re.fullmatch(rf"(.+)_{re.escape(class_name)}(?:_[a-z0-9]+){{5}}_\d+", stem):
        return match[1]
    return None


def display_name(name: str) -> str:
    """Return a name as valid Unicode: bytes of a file name that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
