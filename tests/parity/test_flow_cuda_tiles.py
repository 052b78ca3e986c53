"""The CUDA engine's tiles, driven on the processor at real sizes, against iterations on the whole image.

The patch functions and the index scheme are the kernel's own, compiled for the processor; a loop over the
threads stands in for each stretch between two barriers.
"""

import types

import numpy as np
import pytest
from numba import njit

from stin_pipe.pipeline.flow import TVL1Params, steps
from stin_pipe.pipeline.flow.cuda.patch import patch_functions, shared_floats
from stin_pipe.pipeline.flow.cuda.tiles import TilePlan, neighbour_slots, owns, plan_tiles, tile_start

PARAMS = TVL1Params()
THRESHOLD, THETA, DUAL_STEP = (np.float32(v) for v in (PARAMS.threshold, PARAMS.theta, PARAMS.dual_step))
SIZES = [
    (256, 340),
    (205, 272),
    (131, 174),
    (105, 139),
    (240, 320),
    (16, 16),
    (17, 301),
    (101, 18),
    (97, 103),
]

jit = njit(error_model="numpy")
_update_u, _update_p = jit(steps.update_u), jit(steps.update_p)
_owns, _tile_start, _neighbour_slots = jit(owns), jit(tile_start), jit(neighbour_slots)


@jit
def _load4(array, at):
    return array[at], array[at + 1], array[at + 2], array[at + 3]


@jit
def _store4(array, at, a, b, c, d):
    array[at], array[at + 1], array[at + 2], array[at + 3] = a, b, c, d


@jit
def _select(condition, yes, no):
    return yes if condition else no


def build_tile_emulator(threads: int):
    """Compile what a block of `threads` does to one tile; `registers` holds each thread's six patches."""
    patch: types.SimpleNamespace = patch_functions(jit, _load4, _store4, _select, threads)
    load_patch, store_patch, keep_constants = patch.load_patch, patch.store_patch, patch.keep_constants
    publish_p, publish_u, clear_edges = patch.publish_p, patch.publish_u, patch.clear_edges
    u_patch, p_patch, load_edges_u = patch.u_patch, patch.p_patch, patch.load_edges_u
    extend_patch, select_row, last_column = patch.extend_patch, patch.select_row, patch.last_column
    change_patch = patch.change_patch

    @jit
    def registers_at(registers, t):
        at = t * 96
        return (
            load_patch(registers, at, 4),
            load_patch(registers, at + 16, 4),
            load_patch(registers, at + 32, 4),
            load_patch(registers, at + 48, 4),
            load_patch(registers, at + 64, 4),
            load_patch(registers, at + 80, 4),
        )

    @jit
    def emulate_tile(
        source, data, target, shared, registers, column, row, steps,
        width_px, height_px, patches_x, patches_y, tile_x, tile_y, halo, tiles_x, tiles_y,
    ):  # fmt: skip
        pitch = patches_x * 4
        plane = pitch * patches_y * 4
        clear_edges(shared)
        where = np.zeros((threads, 7), np.int64)
        for t in range(threads):
            x, y = t % tile_x, t // tile_x
            left, up, down = _neighbour_slots(t, x, y, tile_x, tile_y, threads)
            patch_x, patch_y = _tile_start(column, tile_x, halo) + x, _tile_start(row, tile_y, halo) + y
            inside = y < tile_y and patch_x < patches_x and patch_y < patches_y
            owned = (
                inside
                and _owns(patch_x, column, tiles_x, tile_x, halo)
                and _owns(patch_y, row, tiles_y, tile_y, halo)
            )
            at = 4 * patch_y * pitch + 4 * patch_x
            last_x, last_y = width_px - 1 - 4 * patch_x, height_px - 1 - 4 * patch_y
            where[t, 0], where[t, 1], where[t, 2], where[t, 3] = left, up, down, at
            where[t, 4], where[t, 5], where[t, 6] = last_x, last_y, owned
            registers[t * 96 : t * 96 + 96] = 0
            if inside:
                keep_constants(
                    shared, t, load_patch(data, at, pitch), load_patch(data, at + plane, pitch),
                    load_patch(data, at + 2 * plane, pitch),
                )  # fmt: skip
                for number in range(6):
                    store_patch(
                        registers, t * 96 + 16 * number, 4, load_patch(source, at + number * plane, pitch)
                    )
            u1, u2, p1x, p1y, p2x, p2y = registers_at(registers, t)
            publish_p(shared, t, p1x, p1y, p2x, p2y)
        change = np.zeros(threads, np.float32)
        for _ in range(steps):
            for t in range(threads):
                left, up, down, at, last_x, last_y, owned = where[t]
                u1, u2, p1x, p1y, p2x, p2y = registers_at(registers, t)
                v1, v2 = u_patch(shared, t, left, up, u1, u2, p1x, p1y, p2x, p2y, THRESHOLD, THETA)
                v1, v2 = extend_patch(v1, last_x, last_y), extend_patch(v2, last_x, last_y)
                if owned:
                    change[t] = change_patch(v1, u1, last_x, last_y) + change_patch(v2, u2, last_x, last_y)
                publish_u(shared, t, v1, v2)
                store_patch(registers, t * 96, 4, v1)
                store_patch(registers, t * 96 + 16, 4, v2)
            for t in range(threads):
                left, up, down, at, last_x, last_y, owned = where[t]
                u1, u2, p1x, p1y, p2x, p2y = registers_at(registers, t)
                right1, right2, below1, below2 = load_edges_u(shared, t, down)
                right1 = select_row(last_x <= 3, last_column(u1), right1)
                right2 = select_row(last_x <= 3, last_column(u2), right2)
                below1 = select_row(last_y <= 3, u1[3], below1)
                below2 = select_row(last_y <= 3, u2[3], below2)
                p1x, p1y = p_patch(p1x, p1y, u1, right1, below1, DUAL_STEP)
                p2x, p2y = p_patch(p2x, p2y, u2, right2, below2, DUAL_STEP)
                publish_p(shared, t, p1x, p1y, p2x, p2y)
                store_patch(registers, t * 96 + 32, 4, p1x)
                store_patch(registers, t * 96 + 48, 4, p1y)
                store_patch(registers, t * 96 + 64, 4, p2x)
                store_patch(registers, t * 96 + 80, 4, p2y)
        for t in range(threads):
            if where[t, 6]:
                for number in range(6):
                    store_patch(
                        target,
                        where[t, 3] + number * plane,
                        pitch,
                        load_patch(registers, t * 96 + 16 * number, 4),
                    )
        return change.sum()

    return emulate_tile


