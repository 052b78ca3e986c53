"""The kernels around a solve: pyramid, gradients, warp, change of level, median, and what goes out.

A thread takes one pixel of one frame or pair: x and y from its block's position, the frame or pair from its
depth. Pairs beyond `num_pairs[0]` are skipped. Pair i is frame i + `first` and frame i + `second`.

Legend: planes are (rows, pitch) float32, flat, with `plane` floats; levels (frames, plane); state, data as
in `solver`; gradients (pairs, 2 planes gx gy); field (pairs, 2 planes u1 u2). Lengths in pixels.
"""

# numba types these functions, which a Python type checker cannot see.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalCall=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

import math

import numpy as np
from numba import cuda, types

from stin_pipe.pipeline.flow.cuda.device import BYTES, FLOATS, INTS, advance, device
from stin_pipe.pipeline.flow.steps import catmull_rom

HALF = np.float32(0.5)
MOST_MEDIAN = 25

_catmull_rom = device(catmull_rom)
_I, _F, _D = types.int32, types.float32, types.float64
SHRINK_SIGNATURE = types.void(FLOATS, FLOATS, *[_I] * 8, _D)
GRADIENT_SIGNATURE = types.void(FLOATS, FLOATS, INTS, *[_I] * 5)
WARP_SIGNATURE = types.void(FLOATS, FLOATS, FLOATS, INTS, FLOATS, INTS, *[_I] * 7)
GROW_SIGNATURE = types.void(FLOATS, INTS, FLOATS, INTS, *[_I] * 9, _D, _D, _F)
PUT_SIGNATURE = types.void(FLOATS, INTS, FLOATS, INTS, *[_I] * 5)
MEDIAN_SIGNATURE = types.void(FLOATS, INTS, FLOATS, INTS, *[_I] * 6)
FLOW_SIGNATURE = types.void(FLOATS, INTS, FLOATS, INTS, *[_I] * 5)
PACK_SIGNATURE = types.void(FLOATS, INTS, BYTES, INTS, *[_I] * 5, _F)


@device
def _pixel():
    """The column, row and depth of this thread."""
    x = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    y = cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y
    return x, y, cuda.blockIdx.z


@device
def _flow_at(parity, pair, capacity, plane):
    """Where the planes u1 and then u2 of a pair's current state begin."""
    return (np.int64(parity[pair]) * capacity + pair) * 6 * plane


@device
def _bilinear(image, base, width, height, pitch, x, y, step_x, step_y):
    """Sample a plane at (x * step_x, y * step_y), the border replicated; see `reference.resize`."""
    at_x, at_y = x * step_x, y * step_y
    x0, y0 = int(at_x), int(at_y)
    tx, ty = np.float32(at_x - x0), np.float32(at_y - y0)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    row0, row1 = base + y0 * pitch, base + y1 * pitch
    left = image[row0 + x0] + ty * (image[row1 + x0] - image[row0 + x0])
    right = image[row0 + x1] + ty * (image[row1 + x1] - image[row0 + x1])
    return left + tx * (right - left)


@device
def _weigh_run(image, at, weights):
    """Weighted sum of four samples side by side."""
    return (
        weights[0] * image[at]
        + weights[1] * image[at + 1]
        + weights[2] * image[at + 2]
        + weights[3] * image[at + 3]
    )


@device
def _weigh_row(image, row, columns, weights):
    """Weighted sum of four samples of a row."""
    return (
        weights[0] * image[row + columns[0]]
        + weights[1] * image[row + columns[1]]
        + weights[2] * image[row + columns[2]]
        + weights[3] * image[row + columns[3]]
    )


def shrink(
    source, target, source_width, source_height, source_pitch, source_plane, width, height, pitch, plane, step
):  # fmt: skip
    """Make the next level of the pyramid of each frame: bilinear, not smoothed."""
    x, y, frame = _pixel()
    if x < width and y < height:
        base = np.int64(frame) * source_plane
        value = _bilinear(source, base, source_width, source_height, source_pitch, x, y, step, step)
        target[np.int64(frame) * plane + y * pitch + x] = value


