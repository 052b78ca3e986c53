"""The kernels of a solve: iterate tiles on chip, and decide which pairs go on.

A solve is rounds of `check_interval` iterations. A round launches `iterate` once or more; it takes the
pairs still active, tile by tile, from the buffer of the pair's parity into the other one. The last block to
finish a round turns the parities, tests the stop rule of each pair and writes the list of those that go on.
The host never waits: it launches as many rounds as the longest solve may take, and a pair that has ended is
skipped by the launches after it, its result in the buffer of its own parity.

Sums of |du|^2 are added in a fixed order: a thread's pixels, a tile's threads, a pair's tiles.

Legend: state (2 buffers, pairs, 6 planes u1 u2 p1x p1y p2x p2y, rows, pitch); data (pairs, 3 planes gx gy
rho_c, rows, pitch); all pointers are flat. Lengths in patches as in `tiles`.
"""

# numba types these functions, which a Python type checker cannot see.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportCallIssue=false

import types as python_types

import numpy as np
from numba import cuda, types

from stin_pipe.pipeline.flow.cuda.device import (
    FLOATS,
    INTS,
    device,
    load4,
    pointer_to,
    select,
    store4,
    take_ticket,
)
from stin_pipe.pipeline.flow.cuda.patch import patch_functions
from stin_pipe.pipeline.flow.cuda.tiles import neighbour_slots, owns, tile_start

REDUCERS = 32

ITERATE_SIGNATURE = types.void(
    FLOATS, FLOATS, FLOATS, *[INTS] * 5, *[types.int32] * 17, *[types.float32] * 4
)  # fmt: skip
BEGIN_SIGNATURE = types.void(INTS, INTS, INTS, INTS, INTS, types.int32, types.int32)

_owns, _tile_start, _neighbour_slots = device(owns), device(tile_start), device(neighbour_slots)


@device
def _decide(
    shared, t, threads, partials, parity, active, num_active, iterations, tiles, turn, done, check, limit
):  # fmt: skip
    """Turn the parities after a round, and keep the pairs whose sum of |du|^2 is above `limit` active.

    Done by all threads of one block; the order of the pairs stays. `turn` is 1 after an odd number of
    launches; `done` iterations were made in the round; with `check` 0 nothing is tested.
    """
    count, kept = num_active[0], 0
    for first in range(0, count, threads):
        index = first + t
        pair, goes_on = 0, 0
        if index < count:
            pair = active[index]
            parity[pair] = parity[pair] ^ turn
            iterations[pair] += done
            goes_on = 1
            if check == 1:
                change = np.float32(0.0)
                for tile in range(tiles):
                    change += partials[np.int64(pair) * tiles + tile]
                if change <= limit:
                    goes_on = 0

        # Inclusive sum over the threads: the new index of each pair that goes on.
        shared[t] = np.float32(goes_on)
        cuda.syncthreads()
        distance = 1
        while distance < threads:
            before = np.float32(0.0)
            if t >= distance:
                before = shared[t - distance]
            cuda.syncthreads()
            shared[t] += before
            cuda.syncthreads()
            distance *= 2

        if goes_on == 1:
            active[kept + int(shared[t]) - 1] = pair
        kept += int(shared[threads - 1])
        cuda.syncthreads()

    if t == 0:
        num_active[0] = kept


