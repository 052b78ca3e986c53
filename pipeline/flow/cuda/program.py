"""The list of kernel launches that solves a batch, and the buffers that it needs.

It is made on the host from the frames' size and the parameters alone. Which kernels run never depends on a
result, so the list can be recorded once and replayed (a CUDA graph), and the tests can run the same list
without a GPU.

Legend: C pairs of capacity, F frames; lengths as in `tiles`.
"""

import dataclasses
import itertools

import numpy as np

from stin_pipe.pipeline.flow.cuda.patch import shared_floats
from stin_pipe.pipeline.flow.cuda.tiles import TilePlan, plan_tiles
from stin_pipe.pipeline.flow.params import TVL1Params, pyramid_sizes

PIXEL_BLOCK = (32, 8, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """An argument that points into a buffer, `start` elements from its beginning."""

    buffer: str
    start: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel; an argument is a `Slice` or a numpy scalar of the kernel's own type."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[Slice | np.generic, ...]
    shared_bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What a program is made for.

    Attributes:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        capacity: Most pairs of a batch; it may hold fewer.
        chained: Whether pair i is frame i and frame i + 1 of C + 1; otherwise the first frames fill the
            first C places, the second frames the next C.
        threads: Threads of a block of `iterate`.
        blocks: Blocks of `iterate` that the device holds at a time; they share out the tiles.
    """

    height: int
    width: int
    capacity: int
    chained: bool
    threads: int
    blocks: int

    @property
    def num_frames(self) -> int:
        """Frames that a batch holds."""
        return self.capacity + 1 if self.chained else 2 * self.capacity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The launches of a batch, what they need, and the plan of each level.

    Attributes:
        launches: In their order.
        buffers: Name -> (dtype, elements).
        plans: Tiling of each level, finest first.
    """

    launches: tuple[Launch, ...]
    buffers: dict[str, tuple[type[np.generic], int]]
    plans: tuple[TilePlan, ...]


def build_program(shape: BatchShape, params: TVL1Params) -> Program:
    """Make the launches that turn the frames in `level0` into each pair's flow.

    `field` must hold zeros, the flow that the coarsest level starts from. The flow ends in `state`, in the
    buffer of `parity`; `iterations` (levels x warps, C) counts those of each solve.
    """
    plans = tuple(
        plan_tiles(height, width, threads=shape.threads, steps=params.check_interval)
        for height, width in pyramid_sizes(shape.height, shape.width, params)
    )
    launches = [
        _pixels(
            "shrink", fine=coarse, depth=shape.num_frames,
            arguments=(
                Slice(buffer=f"level{level}"), Slice(buffer=f"level{level + 1}"),
                *_geometry(finer), *_geometry(coarse), np.float64(1 / params.scale_step),
            ),
        )
        for level, (finer, coarse) in enumerate(itertools.pairwise(plans))
    ]  # fmt: skip
    for level in reversed(range(len(plans))):
        launches += _level(shape, params, plans, level)
    return Program(launches=tuple(launches), buffers=buffers(shape, params), plans=plans)


def buffers(shape: BatchShape, params: TVL1Params) -> dict[str, tuple[type[np.generic], int]]:
    """Return each buffer's element type and its number of elements."""
    sizes = pyramid_sizes(shape.height, shape.width, params)
    plans = [plan_tiles(*size, threads=shape.threads, steps=params.check_interval) for size in sizes]
    capacity, plane = shape.capacity, plans[0].plane_size
    levels = {
        f"level{level}": (np.float32, shape.num_frames * plan.plane_size) for level, plan in enumerate(plans)
    }
    return {
        **levels,
        "gradients": (np.float32, capacity * 2 * plane),
        "data": (np.float32, capacity * 3 * plane),
        "field": (np.float32, capacity * 2 * plane),
        "state": (np.float32, capacity * 12 * plane),
        "partials": (np.float32, capacity * max(plan.num_tiles for plan in plans)),
        "parity": (np.int32, capacity),
        "active": (np.int32, capacity),
        "num_active": (np.int32, 1),
        "num_pairs": (np.int32, 1),
        "finished": (np.int32, 1),
        "iterations": (np.int32, len(sizes) * params.num_warps * capacity),
    }


def output_launch(shape: BatchShape, plan: TilePlan, *, scale: float | None) -> Launch:
    """Write the finest level's flow to `output`: float32 pixels, or bytes when `scale` is 127 / bound_px."""
    tail = () if scale is None else (np.float32(scale),)
    return _pixels(
        "write_flow" if scale is None else "write_packed", fine=plan, depth=shape.capacity,
        arguments=(*_state_and("output"), *_geometry(plan), np.int32(shape.capacity), *tail),
    )  # fmt: skip


def _level(shape: BatchShape, params: TVL1Params, plans: tuple[TilePlan, ...], level: int) -> list[Launch]:
    """The launches of one pyramid level: the flow of the level below, then warps and their solves."""
    plan, capacity = plans[level], np.int32(shape.capacity)
    first, second = np.int32(0), np.int32(1 if shape.chained else shape.capacity)
    launches = []
    if level < len(plans) - 1:
        coarse = plans[level + 1]
        ratios = (coarse.width_px / plan.width_px, coarse.height_px / plan.height_px)
        launches.append(_pixels(
            "grow", fine=plan, depth=shape.capacity,
            arguments=(
                *_state_and("field"), *_geometry(coarse), *_geometry(plan), capacity,
                *(np.float64(ratio) for ratio in ratios), np.float32(1 / params.scale_step),
            ),
        ))  # fmt: skip

    put = _pixels(
        "put", fine=plan, depth=shape.capacity,
        arguments=(*_state_and("field"), *_geometry(plan), capacity),
    )  # fmt: skip
    gradients = _pixels(
        "gradient", fine=plan, depth=shape.capacity,
        arguments=(
            Slice(buffer=f"level{level}"), Slice(buffer="gradients"), Slice(buffer="num_pairs"),
            *_geometry(plan), second,
        ),
    )  # fmt: skip
    warp = _pixels(
        "warp", fine=plan, depth=shape.capacity,
        arguments=(
            Slice(buffer=f"level{level}"), Slice(buffer="gradients"), Slice(buffer="state"),
            Slice(buffer="parity"), Slice(buffer="data"), Slice(buffer="num_pairs"),
            *_geometry(plan), capacity, first, second,
        ),
    )  # fmt: skip
    median = _pixels(
        "median", fine=plan, depth=shape.capacity,
        arguments=(*_state_and("field"), *_geometry(plan), capacity, np.int32(params.median_filter)),
    )  # fmt: skip

    for number in range(params.num_warps):
        start = (level * params.num_warps + number) * shape.capacity
        # The state of a new level starts in buffer 0; later solves go on where the last one ended.
        launches.append(_begin(shape, start, reset=number == 0))
        # Gradients are made level by level, into one buffer that all levels share.
        launches += [put, gradients] if number == 0 else []
        launches.append(warp)
        launches += _solve(shape, params, plan, start, fresh=number == 0)
        launches += [median, put] if params.median_filter else []
    return launches


def _solve(shape: BatchShape, params: TVL1Params, plan: TilePlan, start: int, *, fresh: bool) -> list[Launch]:
    """The rounds of one solve, of `check_interval` iterations each, as many as the longest may take."""
    launches = []
    for before in range(0, params.max_iterations, params.check_interval):
        done = min(params.check_interval, params.max_iterations - before)
        num_launches = -(-done // plan.steps)
        for number in range(num_launches):
            ends_round = number == num_launches - 1
            launches.append(_iterate(
                shape, params, plan, start,
                odd=number % 2,
                steps=min(plan.steps, done - number * plan.steps),
                fresh=fresh and before == 0 and number == 0,
                check=done == params.check_interval and ends_round,
                ends_round=ends_round,
                turn=num_launches % 2,
                done=done,
            ))  # fmt: skip
    return launches


def _iterate(
    shape: BatchShape, params: TVL1Params, plan: TilePlan, start: int, *, odd: int, steps: int, fresh: bool,
    check: bool, ends_round: bool, turn: int, done: int,
) -> Launch:  # fmt: skip
    names = ("state", "data", "partials", "parity", "active", "num_active")
    numbers = (
        plan.width_px, plan.height_px, plan.patches_x, plan.patches_y, plan.tile_x, plan.tile_y, plan.halo,
        plan.tiles_x, plan.tiles_y, shape.capacity, odd, steps, fresh, check, ends_round, turn, done,
    )  # fmt: skip
    limit = params.epsilon**2 * plan.height_px * plan.width_px
    return Launch(
        kernel="iterate",
        grid=(min(shape.blocks, shape.capacity * plan.num_tiles), 1, 1),
        block=(shape.threads, 1, 1),
        shared_bytes=4 * shared_floats(shape.threads),
        arguments=(
            *(Slice(buffer=name) for name in names),
            Slice(buffer="iterations", start=start),
            Slice(buffer="finished"),
            *(np.int32(number) for number in numbers),
            *(np.float32(value) for value in (params.threshold, params.theta, params.dual_step, limit)),
        ),
    )


def _begin(shape: BatchShape, start: int, *, reset: bool) -> Launch:
    names = ("active", "num_active", "num_pairs")
    return Launch(
        kernel="begin_solve", grid=(1, 1, 1), block=(_pair_threads(shape.capacity), 1, 1),
        arguments=(
            *(Slice(buffer=name) for name in names), Slice(buffer="iterations", start=start),
            Slice(buffer="parity"), np.int32(shape.capacity), np.int32(reset),
        ),
    )  # fmt: skip


def _pixels(kernel: str, *, fine: TilePlan, depth: int, arguments: tuple) -> Launch:
    """A launch with a thread for each pixel of a level, `depth` frames or pairs deep."""
    grid = (-(-fine.width_px // PIXEL_BLOCK[0]), -(-fine.height_px // PIXEL_BLOCK[1]), depth)
    return Launch(kernel=kernel, grid=grid, block=PIXEL_BLOCK, arguments=arguments)


def _state_and(target: str) -> tuple[Slice, ...]:
    return tuple(Slice(buffer=name) for name in ("state", "parity", target, "num_pairs"))


def _geometry(plan: TilePlan) -> tuple[np.int32, ...]:
    """Width, height, pitch and plane of a level, as the pixel kernels take them."""
    return tuple(np.int32(n) for n in (plan.width_px, plan.height_px, plan.pitch_px, plan.plane_size))


def _pair_threads(capacity: int) -> int:
    """Threads of a block with one for each pair: whole warps."""
    return -(-capacity // 32) * 32