def gradient(level, gradients, num_pairs, width, height, pitch, plane, second):
    """Make the centred gradient of each pair's second frame, the border replicated."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        base = np.int64(pair + second) * plane
        row = base + y * pitch
        gx = HALF * (level[row + min(x + 1, width - 1)] - level[row + max(x - 1, 0)])
        below, above = base + min(y + 1, height - 1) * pitch, base + max(y - 1, 0) * pitch
        at = np.int64(pair) * 2 * plane + y * pitch + x
        gradients[at] = gx
        gradients[at + plane] = HALF * (level[below + x] - level[above + x])


def warp(
    level, gradients, state, parity, data, num_pairs, width, height, pitch, plane, capacity, first, second
):  # fmt: skip
    """Sample frame 1 and its gradient at x + u bicubically, and make the data term's constants of a warp."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        pixel = y * pitch + x
        at = _flow_at(parity, pair, capacity, plane) + pixel
        u1, u2 = state[at], state[at + plane]
        # Further out the border's values repeat: the limits keep the integers small, not the result.
        at_x = min(max(np.float32(x) + u1, np.float32(-4.0)), np.float32(width + 3))
        at_y = min(max(np.float32(y) + u2, np.float32(-4.0)), np.float32(height + 3))
        # In some versions of numba-cuda floor and round return floats.
        x0, y0 = int(math.floor(at_x)), int(math.floor(at_y))  # noqa: RUF046
        wx = _catmull_rom(at_x - np.float32(x0))
        wy = _catmull_rom(at_y - np.float32(y0))

        frame1 = advance(level, np.int64(pair + second) * plane)
        gradient_x = advance(gradients, np.int64(pair) * 2 * plane)
        gradient_y = advance(gradients, (np.int64(pair) * 2 + 1) * plane)
        value = gx = gy = np.float32(0.0)

        # Away from the border one address serves four samples.
        if 1 <= x0 < width - 2:
            for j in range(4):
                run = min(max(y0 - 1 + j, 0), height - 1) * pitch + x0 - 1
                value += wy[j] * _weigh_run(frame1, run, wx)
                gx += wy[j] * _weigh_run(gradient_x, run, wx)
                gy += wy[j] * _weigh_run(gradient_y, run, wx)
        else:
            columns = (
                min(max(x0 - 1, 0), width - 1),
                min(max(x0, 0), width - 1),
                min(max(x0 + 1, 0), width - 1),
                min(max(x0 + 2, 0), width - 1),
            )
            for j in range(4):
                row = min(max(y0 - 1 + j, 0), height - 1) * pitch
                value += wy[j] * _weigh_row(frame1, row, columns, wx)
                gx += wy[j] * _weigh_row(gradient_x, row, columns, wx)
                gy += wy[j] * _weigh_row(gradient_y, row, columns, wx)

        target = np.int64(pair) * 3 * plane + pixel
        data[target] = gx
        data[target + plane] = gy
        data[target + 2 * plane] = value - gx * u1 - gy * u2 - level[np.int64(pair + first) * plane + pixel]


def grow(
    state, parity, field, num_pairs,
    coarse_width, coarse_height, coarse_pitch, coarse_plane, width, height, pitch, plane, capacity,
    step_x, step_y, gain,
):  # fmt: skip
    """Carry each pair's flow from the level below to `field` of this level, `gain` times as long."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        base = _flow_at(parity, pair, capacity, coarse_plane)
        at = np.int64(pair) * 2 * plane + y * pitch + x
        u1 = _bilinear(state, base, coarse_width, coarse_height, coarse_pitch, x, y, step_x, step_y)
        base += coarse_plane
        u2 = _bilinear(state, base, coarse_width, coarse_height, coarse_pitch, x, y, step_x, step_y)
        field[at] = u1 * gain
        field[at + plane] = u2 * gain


def put(state, parity, field, num_pairs, width, height, pitch, plane, capacity):
    """Copy `field` into each pair's current state."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        pixel = y * pitch + x
        at = _flow_at(parity, pair, capacity, plane) + pixel
        state[at] = field[np.int64(pair) * 2 * plane + pixel]
        state[at + plane] = field[(np.int64(pair) * 2 + 1) * plane + pixel]


def median(state, parity, field, num_pairs, width, height, pitch, plane, capacity, side):
    """Put the median of each side x side neighbourhood of the flow into `field`, the border replicated."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        values = cuda.local.array(MOST_MEDIAN, types.float32)
        reach, count = side // 2, side * side
        for component in range(2):
            base = _flow_at(parity, pair, capacity, plane) + component * plane
            for j in range(side):
                row = base + min(max(y + j - reach, 0), height - 1) * pitch
                for i in range(side):
                    values[j * side + i] = state[row + min(max(x + i - reach, 0), width - 1)]
            # Sorted up to the middle.
            for i in range(count // 2 + 1):
                least = values[i]
                for j in range(i + 1, count):
                    value = values[j]
                    values[j] = max(value, least)
                    least = min(value, least)
                values[i] = least
            field[(np.int64(pair) * 2 + component) * plane + y * pitch + x] = values[count // 2]


def write_flow(state, parity, flow, num_pairs, width, height, pitch, plane, capacity):
    """Write the flow of each pair as (pairs, H, W, 2)."""
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        at = _flow_at(parity, pair, capacity, plane) + y * pitch + x
        to = ((np.int64(pair) * height + y) * width + x) * 2
        flow[to] = state[at]
        flow[to + 1] = state[at + plane]


def write_packed(state, parity, images, num_pairs, width, height, pitch, plane, capacity, scale):
    """Write the quantised flow of each pair as one grey image (pairs, 2 H, W), x above y.

    As `codec.quantise_flow`: q = round(v * scale) + 128, clipped to 1..255; scale is 127 / bound.
    """
    x, y, pair = _pixel()
    if x < width and y < height and pair < num_pairs[0]:
        at = _flow_at(parity, pair, capacity, plane) + y * pitch + x
        limit = np.float32(127.0)
        for component in range(2):
            level = min(max(state[at + component * plane] * scale, -limit), limit)
            to = ((np.int64(pair) * 2 + component) * height + y) * width + x
            images[to] = int(round(level)) + 128  # noqa: RUF046
