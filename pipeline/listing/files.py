"""The files of the videos folder: which are videos, and which one an entry of a list means."""

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.official_lists import ListEntry
from stin_pipe.stin.shards.errors import StinPipeError

_ENDINGS = (
    "264 265 3g2 3gp asf avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2ts m2v m4v mjpeg mjpg mkv mov mp4 "
    "mpe mpeg mpg mts mxf ogm ogv qt ts vob webm wmv xvid y4m"
)
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _ENDINGS.split())
MAX_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class FoundFiles:
    """What lies in a folder and those below it, relative to it.

    Attributes:
        videos: files whose endings are those of videos, sorted.
        others: visible files with other endings, sorted.
        hidden: videos whose name begins with a dot.
        too_deep: folders that were not looked into, because they lie too deep.
    """

    videos: list[PurePosixPath] = field(default_factory=list)
    others: list[PurePosixPath] = field(default_factory=list)
    hidden: list[PurePosixPath] = field(default_factory=list)
    too_deep: list[PurePosixPath] = field(default_factory=list)


def scan(root: Path) -> list[PurePosixPath]:
    """Return all video files under `root`, relative to it and sorted; hidden ones are left out."""
    return look_through(root).videos


def look_through(root: Path) -> FoundFiles:
    """Sort all files under `root`.

    Links are followed unless they lead back to a folder above, which would never end.
    """
    found = FoundFiles()
    above: dict[Path, frozenset[tuple[int, int]]] = {}  # folder -> itself and those above it
    for top, subfolders, files in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        folder = Path(top)
        outer, own = above.get(folder.parent, frozenset()), _identity(folder)
        if own in outer and folder.is_symlink():
            subfolders.clear()
            continue
        above[folder] = outer | {own}

        inner = PurePosixPath(folder.relative_to(root))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if len(inner.parts) > MAX_DEPTH:
            found.too_deep.extend(inner / name for name in subfolders)
            subfolders.clear()
        for name in files:
            is_video = Path(name).suffix.lower() in VIDEO_SUFFIXES
            if name.startswith("."):
                found.hidden.extend([inner / name] * is_video)
            else:
                (found.videos if is_video else found.others).append(inner / name)
    for paths in (found.videos, found.others, found.hidden):
        paths.sort()
    return found


def require_folder(path: Path, what: str) -> None:
    """Raise StinPipeError unless `path` is a folder."""
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise StinPipeError(f"{what} {path} {state}")


def inside(root: Path, path: str, *, source: Path) -> PurePosixPath:
    """Return a listed path relative to `root`; refuse one that leads out of it."""
    # By the text alone: the user's own links may lead anywhere, paths in a list may not.
    normal = os.path.normpath(root.absolute() / path)
    relative = os.path.relpath(normal, os.path.normpath(root.absolute()))
    if relative == ".." or relative.startswith("../") or "\0" in path:
        raise StinPipeError(f"{source}: {path!r} leads out of the videos folder {root}; move the file inside")
    return PurePosixPath(relative)


def folded(name: str) -> str:
    """Return a name without its case and its form of Unicode: macOS stores ö as o and two dots."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


class PathFinder:
    """Finds the file that a listed path means: by the exact path, else by any case and form of Unicode."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inner: dict[PurePosixPath, dict[str, list[str]]] = {}

    def __call__(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return the file under the root, None if the folder lacks it."""
        if (self._root / path).is_file():
            return path

        file = PurePosixPath()
        for part in path.parts:
            alike = self._names(file).get(folded(part), [])
            names = [name for name in alike if name == part] or alike
            if len(names) > 1:
                choice = " and ".join(str(file / name) for name in sorted(names))
                raise StinPipeError(f"{path}: the list could mean {choice}; keep one of them")
            if not names:
                return None
            file /= names[0]
        return file if (self._root / file).is_file() else None

    def _names(self, folder: PurePosixPath) -> dict[str, list[str]]:
        """Return the names in a folder by their folded form; each folder is read once."""
        if folder not in self._inner:
            names: dict[str, list[str]] = defaultdict(list)
            with contextlib.suppress(OSError):  # not a folder, so nothing is in it
                for entry in (self._root / folder).iterdir():
                    names[folded(entry.name)].append(entry.name)
            self._inner[folder] = names
        return self._inner[folder]


class FileFinder:
    """Finds the file of a listed video: by its exact name, else by any case, class folder or extension."""

    def __init__(self, files: Sequence[PurePosixPath]) -> None:
        self._files = set(files)
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in files:
            # Both, since a folder of frames has no extension, whatever dots are in its name.
            for name in {folded(file.stem), folded(file.name)}:
                self._by_name[name].append(file)

    def __call__(self, entry: ListEntry) -> PurePosixPath | None:
        """Return the file, None if the folder lacks it."""
        folders = [folder for folder in (entry.folder, entry.class_name) if folder]
        for exact in (PurePosixPath(folder, entry.file_name) for folder in folders):
            if exact in self._files:
                return exact

        alike = self._by_name.get(folded(PurePosixPath(entry.file_name).stem), [])
        alike = alike or self._by_name.get(folded(entry.file_name), [])
        by_folder = [
            [file for file in alike if folded(file.parent.name) == folded(folder)] for folder in folders
        ]
        # Some downloads hold all videos in one folder without classes.
        candidates = next(filter(None, by_folder), [file for file in alike if len(file.parts) == 1])
        if len(candidates) > 1:
            choice = " and ".join(str(file) for file in candidates)
            raise StinPipeError(
                f"{folders[0]}/{entry.file_name}: the list could mean {choice}; keep one of them"
            )
        return candidates[0] if candidates else None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise StinPipeError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _raise_unreadable(error: OSError) -> None:
    raise StinPipeError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error
