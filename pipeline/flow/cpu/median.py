"""The optional median filter of u on the CPU."""

import numba

from stin_pipe.pipeline.flow.cpu.layout import ALIGN_LANES, NUM_PLANES
from stin_pipe.pipeline.flow.cpu.simd import INLINED, KERNEL, LANES
from stin_pipe.pipeline.flow.cpu.simd_memory import load, store


@numba.njit(**KERNEL)
def filter_median(space, height, width, pitch, side, padded, scratch):
    """Replace u1 and u2 by the median of each side x side neighbourhood, the border replicated.

    `padded` is room for one component with margins, `scratch` for side * side vectors.
    """
    reach, stride = side // 2, pitch + 2 * ALIGN_LANES
    for component in range(2):
        for y in range(height):
            source = (y * NUM_PLANES + component) * pitch
            target = y * stride + ALIGN_LANES
            for x in range(0, width, LANES):
                store(padded, target + x, load(space, source + x))
            for x in range(1, reach + 1):
                padded[target - x] = padded[target]
                padded[target + width - 1 + x] = padded[target + width - 1]

        for y in range(height):
            at = (y * NUM_PLANES + component) * pitch
            for x in range(0, width, LANES):
                count = 0
                for dy in range(-reach, reach + 1):
                    row = min(max(y + dy, 0), height - 1) * stride + ALIGN_LANES
                    for dx in range(-reach, reach + 1):
                        store(scratch, count * LANES, load(padded, row + x + dx))
                        count += 1
                store(space, at + x, _select_median(scratch, count))
            for x in range(width, pitch):
                space[at + x] = 0


@numba.njit(**KERNEL)
def _select_median(scratch, count):
    """Return the median of `count` vectors, lane by lane.

    A little more than half of them are kept; the smallest and the largest of these cannot be the median
    and make room for the next, until three are left.
    """
    first, end = 0, count // 2 + 2
    following = end
    while True:
        for i in range(first + 1, end):
            _order(scratch, first, i)
        for i in range(first + 1, end - 1):
            _order(scratch, i, end - 1)
        if following == count:
            return load(scratch, (first + 1) * LANES)
        first += 1
        store(scratch, (end - 1) * LANES, load(scratch, following * LANES))
        following += 1


@numba.njit(**INLINED)
def _order(scratch, i, j):
    """Put the smaller of vectors i and j at i, the larger at j."""
    a, b = load(scratch, i * LANES), load(scratch, j * LANES)
    store(scratch, i * LANES, min(a, b))
    store(scratch, j * LANES, max(a, b))
