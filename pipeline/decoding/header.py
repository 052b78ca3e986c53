"""What a file says of its pictures before one of them is decoded: stream, order of fields, colours.

ffmpeg prints it in one line for each stream. A line that cannot be read leaves the file as ffmpeg takes it.
"""

import re
from dataclasses import dataclass
from typing import Literal

FieldOrder = Literal["progressive", "top", "bottom"]
"""Which field of an interlaced frame is shown first; `progressive` frames have none."""

PictureChange = Literal["deinterlaced", "bt709_by_size", "wide_gamut", "tone_mapped", "wide_gamut_kept"]
"""What was done to pictures: fields joined, BT.709 assumed by size, colours of BT.2020 or P3 converted to
BT.709, HDR mapped to the usual range; or wide-gamut colours left, because this ffmpeg cannot convert."""

Interlaced = Literal["deinterlace", "keep"]

_VIDEO = re.compile(
    r"\[info\] {1,6}Stream #0:(?P<number>\d{1,4})(?:\[0x[0-9a-f]+\])?(?:\([^)]*\))?: Video: "
    r"(?P<codec>[a-z0-9_]+)(?: \((?:[^()]|\([^()]*\))*\))*, "
    r"(?P<format>[a-z0-9]+)(?:\((?P<details>(?:[^()]|\([^()]*\))*)\))?, "
    r"(?P<width>\d{1,6})x(?P<height>\d{1,6})\b"
)
COVERS = ("(attached pic)", "(timed thumbnails)")

_FIELD_ORDERS: dict[str, FieldOrder] = {
    "progressive": "progressive",
    "top first": "top",
    "bottom first": "bottom",
    # Coded in one order and shown in the other: what is shown counts.
    "top coded first (swapped)": "bottom",
    "bottom coded first (swapped)": "top",
}
_TRIPLE = re.compile(r"([a-z0-9-]+)(?:/([a-z0-9-]+)/([a-z0-9-]+))?")
_MATRICES = ("bt709", "bt470bg", "smpte170m", "smpte240m", "fcc", "bt2020nc", "bt2020c", "gbr", "ycgco")


@dataclass(frozen=True, kw_only=True)
class Header:
    """The video stream that is decoded: the first that is no cover picture.

    Attributes:
        stream: its number in the file.
        codec, pixel_format: as ffmpeg names them.
        width, height: of a coded picture in pixels.
        field_order: as the file or its first frames say; None if they do not.
        matrix, primaries, transfer: colour tags as ffmpeg names them; empty without a tag.
    """

    stream: int
    codec: str
    pixel_format: str
    width: int
    height: int
    field_order: FieldOrder | None = None
    matrix: str = ""
    primaries: str = ""
    transfer: str = ""

    @property
    def is_yuv(self) -> bool:
        """Whether its pictures are stored as brightness and colour differences."""
        return self.pixel_format.startswith(("yuv", "nv", "p0", "p2", "p4", "uyvy", "yuyv", "y2", "xv"))


def read_header(messages: str) -> Header | None:
    """Read the lines that ffmpeg prints about its input; None where no video stream is told."""
    for line in messages.splitlines():
        match = _VIDEO.match(line)
        if match is None or line.rstrip().endswith(COVERS):
            continue

        order: FieldOrder | None = None
        colours = ("", "", "")
        for detail in (match["details"] or "").split(", "):
            if detail in _FIELD_ORDERS:
                order = _FIELD_ORDERS[detail]
            colours = _colours(detail) or colours
        return Header(
            stream=int(match["number"]),
            codec=match["codec"],
            pixel_format=match["format"],
            width=int(match["width"]),
            height=int(match["height"]),
            field_order=order,
            matrix=colours[0],
            primaries=colours[1],
            transfer=colours[2],
        )
    return None


def _colours(detail: str) -> tuple[str, str, str] | None:
    """Read `bt709`, which stands for all three, or `matrix/primaries/transfer`."""
    match = _TRIPLE.fullmatch(detail)
    if match is None or (match[2] is None and match[1] not in _MATRICES):
        return None
    matrix, primaries, transfer = match[1], match[2] or match[1], match[3] or match[1]
    return _known(matrix), _known(primaries), _known(transfer)


def _known(name: str) -> str:
    return "" if name in ("unknown", "reserved", "unspecified") else name
