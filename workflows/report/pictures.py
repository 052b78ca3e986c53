"""Pictures of a few example videos: frames, flow in colours, and what each stream looked at.

They are read from the shards, drawn small, and kept in the page itself as data URIs.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stin_pipe.pipeline.flow.colour import flow_to_colour, full_length
from stin_pipe.stin.clips.read_clips import ClipShape
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.scoring.maps import StreamMaps, stream_maps
from stin_pipe.stin.shards.codec import dequantise_flow
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import STORED_OF, ManifestVideo

NUM_TILES = 6
TILE_PX = 208
JPEG_QUALITY = 80

# The streams' accents of the page (dark scheme), as RGB: maps are drawn in the colour of their stream.
SPATIAL_RGB, TEMPORAL_RGB = (110, 176, 255), (255, 170, 92)
MAP_STRENGTH = 0.9
FULL_ATTENTION = 3.0
"""Multiples of uniform attention that get the full colour, unless a video has more."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures of one video in order of time; each is a data URI, or "" where there is none.

    Attributes:
        frames: numbers of the frames.
        rgb: the frames.
        flow: the flow field that begins at each frame.
        differences: appearance differences of the spatial stream over frames; empty for a plain stream.
        attention: attention of the temporal stream over frames; empty for a plain stream.
        difference_frames, attention_frames: the frames under these maps, the first ones of their clips.
        full_px: motion in pixels per frame (stored size) that gets the full colour.
        attention_peak: largest attention, in multiples of uniform attention; 0 without a map.
        width, height: of a picture in pixels.
    """

    frames: tuple[int, ...]
    rgb: tuple[str, ...]
    flow: tuple[str, ...]
    differences: tuple[str, ...]
    attention: tuple[str, ...]
    difference_frames: tuple[int, ...]
    attention_frames: tuple[int, ...]
    full_px: float
    attention_peak: float
    width: int
    height: int


def draw_strip(reader: ShardReader, video: ManifestVideo, models: Mapping[str, TrainedModel]) -> Strip:
    """Draw one video.

    Args:
        reader: of the run's shards.
        video: which one.
        models: the trained streams by name; a missing or plain stream has no map.

    Raises:
        ShardError: what is stored differs from its checksum.
    """
    # The middles of equal parts: the first and the last frame of a video say least.
    count = min(NUM_TILES, video.num_frames - 1)
    frames = [int(index) for index in ((2 * np.arange(count) + 1) * (video.num_frames - 1)) // (2 * count)]

    width, height = _tile_size(video)
    rgb_NHWC, flow_NHW2, full_px = [], [], 0.0
    if video.has("rgb"):
        rgb_NHWC = [_resized(frame, width, height) for frame in reader.read_rgb(video.id, frames)]
    if video.has("flow"):
        flow = dequantise_flow(reader.read_flow(video.id, frames), reader.flow_coding(video.id))
        flow_NHW2 = flow.transpose(0, 2, 3, 1)
        full_px = full_length(flow_NHW2)

    maps = {
        stream: stream_maps(model, reader, ClipShape.of(video), num_segments=max(2, count))
        for stream, model in models.items()
        if video.has("rgb") and video.has(STORED_OF[stream])  # a map is drawn over frames
    }
    differences, attention = maps.get("spatial"), maps.get("temporal")

    return Strip(
        frames=tuple(frames),
        rgb=tuple(data_uri(picture) for picture in rgb_NHWC),
        flow=tuple(
            data_uri(_resized(flow_to_colour(field, full_px=full_px), width, height)) for field in flow_NHW2
        ),
        differences=()
        if differences is None
        else _drawn_maps(reader, video, differences, SPATIAL_RGB)[:count],
        attention=() if attention is None else _drawn_maps(reader, video, attention, TEMPORAL_RGB)[:count],
        difference_frames=() if differences is None else tuple(differences.starts.tolist()),
        attention_frames=() if attention is None else tuple(attention.starts.tolist()),
        full_px=full_px,
        attention_peak=0.0 if attention is None else float(attention.values_MHW.max()),
        width=width,
        height=height,
    )


def blend_map(frame_HWC: np.ndarray, strength_HW: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Return a grey, darkened frame with a map (0..1) in one colour over it: uint8 (H, W, 3)."""
    grey_HW1 = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.55
    alpha_HW1 = MAP_STRENGTH * np.clip(strength_HW, 0, 1)[..., None]
    # The frame's brightness stays on top of the colour, so that what lies under it remains visible.
    lit = np.asarray(colour, np.float32) * (0.75 + 0.25 * grey_HW1 / 140)
    return np.rint((1 - alpha_HW1) * grey_HW1 + alpha_HW1 * lit).clip(0, 255).astype(np.uint8)


def map_strength(values_HW: np.ndarray, *, stream: str, peak: float) -> np.ndarray:
    """Return how strongly to draw a map, 0..1.

    Differences scale from none to the strongest of the strip. Attention scales by its logarithm, from uniform
    attention (1) upwards: a stream without a preference shows none, and a single peak does not hide the rest.
    """
    if stream == "spatial":
        return values_HW / max(peak, 1e-12)
    return np.log(np.maximum(values_HW, 1.0)) / np.log(max(peak, FULL_ATTENTION))


def data_uri(picture_HWC: np.ndarray) -> str:
    """Return an RGB picture as a JPEG in a data URI."""
    written, content = cv2.imencode(".jpg", picture_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert written
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def _drawn_maps(
    reader: ShardReader, video: ManifestVideo, maps: StreamMaps, colour: tuple[int, int, int]
) -> tuple[str, ...]:
    """Draw the maps of a stream over their frames; segments without a difference stay empty."""
    stream = "spatial" if maps.step else "temporal"
    width, height = _tile_size(video)
    frames = reader.read_rgb(video.id, maps.starts.tolist())
    peak = float(maps.values_MHW.max())
    pictures = []
    for frame, values_HW in zip(frames, maps.values_MHW, strict=False):
        strength_HW = cv2.resize(
            map_strength(values_HW, stream=stream, peak=peak), (width, height), interpolation=cv2.INTER_LINEAR
        )
        pictures.append(data_uri(blend_map(_resized(frame, width, height), strength_HW, colour)))
    return tuple(pictures) + ("",) * (len(maps.starts) - len(pictures))


def _tile_size(video: ManifestVideo) -> tuple[int, int]:
    scale = TILE_PX / max(video.width, video.height)
    return max(1, round(video.width * scale)), max(1, round(video.height * scale))


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
