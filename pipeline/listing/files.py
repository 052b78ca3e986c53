"""Look into the videos folder: which video files are there, and which one a list means."""

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.official_lists import ListEntry
from stin_pipe.stin.shards.errors import StinPipeError

_ENDINGS = "3gp asf avi f4v flv ivf m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _ENDINGS.split())
MAX_DEPTH = 8


def scan(root: Path) -> list[PurePosixPath]:
    """Return all video files under `root`, relative to it, sorted; hidden ones are left out.

    Links are followed, but none back to a folder above: they would lead around for ever.
    """
    found = []
    above: dict[Path, frozenset[tuple[int, int]]] = {}  # folder -> itself and those above it
    for top, subfolders, files in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        folder = Path(top)
        outer, own = above.get(folder.parent, frozenset()), _identity(folder)
        if own in outer and folder.is_symlink():
            subfolders.clear()
            continue
        above[folder] = outer | {own}
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if len(folder.relative_to(root).parts) > MAX_DEPTH:
            subfolders.clear()
        found += [
            PurePosixPath((folder / name).relative_to(root))
            for name in files
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def require_folder(path: Path, what: str) -> None:
    """Raise StinPipeError unless `path` is a folder."""
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise StinPipeError(f"{what} {path} {state}")


def inside(root: Path, path: str, *, source: Path) -> PurePosixPath:
    """Return a listed path relative to `root`; refuse one that leaves it."""
    normal = os.path.normpath(root.absolute() / path)
    relative = os.path.relpath(normal, os.path.normpath(root.absolute()))
    if relative == ".." or relative.startswith("../") or "\0" in path:
        raise StinPipeError(f"{source}: path {path!r} leaves the videos folder {root}; move the file inside")
    return PurePosixPath(relative)


def folded(name: str) -> str:
    """Return a name without regard to case and to Unicode's forms of a letter: macOS takes ö apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


class PathFinder:
    """Finds a listed path: exactly, else without regard to case and to Unicode's forms of one letter."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inner: dict[PurePosixPath, dict[str, list[str]]] = {}

    def __call__(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return the file under the root that `path` means, None when there is none."""
        if (self._root / path).is_file():
            return path
        found = PurePosixPath()
        for part in path.parts:
            same = self._names(found).get(folded(part), [])
            exact = [name for name in same if name == part] or same
            if len(exact) > 1:
                names = " and ".join(str(found / name) for name in sorted(exact))
                raise StinPipeError(f"{path}: the list could mean {names}; keep one of them")
            if not exact:
                return None
            found /= exact[0]
        return found if (self._root / found).is_file() else None

    def _names(self, folder: PurePosixPath) -> dict[str, list[str]]:
        """Return the names in a folder by their folded form; each folder is read once."""
        if folder not in self._inner:
            names: dict[str, list[str]] = defaultdict(list)
            with contextlib.suppress(OSError):  # no folder: nothing is in it
                for entry in (self._root / folder).iterdir():
                    names[folded(entry.name)].append(entry.name)
            self._inner[folder] = names
        return self._inner[folder]


class FileFinder:
    """Finds a listed video: exactly, else without regard to case, form, class folder or extension."""

    def __init__(self, files: Sequence[PurePosixPath]) -> None:
        self._files = set(files)
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in files:
            for name in {folded(file.stem), folded(file.name)}:  # a folder's dots are no extension
                self._by_name[name].append(file)

    def __call__(self, entry: ListEntry) -> PurePosixPath | None:
        """Return the file that `entry` means, None when the folder lacks it."""
        places = [place for place in (entry.folder, entry.class_name) if place]
        for exact in (PurePosixPath(place, entry.file_name) for place in places):
            if exact in self._files:
                return exact
        same = self._by_name.get(folded(PurePosixPath(entry.file_name).stem), [])
        same = same or self._by_name.get(folded(entry.file_name), [])
        by_place = [[file for file in same if folded(file.parent.name) == folded(place)] for place in places]
        candidates = next(filter(None, by_place), [file for file in same if len(file.parts) == 1])
        if len(candidates) > 1:
            names = " and ".join(str(file) for file in candidates)
            raise StinPipeError(
                f"{places[0]}/{entry.file_name}: the list could mean {names}; keep one of them"
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
