"""From coded pictures to what a viewer sees: no combs of interlaced video, colours as BT.709 shows them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stin_pipe.pipeline.decoding.ffmpeg import has_filter, messages_of, sample_messages
from stin_pipe.pipeline.decoding.header import Header, Interlaced, PictureChange, read_header

MIN_INTERLACED_LINES = 400
"""Smaller pictures are taken as progressive unless the file says otherwise: 480 lines are the least that
interlaced systems have, and a shrunk picture has no fields left."""

SAMPLE_FRAMES = 120
MIN_COMBED = 10
"""Frames of the sample that must have combs, and four times as many as have none."""

HD_WIDTH, SD_LINES = 1280, 576
"""Untagged pictures as wide as that, or with more lines, are BT.709; others BT.601."""

REFERENCE_WHITE_NITS = 203
"""What HDR calls the white of a sheet of paper (ITU-R BT.2408); it becomes 255, brighter light too."""

HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
_WIDE_PRIMARIES = ("bt2020", "smpte431", "smpte432")
_PROGRESSIVE_CODECS = ("vp8", "vp9", "av1", "theora", "h263", "flv1", "gif", "png", "webp", "apng")
_FLAGGING_CODECS = ("mpeg1video", "mpeg2video", "mpeg4", "h264", "vc1", "dvvideo")
"""Codecs that mark each frame as interlaced or not, so that the others of a mixed video stay as they are."""

_IDET = re.compile(r"Multi frame detection: TFF: *(\d+) BFF: *(\d+) Progressive: *(\d+)")
_FLAGGED = re.compile(r"\bi:[TB] ")


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What a video's pictures need.

    Attributes:
        stream: number of the stream in its file; None if that is not known.
        filters: ffmpeg's filters, in order.
        changes: what they do.
        problem: why the colours cannot be had, empty if they can.
    """

    stream: int | None = None
    filters: tuple[str, ...] = ()
    changes: tuple[PictureChange, ...] = ()
    problem: str = ""


def find_treatment(
    path: Path, *, interlaced: Interlaced, start_s: float, timeout_s: float | None
) -> Treatment:
    """Say what a file's pictures need, by its header, and by some frames where that does not tell.

    Raises:
        subprocess.TimeoutExpired: `timeout_s` is over.
    """
    header = read_header(messages_of(path, timeout_s=timeout_s))
    if header is None:
        return Treatment()

    colours = treat_colours(header, can_convert=has_filter("zscale"))
    combs = () if interlaced == "keep" else _remove_combs(path, header, start_s, timeout_s)
    changes: list[PictureChange] = ["deinterlaced"] if combs else []
    return Treatment(
        stream=header.stream,
        filters=(*combs, *colours.filters),
        changes=(*changes, *colours.changes),
        problem=colours.problem,
    )


def _remove_combs(path: Path, header: Header, start_s: float, timeout_s: float | None) -> tuple[str, ...]:
    order = header.field_order
    if order is None and header.height >= MIN_INTERLACED_LINES and header.codec not in _PROGRESSIVE_CODECS:
        messages = sample_messages(path, SAMPLE_FRAMES, start_s=start_s, timeout_s=timeout_s)
        order = "top" if len(_FLAGGED.findall(messages)) >= MIN_COMBED else _seen_order(messages)
        if order != "progressive" and not _FLAGGED.search(messages):
            return (_bwdif(order, "all"),)

    if order in (None, "progressive"):
        return ()
    flagged = header.codec in _FLAGGING_CODECS
    return (_bwdif("auto", "interlaced") if flagged else _bwdif(order, "all"),)


def _bwdif(order: str, which: str) -> str:
    parity = {"top": "tff", "bottom": "bff"}.get(order, order)
    return f"bwdif=mode=send_frame:parity={parity}:deint={which}"


def _seen_order(messages: str) -> Literal["progressive", "top", "bottom"]:
    """Read what ffmpeg's comb detector counted."""
    counts = _IDET.findall(messages)
    if not counts:
        return "progressive"
    top, bottom, progressive = map(int, counts[-1])
    combed, other = max(top, bottom), min(top, bottom) + progressive
    if combed < MIN_COMBED or combed < 4 * other:
        return "progressive"
    return "top" if top > bottom else "bottom"


def treat_colours(header: Header, *, can_convert: bool) -> Treatment:
    """Say how colours become those of BT.709 displays.

    Tagged matrices and ranges are left to ffmpeg, which follows them.

    Args:
        header: the tags.
        can_convert: whether this ffmpeg can convert primaries and transfer.
    """
    if not header.is_yuv:
        return Treatment()

    is_hdr, is_wide = header.transfer in HDR_TRANSFERS, header.primaries in _WIDE_PRIMARIES
    if is_hdr and not can_convert:
        return Treatment(
            problem="its colours are HDR, which this ffmpeg cannot convert (it lacks the filter zscale)"
        )
    if is_hdr or (is_wide and can_convert):
        matrix = header.matrix or ("bt2020nc" if is_hdr or header.primaries == "bt2020" else "bt709")
        primaries = header.primaries or "bt2020"
        transfer = header.transfer or "bt709"
        convert = (
            f"zscale=min={matrix}:pin={primaries}:tin={transfer}"
            f":m=gbr:p=bt709:t=bt709:r=full:npl={REFERENCE_WHITE_NITS}"
        )
        return Treatment(
            filters=(convert, "format=gbrp"), changes=("tone_mapped" if is_hdr else "wide_gamut",)
        )

    changes: tuple[PictureChange, ...] = ("wide_gamut_kept",) * is_wide
    if not header.matrix and (header.width >= HD_WIDTH or header.height > SD_LINES):
        return Treatment(filters=("setparams=colorspace=bt709",), changes=(*changes, "bt709_by_size"))
    return Treatment(changes=changes)
