"""Folders of images, one a video, as the loaders of TSN and mmaction2 read them: names, and what is there.

`class/video/img_00001.jpg`, `flow_x_00001.jpg`, `flow_y_00001.jpg`, counted from 1 (or 0, which is seen).
What lies in such a folder comes from outside: no name leads out of it.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.decoding.frames import DecodeError

FRAMES = "rawframes"
"""Name of the folder of class folders that an export makes, as mmaction2 has it."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_IMAGE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FrameNames:
    """Names of the images of a video inside its folder, with `%05d` for the number.

    Without an extension any of .jpg, .jpeg and .png is taken; a name may lead into a folder (`flow_x/%05d`).
    """

    image: str = "img_%05d"
    flow_x: str = "flow_x_%05d"
    flow_y: str = "flow_y_%05d"

    def __post_init__(self) -> None:
        """Refuse names without exactly one number, and names that leave the folder."""
        for name in (self.image, self.flow_x, self.flow_y):
            if len(re.findall(r"%0?\d*d", name)) != 1 or name.count("%") != 1:
                raise ValueError(f"a name of images must hold one number such as %05d, got {name!r}")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError(f"a name of images must stay inside the video's folder, got {name!r}")
        if len({self.image, self.flow_x, self.flow_y}) < 3:
            raise ValueError("the names of frames, flow x and flow y must differ")


def scan_frame_folders(root: Path, names: FrameNames) -> list[PurePosixPath]:
    """Return the folders of videos under `root`: `class/video`, or `video` where images lie in it."""
    found: list[PurePosixPath] = []
    for name in _folders(root):
        if any(True for _ in _numbered(root / name, names.image)):
            found.append(PurePosixPath(name))
        else:
            found += [PurePosixPath(name, inner) for inner in _folders(root / name)]
    return sorted(found)


def numbered_images(folder: Path, name: str) -> list[Path]:
    """Return the images of one kind in the order of their numbers.

    Raises:
        DecodeError: `missing_image` for a gap, `ambiguous` for a number given twice, `unreadable`.
    """
    found: dict[int, str] = {}
    try:
        for number, path in _numbered(folder, name):
            if number in found:
                raise DecodeError("ambiguous", f"{folder}: {found[number]} and {path} have one number")
            found[number] = path
    except OSError as error:
        raise DecodeError("unreadable", f"{folder}: cannot be read: {error.strerror}", retry=True) from error
    first = min(found, default=1)
    if first not in (0, 1):
        raise DecodeError(
            "missing_image", f"{folder}: images {name} must count from 1 (or 0), but begin at {first}"
        )
    for number in range(first, first + len(found)):
        if number not in found:
            raise DecodeError(
                "missing_image",
                f"{folder}: image {name % number} is missing between {first} and {max(found)}; "
                "make the folder again",
            )
    return [folder / found[number] for number in sorted(found)]


def read_image(path: Path, root: str) -> bytes:
    """Read an image file, which must lie under the real path `root` when links are followed.

    Raises:
        DecodeError: `outside` for a link that leads out, `unreadable_image` for anything that is not a whole
            JPEG or PNG file of reasonable size.
    """
    real = os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        raise DecodeError("outside", f"{path}: a link out of the folder of frames; copy the file instead")
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DecodeError("unreadable_image", f"{path}: not a file")
            content = handle.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError as error:
        raise DecodeError("missing", f"{path}: the file went away", retry=True) from error
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: cannot be read: {error.strerror}", retry=True) from error
    if len(content) > MAX_IMAGE_BYTES:
        raise DecodeError("unreadable_image", f"{path}: larger than {MAX_IMAGE_BYTES >> 20} MiB")
    _require_whole(path, content)
    return content


def _require_whole(path: Path, content: bytes) -> None:
    """Decoders fill a cut-off image with grey in silence, so look for its end, and for its size."""
    is_jpeg, is_png = content.startswith(b"\xff\xd8\xff"), content.startswith(b"\x89PNG\r\n\x1a\n")
    if not is_jpeg and not is_png:
        raise DecodeError("unreadable_image", f"{path}: neither a JPEG nor a PNG image")
    if (b"\xff\xd9" if is_jpeg else b"IEND") not in content[-1024:]:
        raise DecodeError("unreadable_image", f"{path}: the image is cut off; make it again")


def _numbered(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, name inside `folder`) of the files that fit the pattern."""
    place = PurePosixPath(name)
    before, number, after = re.split(r"(%0?\d*d)", place.name)
    suffixes = [""] if place.suffix.lower() in IMAGE_SUFFIXES else IMAGE_SUFFIXES
    ends = "|".join(re.escape(after + suffix) for suffix in suffixes)
    pattern = re.compile(rf"{re.escape(before)}(\d+)(?i:{ends})", re.ASCII)
    try:
        entries = os.scandir(folder / place.parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match and number % int(match[1]) == match[1]:
                yield int(match[1]), str(place.parent / entry.name)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def names_from(values: Mapping[str, str]) -> FrameNames:
    """Return the names that a plan keeps."""
    return FrameNames(image=values["image"], flow_x=values["flow_x"], flow_y=values["flow_y"])