@jit
def iterate_whole(fields, data, num_steps):
    """Iterate the whole image plainly; give the last step's sum of |du|^2."""
    u1, u2, p1x, p1y, p2x, p2y = fields
    gx, gy, rho_c = data
    height, width = u1.shape
    zero, one = np.float32(0), np.float32(1)
    floor = np.float32(np.finfo(np.float32).eps)
    change = 0.0
    for _ in range(num_steps):
        change = 0.0
        for y in range(height):
            for x in range(width):
                grad2 = gx[y, x] * gx[y, x] + gy[y, x] * gy[y, x]
                inverse = one / grad2 if grad2 > floor else zero
                a, b = _update_u(
                    u1[y, x], u2[y, x],
                    p1x[y, x], p1x[y, x - 1] if x > 0 else zero, p1y[y, x], p1y[y - 1, x] if y > 0 else zero,
                    p2x[y, x], p2x[y, x - 1] if x > 0 else zero, p2y[y, x], p2y[y - 1, x] if y > 0 else zero,
                    gx[y, x], gy[y, x], rho_c[y, x], inverse, THRESHOLD, THETA,
                )  # fmt: skip
                change += (a - u1[y, x]) ** 2 + (b - u2[y, x]) ** 2
                u1[y, x], u2[y, x] = a, b
        for y in range(height):
            for x in range(width):
                right, below = min(x + 1, width - 1), min(y + 1, height - 1)
                p1x[y, x], p1y[y, x] = _update_p(
                    p1x[y, x], p1y[y, x], u1[y, right] - u1[y, x], u1[below, x] - u1[y, x], DUAL_STEP
                )
                p2x[y, x], p2y[y, x] = _update_p(
                    p2x[y, x], p2y[y, x], u2[y, right] - u2[y, x], u2[below, x] - u2[y, x], DUAL_STEP
                )
    return change


def run_tiles(
    emulate_tile, plan: TilePlan, threads: int, fields: np.ndarray, data: np.ndarray, num_steps: int
):
    """Iterate every tile of padded planes full of NaN; give the new fields and the sum of |du|^2."""
    rows, pitch = plan.patches_y * 4, plan.pitch_px
    source, constants = (np.full((count, rows, pitch), np.nan, np.float32) for count in (6, 3))
    source[:, : plan.height_px, : plan.width_px] = fields
    constants[:, : plan.height_px, : plan.width_px] = data
    target = np.full_like(source, np.nan)
    shared = np.full(shared_floats(threads), np.nan, np.float32)
    registers = np.full(threads * 96, np.nan, np.float32)
    lengths = (
        plan.width_px, plan.height_px, plan.patches_x, plan.patches_y, plan.tile_x, plan.tile_y, plan.halo,
        plan.tiles_x, plan.tiles_y,
    )  # fmt: skip
    change = np.float32(0)
    for row in range(plan.tiles_y):
        for column in range(plan.tiles_x):
            change += emulate_tile(
                source.ravel(),
                constants.ravel(),
                target.ravel(),
                shared,
                registers,
                column,
                row,
                num_steps,
                *lengths,
            )
    return target[:, : plan.height_px, : plan.width_px].copy(), change


def make_problem(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Random fields and data term of the magnitudes that occur."""
    rng = np.random.default_rng(height * 1000 + width)
    fields = rng.uniform(-1, 1, (6, height, width)) * np.array([3, 3, 0.7, 0.7, 0.7, 0.7])[:, None, None]
    data = rng.normal(0, 1, (3, height, width)) * np.array([9, 9, 20])[:, None, None]
    data[:, rng.uniform(size=(height, width)) < 0.1] = 0  # flat places, where the data term is silent
    return fields.astype(np.float32), data.astype(np.float32)


@pytest.fixture(scope="module")
def emulate_tile():
    return build_tile_emulator(256)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiles_equal_the_whole_image_bit_for_bit(emulate_tile, height, width):
    fields, data = make_problem(height, width)
    plan = plan_tiles(height, width, threads=256, steps=8)
    expected = fields.copy()
    for num_steps in (8, 8, 5):  # the last round of a solve may be shorter
        change_expected = iterate_whole(tuple(expected), tuple(data), num_steps)
        fields, change = run_tiles(emulate_tile, plan, 256, fields, data, num_steps)
        np.testing.assert_array_equal(fields, expected)
        assert change == pytest.approx(change_expected, rel=1e-4)


def test_too_small_a_halo_is_noticed(emulate_tile):
    """The comparison above can fail: with more steps than the halo allows, tiles differ."""
    fields, data = make_problem(100, 300)
    plan = plan_tiles(100, 300, threads=256, steps=8)
    assert plan.num_tiles > 1
    expected = fields.copy()
    iterate_whole(tuple(expected), tuple(data), 10)
    fields, _ = run_tiles(emulate_tile, plan, 256, fields, data, 10)
    assert not np.array_equal(fields, expected)
