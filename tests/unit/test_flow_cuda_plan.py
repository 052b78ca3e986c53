"""The CUDA engine's tilings and lists of launches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stin_pipe.pipeline.flow import TVL1Params, pyramid_sizes
from stin_pipe.pipeline.flow.cuda.program import BatchShape, Slice, buffers, build_program, output_launch
from stin_pipe.pipeline.flow.cuda.tiles import PATCH_PX, neighbour_slots, owns, plan_tiles, tile_start

SIDES = st.integers(16, 700)


def owners_along(num_patches: int, count: int, tile: int, halo: int) -> list[list[tuple[int, int]]]:
    """For each patch of a side, the tiles that own it and its place inside them."""
    return [
        [
            (index, patch - tile_start(index, tile, halo))
            for index in range(count)
            if owns(patch, index, count, tile, halo) and 0 <= patch - tile_start(index, tile, halo) < tile
        ]
        for patch in range(num_patches)
    ]


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, threads=st.sampled_from([128, 256, 512]), steps=st.sampled_from([1, 4, 8]))
def test_each_patch_is_owned_once_and_never_near_an_inner_side(height, width, threads, steps):
    plan = plan_tiles(height, width, threads=threads, steps=steps)
    assert plan.tile_x * plan.tile_y <= threads
    assert plan.patches_x * PATCH_PX >= width > (plan.patches_x - 1) * PATCH_PX
    assert plan.halo * PATCH_PX >= plan.steps or plan.num_tiles == 1
    for patches, count, tile in (
        (plan.patches_x, plan.tiles_x, plan.tile_x),
        (plan.patches_y, plan.tiles_y, plan.tile_y),
    ):
        for owners in owners_along(patches, count, tile, plan.halo):
            ((index, place),) = owners
            assert place >= plan.halo or index == 0
            assert place < tile - plan.halo or index == count - 1


def test_frames_of_ucf101_waste_less_than_half_of_a_tile():
    sizes = pyramid_sizes(256, 340, TVL1Params())
    plans = [plan_tiles(*size, threads=256, steps=8) for size in sizes]
    assert min(plan.useful_share for plan in plans) > 0.55


def test_a_frame_that_fits_into_a_tile_has_no_halo_and_takes_all_steps_of_a_round():
    plan = plan_tiles(64, 64, threads=256, steps=24)
    assert (plan.num_tiles, plan.halo, plan.steps, plan.useful_share) == (1, 0, 24, 1.0)


def test_plan_refuses_blocks_too_small_for_their_halo():
    with pytest.raises(
        ValueError, match="threads must allow a tile wider than its halo of 2 patches, got 16"
    ):
        plan_tiles(100, 100, threads=16, steps=8)


def test_neighbours_of_the_first_column_and_row_are_zeros():
    assert neighbour_slots(0, 0, 0, 5, 4, 256) == (256, 256, 5)
    assert neighbour_slots(7, 2, 1, 5, 4, 256) == (6, 2, 12)
    assert neighbour_slots(19, 4, 3, 5, 4, 256) == (18, 14, 19)  # the last row reads itself


def make_shape(**changes) -> BatchShape:
    values = {"height": 131, "width": 175, "capacity": 8, "chained": False, "threads": 256, "blocks": 264}
    return BatchShape(**(values | changes))


@pytest.mark.parametrize(
    "params",
    [
        TVL1Params(),
        TVL1Params(check_interval=20, max_iterations=90),
        TVL1Params(check_interval=3, max_iterations=1),
    ],
)
def test_rounds_do_the_iterations_of_the_stop_rule(params):
    program = build_program(make_shape(), params)
    num_solves = len(program.plans) * params.num_warps
    begins = [i for i, launch in enumerate(program.launches) if launch.kernel == "begin_solve"]
    assert len(begins) == num_solves
    for first, last in zip(begins, [*begins[1:], len(program.launches)], strict=True):
        parity, done, total = 0, 0, 0
        for launch in program.launches[first:last]:
            if launch.kernel != "iterate":
                continue
            odd, steps, fresh, check, ends_round, turn, told = (int(n) for n in launch.arguments[18:25])
            assert odd == parity  # each launch starts where the last one wrote
            assert not fresh or total == 0
            parity, done, total = parity ^ 1, done + steps, total + steps
            assert check == (done == params.check_interval)
            assert ends_round == (done == params.check_interval or total == params.max_iterations)
            if ends_round:
                assert (turn, told) == (parity, done)
                parity = done = 0
        assert total == params.max_iterations


def test_launches_stay_inside_their_buffers():
    params = TVL1Params(median_filter=3)
    program = build_program(make_shape(chained=True), params)
    for launch in (*program.launches, output_launch(make_shape(), program.plans[0], scale=6.35)):
        for argument in launch.arguments:
            if isinstance(argument, Slice) and argument.buffer != "output":
                assert 0 <= argument.start < program.buffers[argument.buffer][1]
        assert max(launch.block) <= 1024
        assert launch.grid[1] < 65536
        assert launch.grid[2] < 65536


def test_memory_of_a_pair_at_340x256_is_below_9_mb():
    def count_bytes(capacity):
        shape = make_shape(height=256, width=340, capacity=capacity)
        return sum(np.dtype(kind).itemsize * count for kind, count in buffers(shape, TVL1Params()).values())

    assert (count_bytes(256) - count_bytes(128)) / 128 < 9e6


def test_tilings_do_not_depend_on_the_batch():
    assert build_program(make_shape(), TVL1Params()).plans == (
        build_program(make_shape(capacity=256, blocks=7, chained=True), TVL1Params()).plans
    )