def build_iterate(threads: int) -> python_types.FunctionType:
    """Build the kernel `iterate` for blocks of `threads` threads (a multiple of 32 on a GPU)."""
    patch = patch_functions(device, load4, store4, select, threads)
    (load_patch, store_patch, zero_patch, keep_constants, publish_p, publish_u, clear_edges) = (
        patch.load_patch, patch.store_patch, patch.zero_patch, patch.keep_constants,
        patch.publish_p, patch.publish_u, patch.clear_edges,
    )  # fmt: skip
    u_patch, p_patch, load_edges_u = patch.u_patch, patch.p_patch, patch.load_edges_u
    extend_patch, select_row, last_column = patch.extend_patch, patch.select_row, patch.last_column
    change_patch = patch.change_patch
    zero = np.float32(0.0)
    reducers = min(REDUCERS, threads)

    def iterate(
        state, data, partials, parity, active, num_active, iterations_done, finished,
        width_px, height_px, patches_x, patches_y, tile_x, tile_y, halo, tiles_x, tiles_y,
        capacity, odd, iterations, fresh, check, ends_round, turn, done, threshold, theta, dual_step, limit,
    ):  # fmt: skip
        """Do `iterations` iterations on each tile of each active pair.

        `capacity` pairs fit into the buffers; `odd` is 1 when the state lies in the other buffer than parity
        says; `fresh` is 1 when the duals are zero and not read; `check` is 1 when the sums of |du|^2 are
        needed; with `ends_round` 1 the rest is for `_decide`. `finished` is 0 between launches.
        """
        shared = pointer_to(cuda.shared.array(0, types.float32))
        t = cuda.threadIdx.x
        x, y = t % tile_x, t // tile_x
        left, up, down = _neighbour_slots(t, x, y, tile_x, tile_y, threads)
        # numba counts in 64 bits unless told otherwise, which takes two registers for what lives in the loop.
        left, up, down = np.int32(left), np.int32(up), np.int32(down)
        pitch = patches_x * 4
        plane = pitch * patches_y * 4
        tiles = tiles_x * tiles_y
        if t == 0:
            clear_edges(shared)

        # A block takes one tile after another: the grid is no larger than what the GPU holds at a time.
        num_items = num_active[0] * tiles
        for item in range(cuda.blockIdx.x, num_items, cuda.gridDim.x):
            pair = active[item // tiles]
            tile = item % tiles
            column, row = tile % tiles_x, tile // tiles_x
            patch_x = _tile_start(column, tile_x, halo) + x
            patch_y = _tile_start(row, tile_y, halo) + y
            inside = y < tile_y and patch_x < patches_x and patch_y < patches_y
            last_x = np.int32(width_px - 1 - 4 * patch_x)
            last_y = np.int32(height_px - 1 - 4 * patch_y)
            border = last_x <= 3 or last_y <= 3

            at = 4 * patch_y * pitch + 4 * patch_x
            buffer = parity[pair] ^ odd
            source = (np.int64(buffer) * capacity + pair) * 6 * plane + at
            target = (np.int64(1 - buffer) * capacity + pair) * 6 * plane + at

            gx = gy = rho_c = zero_patch()
            if inside:
                origin = np.int64(pair) * 3 * plane + at
                gx = load_patch(data, origin, pitch)
                gy = load_patch(data, origin + plane, pitch)
                rho_c = load_patch(data, origin + 2 * plane, pitch)
            keep_constants(shared, t, gx, gy, rho_c)

            u1 = u2 = p1x = p1y = p2x = p2y = zero_patch()
            if inside:
                u1 = load_patch(state, source, pitch)
                u2 = load_patch(state, source + plane, pitch)
                if fresh == 0:
                    p1x = load_patch(state, source + 2 * plane, pitch)
                    p1y = load_patch(state, source + 3 * plane, pitch)
                    p2x = load_patch(state, source + 4 * plane, pitch)
                    p2y = load_patch(state, source + 5 * plane, pitch)

            owned = (
                inside
                and _owns(patch_x, column, tiles_x, tile_x, halo)
                and _owns(patch_y, row, tiles_y, tile_y, halo)
            )
            kept_step = np.int32(iterations - 1 if check == 1 and owned else -1)
            publish_p(shared, t, p1x, p1y, p2x, p2y)
            cuda.syncthreads()

            for step in range(iterations):
                if step == kept_step:
                    # Registers are scarce: the flow before the last step waits where its result will go.
                    store_patch(state, target, pitch, u1)
                    store_patch(state, target + plane, pitch, u2)
                u1, u2 = u_patch(shared, t, left, up, u1, u2, p1x, p1y, p2x, p2y, threshold, theta)
                if border:
                    u1 = extend_patch(u1, last_x, last_y)
                    u2 = extend_patch(u2, last_x, last_y)
                publish_u(shared, t, u1, u2)
                cuda.syncthreads()
                right1, right2, below1, below2 = load_edges_u(shared, t, down)
                if border:
                    right1 = select_row(last_x <= 3, last_column(u1), right1)
                    right2 = select_row(last_x <= 3, last_column(u2), right2)
                    below1 = select_row(last_y <= 3, u1[3], below1)
                    below2 = select_row(last_y <= 3, u2[3], below2)
                p1x, p1y = p_patch(p1x, p1y, u1, right1, below1, dual_step)
                p2x, p2y = p_patch(p2x, p2y, u2, right2, below2, dual_step)
                publish_p(shared, t, p1x, p1y, p2x, p2y)
                cuda.syncthreads()

            if check == 1:
                change = zero
                if owned:
                    change += change_patch(u1, load_patch(state, target, pitch), last_x, last_y)
                    change += change_patch(u2, load_patch(state, target + plane, pitch), last_x, last_y)
                # The constants have been read for the last time: their memory serves for the sum.
                shared[t] = change
                cuda.syncthreads()
                if t < reducers:
                    change = zero
                    for other in range(t, threads, reducers):
                        change += shared[other]
                cuda.syncthreads()
                if t < reducers:
                    shared[t] = change
                cuda.syncthreads()
                if t == 0:
                    change = zero
                    for other in range(reducers):
                        change += shared[other]
                    partials[np.int64(pair) * tiles + tile] = change
                cuda.syncthreads()

            if owned:
                store_patch(state, target, pitch, u1)
                store_patch(state, target + plane, pitch, u2)
                store_patch(state, target + 2 * plane, pitch, p1x)
                store_patch(state, target + 3 * plane, pitch, p1y)
                store_patch(state, target + 4 * plane, pitch, p2x)
                store_patch(state, target + 5 * plane, pitch, p2y)

        # The block that takes the last ticket sees the sums of all others, and decides for the whole round.
        if ends_round == 1 and num_items > 0:
            if t == 0:
                # This block's sums must be visible before its ticket.
                cuda.threadfence()
                shared[0] = np.float32(take_ticket(finished))
            cuda.syncthreads()
            is_last = shared[0] == np.float32(cuda.gridDim.x - 1)
            cuda.syncthreads()
            if is_last:
                cuda.threadfence()
                _decide(
                    shared, t, threads, partials, parity, active, num_active, iterations_done,
                    tiles, turn, done, check, limit,
                )  # fmt: skip
                if t == 0:
                    finished[0] = 0

    return iterate


def begin_solve(active, num_active, num_pairs, iterations, parity, capacity, reset):
    """Make every pair active with no iterations done; `reset` is 1 when its state lies in buffer 0.

    One block; thread i takes pair i. `iterations` points at the counts of this solve.
    """
    pair = cuda.threadIdx.x
    if pair < capacity:
        active[pair] = pair
        iterations[pair] = 0
        if reset == 1:
            parity[pair] = 0
    if pair == 0:
        num_active[0] = num_pairs[0]
