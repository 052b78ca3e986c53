"""Run the CUDA engine's own launches and kernels under numba's simulator; a script of the test beside it.

Usage: NUMBA_ENABLE_CUDASIM=1 python flow_cuda_simulator.py IN.npz OUT.npz
"""

import sys
import warnings

import numpy as np
from numba import cuda

from pipeline.flow import cuda_tiles
from pipeline.flow.cuda_compile import kernels
from pipeline.flow.cuda_program import BatchShape, Slice, build_program, output_launch
from pipeline.flow.params import TVL1Params

THREADS = 16
cuda_tiles.MOST_STEPS = 2  # so that a round of 3 iterations takes two launches, as one of 16 does on a GPU


def run(frames, source, capacity, num_pairs, params, initial, scale):
    """Run a batch on buffers full of NaN; give its flow, its packed images and its iterations."""
    height, width = frames.shape[1:]
    shape = BatchShape(
        height=height, width=width, capacity=capacity, source=source, threads=THREADS, blocks=3
    )
    program = build_program(shape, params)
    buffers = {
        name: np.full(count, np.nan if kind is np.float32 else -7, kind)
        for name, (kind, count) in program.buffers.items()
    }
    plan, coarsest = program.plans[0], program.plans[-1]
    assert plan.num_tiles > 1, "the image must be larger than a tile"
    level0 = buffers["level0"].reshape(shape.num_frames, -1, plan.pitch_px)
    if source == "pairs":
        level0[:num_pairs, :height, :width] = frames[:num_pairs]
        level0[capacity : capacity + num_pairs, :height, :width] = frames[num_pairs:]
    else:
        level0[: num_pairs + 1, :height, :width] = frames
    field = buffers["field"][: capacity * 2 * coarsest.plane_size]
    field = field.reshape(capacity, 2, -1, coarsest.pitch_px)
    field[:, :, : coarsest.height_px, : coarsest.width_px] = initial
    buffers["num_pairs"][0] = num_pairs
    compiled = {name: cuda.jit(function) for name, (function, _) in kernels(THREADS).items()}

    def launch(item):
        arguments = [
            buffers[value.buffer][value.start :] if isinstance(value, Slice) else value
            for value in item.arguments
        ]
        compiled[item.kernel][item.grid, item.block, 0, item.shared_bytes](*arguments)

    for item in program.launches:
        launch(item)
    results = []
    for scale_or_none, output in (
        (None, np.full((capacity, height, width, 2), np.nan, np.float32)),
        (scale, np.zeros((capacity, 2 * height, width), np.uint8)),
    ):
        buffers["output"] = output.reshape(-1)
        launch(output_launch(shape, plan, scale=scale_or_none))
        results.append(output[:num_pairs])
    iterations = buffers["iterations"].reshape(len(program.plans), params.num_warps, capacity)
    return (*results, iterations[..., :num_pairs].transpose(2, 0, 1))


def main(source_path: str, target_path: str) -> None:
    """Run the two cases of the test."""
    warnings.simplefilter("ignore")  # numba's simulator and numpy warn of arithmetic on NaN
    given = np.load(source_path)
    pairs = TVL1Params(check_interval=2, max_iterations=5, num_scales=2, num_warps=2, epsilon=0.03)
    clip = TVL1Params(check_interval=3, max_iterations=3, num_scales=1, num_warps=1, median_filter=3)
    names = ("flow", "packed", "iterations")
    results = {
        "pairs": run(given["pairs"], "pairs", 3, 2, pairs, 0, 127 / 3),
        "clip": run(given["clip"], "clip", 2, 2, clip, given["initial"], 127 / 3),
    }
    np.savez(
        target_path,
        **{
            f"{case}_{name}": value
            for case, values in results.items()
            for name, value in zip(names, values, strict=True)
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
