"""Where the levels of a pyramid lie in the flat buffers of the CPU engine, and the tables for resizing them.

Legend: H, W sides of a level. A "quad" is grey value, gradient in x, gradient in y and a spare zero of one
pixel, side by side, so that one load of 64 bytes takes four neighbouring pixels of all three.
"""

import dataclasses
import functools

import numpy as np

from stin_pipe.pipeline.flow.params import TVL1Params, pyramid_sizes

HEIGHT, WIDTH, PITCH, GREY_AT, GREY_PITCH, QUADS_AT, QUADS_STRIDE, DOWN_AT, UP_AT = range(9)
"""Columns of `Layout.levels`."""

U1, U2, P1X, P1Y, P2X, P2Y, GX, GY, RHO_C, INV_GRAD2 = range(10)
"""Planes of a row of the solver's workspace: flow, duals, warped gradient, rho_c and 1/|grad|^2."""
NUM_PLANES = 10

ALIGN_LANES = 16
"""Rows are padded to this many floats: one cache line, and the longest SIMD vector."""

GREY_MARGIN = ALIGN_LANES
"""Floats before the first pixel of a grey row; the last of them repeats that pixel."""

QUADS_MARGIN = 4
"""Replicated pixels around a level's quads: a 4 x 4 neighbourhood anywhere beyond the border is inside."""


def round_up(count: int) -> int:
    """Round a number of floats up to whole cache lines."""
    return (count + ALIGN_LANES - 1) // ALIGN_LANES * ALIGN_LANES


def row_pitch(width: int) -> int:
    """Floats from one plane of a row to the next: whole cache lines, and an odd number of them.

    An odd number spreads the planes over all sets of the cache.
    """
    return (round_up(width) // ALIGN_LANES | 1) * ALIGN_LANES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes and positions of all levels for frames of one size.

    Attributes:
        levels: (levels, 9) int64, finest first: size in pixels, floats from plane to plane in the solver,
            begin and row pitch of the grey level, begin (floats) and row stride (pixels) of its quads, and
            where the resize tables from the next finer and the next coarser level begin.
        samples: (n,) int32, for every row, then every column of a table: the first of the two samples.
        weights: (n,) float32, the weight of the second sample.
        grey_floats: Floats of a frame's grey pyramid.
        quads_floats: Floats of a frame's quads.
        space_floats: Floats of the solver's workspace, enough for the finest level.
        row_floats: Floats of one row of the finest level and one more vector.
        flow_floats: Floats of a buffer for the flow of the finest level, with margins for a filter.
    """

    levels: np.ndarray
    samples: np.ndarray
    weights: np.ndarray
    grey_floats: int
    quads_floats: int
    space_floats: int
    row_floats: int
    flow_floats: int


@functools.lru_cache(maxsize=16)
def lay_out(height: int, width: int, params: TVL1Params) -> Layout:
    """Lay out the pyramid of frames of `height` x `width` pixels."""
    sizes = pyramid_sizes(height, width, params)
    levels = np.zeros((len(sizes), 9), np.int64)
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    grey_at = quads_at = table_at = 0

    def add_tables(target: tuple[int, int], source: tuple[int, int], ratios: tuple[float, float]) -> int:
        nonlocal table_at
        begin = table_at
        # Pixel 0 stays at pixel 0, as in OpenCV's CUDA resize; positions in float64, as in the reference.
        for count, limit, ratio in zip(target, source, ratios, strict=True):
            position = np.arange(count) * ratio
            first = np.minimum(np.floor(position), limit - 1)
            tables.append((first.astype(np.int32), (position - first).astype(np.float32)))
            table_at += count
        return begin

    for i, (h, w) in enumerate(sizes):
        down_at = up_at = 0
        if i:
            down_at = add_tables((h, w), sizes[i - 1], (1 / params.scale_step, 1 / params.scale_step))
        if i + 1 < len(sizes):
            coarse = sizes[i + 1]
            up_at = add_tables((h, w), coarse, (coarse[0] / h, coarse[1] / w))

        grey_pitch, stride = GREY_MARGIN + round_up(w) + ALIGN_LANES, round_up(w) + 2 * QUADS_MARGIN
        levels[i] = (h, w, row_pitch(w), grey_at, grey_pitch, quads_at, stride, down_at, up_at)
        grey_at += h * grey_pitch
        quads_at += round_up((h + 2 * QUADS_MARGIN) * stride * 4)

    # A last load may reach beyond a row: every buffer has a vector or two to spare.
    return Layout(
        levels=levels,
        samples=np.concatenate([first for first, _ in tables] or [np.zeros(1, np.int32)]),
        weights=np.concatenate([weight for _, weight in tables] or [np.zeros(1, np.float32)]),
        grey_floats=grey_at + ALIGN_LANES,
        quads_floats=quads_at + 4 * ALIGN_LANES,
        space_floats=height * NUM_PLANES * row_pitch(width) + 2 * ALIGN_LANES,
        row_floats=row_pitch(width) + ALIGN_LANES,
        flow_floats=(height + 1) * 2 * (row_pitch(width) + ALIGN_LANES),
    )


def aligned_floats(count: int) -> np.ndarray:
    """Make a zeroed float32 buffer that begins at a cache line, where vectors load fastest."""
    raw = np.zeros(count + ALIGN_LANES, np.float32)
    begin = -raw.ctypes.data % (4 * ALIGN_LANES) // 4
    return raw[begin : begin + count]
