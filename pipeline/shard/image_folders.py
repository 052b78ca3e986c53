"""Folders of images, one per video, as the loaders of TSN and mmaction2 read them: names, and what is there.

`class/video/img_00001.jpg`, `flow_x_00001.jpg`, `flow_y_00001.jpg`, counted from 1 (or from 0, which is
recognised). The content of such a folder comes from outside: no name leads out of it, and no image is decoded
before its size is known.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.decoding.frames import DecodeError
from stin_pipe.stin.shards.codec import image_size
from stin_pipe.stin.shards.schema import MAX_PIXELS

FRAMES = "rawframes"
"""The folder of class folders that an export makes, by mmaction2's name."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_IMAGE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FrameNames:
    """Names of the images of a video inside its folder, with `%05d` for the number.

    A name without an extension stands for .jpg, .jpeg and .png; a name may contain a folder (`flow_x/%05d`).
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


def names_from(values: Mapping[str, str]) -> FrameNames:
    """Return the names that a plan keeps."""
    return FrameNames(image=values["image"], flow_x=values["flow_x"], flow_y=values["flow_y"])


def scan_frame_folders(root: Path, image_name: str) -> list[PurePosixPath]:
    """Return the folders of videos under `root`: `class/video`, or `video` where images lie in it."""
    videos: list[PurePosixPath] = []
    for name in _folders(root):
        if any(True for _ in _numbered(root / name, image_name)):
            videos.append(PurePosixPath(name))
        else:
            videos += [PurePosixPath(name, inner) for inner in _folders(root / name)]
    return sorted(videos)


def numbered_images(folder: Path, name: str) -> list[Path]:
    """Return the images of one kind in the order of their numbers.

    Raises:
        DecodeError: `missing_image` for a gap, `ambiguous` for a number used twice, `unreadable`.
    """
    by_number: dict[int, str] = {}
    try:
        for number, path in _numbered(folder, name):
            if number in by_number:
                raise DecodeError("ambiguous", f"{folder}: {by_number[number]} and {path} have one number")
            by_number[number] = path
    except OSError as error:
        raise DecodeError("unreadable", f"{folder}: cannot be read: {error.strerror}", retry=True) from error

    first = min(by_number, default=1)
    if first not in (0, 1):
        raise DecodeError(
            "missing_image", f"{folder}: images {name} must count from 1 (or 0), but begin at {first}"
        )
    for number in range(first, first + len(by_number)):
        if number not in by_number:
            raise DecodeError(
                "missing_image",
                f"{folder}: image {name % number} is missing between {first} and {max(by_number)}; "
                "make the folder again",
            )
    return [folder / by_number[number] for number in sorted(by_number)]


def read_image(path: Path, root: str) -> bytes:
    """Read an image file, which must lie under the real path `root` when links are followed.

    Raises:
        DecodeError: `outside` for a link that leads out, `unreadable_image` for anything but a whole JPEG or
            PNG file of reasonable size.
    """
    real = os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        raise DecodeError("outside", f"{path}: a link out of the folder of frames; copy the file instead")

    try:
        # Another process may put a link or a named pipe in the file's place now: follow none, wait for none.
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
    """Refuse an image that is cut off, which decoders fill with grey in silence, and one of absurd size."""
    is_jpeg, is_png = content.startswith(b"\xff\xd8\xff"), content.startswith(b"\x89PNG\r\n\x1a\n")
    if not is_jpeg and not is_png:
        raise DecodeError("unreadable_image", f"{path}: neither a JPEG nor a PNG image")
    if (b"\xff\xd9" if is_jpeg else b"IEND") not in content[-1024:]:
        raise DecodeError("unreadable_image", f"{path}: the image is cut off; make it again")

    # OpenCV's own limit (OPENCV_IO_MAX_IMAGE_PIXELS) is read when it is loaded, which is too early for us.
    width, height = image_size(content)
    if not width * height:
        raise DecodeError("unreadable_image", f"{path}: the image cannot be decoded: its header has no size")
    if width * height > MAX_PIXELS:
        raise DecodeError(
            "unreadable_image", f"{path}: {width}x{height} pixels; at most {MAX_PIXELS} are decoded"
        )


def _numbered(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, name inside `folder`) of the files that fit the pattern."""
    pattern = PurePosixPath(name)
    before, number, after = re.split(r"(%0?\d*d)", pattern.name)
    suffixes = [""] if pattern.suffix.lower() in IMAGE_SUFFIXES else IMAGE_SUFFIXES
    ends = "|".join(re.escape(after + suffix) for suffix in suffixes)
    fits = re.compile(rf"{re.escape(before)}(\d+)(?i:{ends})", re.ASCII)
    try:
        entries = os.scandir(folder / pattern.parent)
    except (FileNotFoundError, NotADirectoryError):
        return

    with entries:
        for entry in entries:
            match = fits.fullmatch(entry.name)
            # img_1.jpg is not img_00001.jpg: a folder that holds both has two files for one number.
            if match and number % int(match[1]) == match[1]:
                yield int(match[1]), str(pattern.parent / entry.name)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
