"""Frames and flow fields to image bytes and back.

Shapes: H height, W width. RGB frames are (H, W, 3) uint8. Flow is (H, W, 2) float32, x then y, in pixels a
frame; a stored field is one grey image (2H, W) uint8 with x above y.
"""

import struct

import cv2
import numpy as np

from stin_pipe.stin.shards.errors import ShardError
from stin_pipe.stin.shards.schema import MAX_PIXELS, FlowCoding, ImageCodec

JPEG_QUALITY = 95

Window = tuple[slice, slice]
"""Rows and columns of a stored picture."""


def encode_image(image: np.ndarray, *, codec: ImageCodec = "jpeg") -> bytes:
    """Encode an RGB (H, W, 3) or grey (H, W) uint8 image: JPEG of quality 95, or lossless PNG."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"image must be uint8 of (H, W) or (H, W, 3), got {image.dtype} {image.shape}")

    # OpenCV keeps its channels in the order blue, green, red.
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if codec == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        extension = ".jpg"
    elif codec == "png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
        extension = ".png"
    else:
        raise ValueError(f"codec must be jpeg or png, got {codec!r}")

    succeeded, encoded = cv2.imencode(extension, image, options)
    assert succeeded, "imencode failed on a valid array"
    return encoded.tobytes()


def decode_image(content: np.ndarray | bytes, *, grey: bool = False) -> np.ndarray:
    """Decode image bytes to RGB (H, W, 3) uint8, or to grey (H, W).

    Raises:
        ShardError: the bytes are not those of an image.
    """
    return _decode(content, cv2.IMREAD_GRAYSCALE) if grey else decode_rgb(content)


def decode_rgb(content: np.ndarray | bytes, window: Window | None = None) -> np.ndarray:
    """Decode stored bytes to an RGB frame (H, W, 3) uint8, or to a window (rows, columns) of it."""
    image = _decode(content, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image if window is None else image[window], cv2.COLOR_BGR2RGB)


def decode_field(content: np.ndarray | bytes, window: Window | None = None) -> np.ndarray:
    """Decode stored bytes to a quantised field (2, H, W) uint8, x then y, or to a window of it."""
    stacked = _decode(content, cv2.IMREAD_GRAYSCALE)
    if stacked.shape[0] % 2:
        raise ShardError(f"a flow field must have an even number of rows, got {stacked.shape[0]}")
    field = stacked.reshape(2, stacked.shape[0] // 2, stacked.shape[1])
    return field if window is None else field[:, window[0], window[1]]


def quantise_flow(flow: np.ndarray, *, bound_px: float) -> np.ndarray:
    """Quantise flow (..., H, W, 2) to stacked bytes (..., 2H, W) in which zero stays exact.

    `q = round(v * 127 / bound_px) + 128`, clipped to 1..255, so that 128 is no motion, 1 is -bound_px
    and 255 is +bound_px. Differs: the usual `255 (v + b) / (2 b)` decodes zero motion as +0.08 px.
    """
    if not bound_px > 0:
        raise ValueError(f"bound_px must be > 0, got {bound_px}")
    scaled = np.rint(flow * np.float32(127.0 / bound_px))
    levels = np.clip(scaled + 128.0, 1, 255).astype(np.uint8)
    planes = np.moveaxis(levels, -1, -3)
    return np.ascontiguousarray(planes).reshape(*planes.shape[:-3], -1, planes.shape[-1])


def dequantise_flow(field: np.ndarray, coding: FlowCoding) -> np.ndarray:
    """Turn quantised planes (..., 2, H, W) uint8 into float32 pixels a frame, same shape."""
    return (field.astype(np.float32) - np.float32(coding.zero)) * np.float32(coding.scale)


def recode_field(field: np.ndarray, *, old: FlowCoding, new: FlowCoding) -> np.ndarray:
    """Turn quantised planes (..., 2, H, W) uint8 into the nearest bytes of another coding, same shape."""
    levels = np.arange(256)
    table = np.rint((levels - old.zero) * (old.scale / new.scale) + new.zero)
    return np.clip(table, 0, 255).astype(np.uint8)[field]


def image_size(content: bytes | memoryview) -> tuple[int, int]:
    """Return width and height by the header of a JPEG or PNG image; 0, 0 where there is none.

    A few bytes may declare any size, and decoders take the memory for it before they find out.
    """
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack_from(">II", content, 16) if len(content) >= 24 else (0, 0)
    if content[:2] != b"\xff\xd8":
        return 0, 0
    at = 2
    while at + 9 <= len(content):
        # Like libjpeg, which passes over whatever stands between two segments.
        code = content[at + 1]
        if content[at] != 0xFF or code in (0x00, 0xFF):
            at += 1
        elif code == 0x01 or 0xD0 <= code <= 0xD7:  # markers without a length
            at += 2
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        elif (length := struct.unpack_from(">H", content, at + 2)[0]) < 2:
            return 0, 0
        else:
            at += 2 + length
    return 0, 0


def _decode(content: np.ndarray | bytes, flags: int) -> np.ndarray:
    buffer = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    width, height = image_size(buffer.data)
    if not 0 < width * height <= 2 * MAX_PIXELS:
        raise ShardError(f"the stored image has {width}x{height} pixels by its header")
    try:
        image = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ShardError("stored image bytes cannot be decoded")
    return image
