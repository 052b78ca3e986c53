"""Where the CUDA engine's time goes, on a GPU: tile and step choices side by side, kernels, idle launches.

    python benchmarks/flow.py --data ../shared/data --prepare pairs.npz     # where the clips are
    python benchmarks/flow_cuda_profile.py --pairs pairs.npz --json flow_cuda_profile.json

Frames and flow stay on the device; times are of device events, the median of some repeats after two warm-up
runs (the second records the graph). What `cuda.tiles` and `cuda.session` assume is to be decided here:
threads of a block, iterations on chip. 512 threads need a card with 192 KiB of shared memory for a block.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import flow_pairs
import numpy as np
import torch

from stin_pipe.pipeline.flow import TVL1Params, pyramid_sizes
from stin_pipe.pipeline.flow.cuda import session as cuda_session
from stin_pipe.pipeline.flow.cuda import tiles as cuda_tiles
from stin_pipe.pipeline.flow.cuda.program import BatchShape
from stin_pipe.pipeline.flow.cuda.session import Session, blocks_of

REPEATS = 5
CHOICES = [(256, 8), (256, 4), (512, 8), (512, 4), (128, 8), (128, 4)]
FIXED_300 = TVL1Params(epsilon=0.0)


def load_frames(path: Path, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give `batch` real pairs at 340x256 on the device, repeated in turn."""
    clips = next(pairs for pairs in flow_pairs.load(path) if pairs.name == "clips")
    index = np.arange(batch) % len(clips.labels)
    first, second = (torch.from_numpy(frames[index]).cuda() for frames in (clips.frames0, clips.frames1))
    return first, second


def median_seconds(action: Callable[[], object]) -> float:
    """Median time of an action on the device."""
    for _ in range(2):
        action()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def make_action(frames: tuple[torch.Tensor, torch.Tensor], params: TVL1Params, threads: int, steps: int):
    """Make the function that solves all frames as one batch with these choices, and gives the iterations."""
    cuda_tiles.MOST_STEPS = steps
    batch, height, width = frames[0].shape
    device = frames[0].device
    _, blocks = blocks_of(device, threads)
    shape = BatchShape(
        height=height, width=width, capacity=batch, chained=False, threads=threads, blocks=blocks
    )
    session = Session(shape, params, device)
    output = torch.empty((batch, height, width, 2), device=device)

    def put(places: torch.Tensor) -> None:
        places[:batch].copy_(frames[0])
        places[batch:].copy_(frames[1])

    return lambda: session.solve(put, batch, bound_px=None, output=output)


def compare_choices(frames: tuple[torch.Tensor, torch.Tensor]) -> list[dict]:
    """Time each choice of threads and steps, with the stop rule and at 300 iterations."""
    batch, *size = frames[0].shape
    rows = []
    for threads, steps in CHOICES:
        row: dict = {"threads": threads, "steps": steps}
        for name, params in (("stop_rule", TVL1Params()), ("fixed_300", FIXED_300)):
            action = make_action(frames, params, threads, steps)
            seconds = median_seconds(action)
            iterations = action().sum(dim=(0, 2)).double().cpu().numpy()  # by level
            sides = pyramid_sizes(*size, params)
            work = sum(n * height * width for n, (height, width) in zip(iterations, sides, strict=True))
            row[name] = {
                "pairs_per_s": batch / seconds,
                "useful_pixel_iterations_per_s": float(work / seconds),
            }
        rows.append(row)
        print(json.dumps(row))
    return rows


def share_by_kernel(action: Callable[[], object]) -> dict[str, float]:
    """Give each kernel's share of the device's time."""
    action()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        action()
        torch.cuda.synchronize()
    totals = {event.key[:60]: event.device_time_total for event in profile.key_averages()}
    whole = sum(totals.values())
    return {name: total / whole for name, total in sorted(totals.items(), key=lambda item: -item[1])[:12]}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="what flow.py --prepare wrote")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frames = load_frames(options.pairs, options.batch)
    default_threads, default_steps = cuda_session.THREADS[0], cuda_tiles.MOST_STEPS
    choices = compare_choices(frames)
    action = make_action(frames, TVL1Params(), default_threads, default_steps)
    still = make_action((frames[0], frames[0]), TVL1Params(), default_threads, default_steps)
    one = make_action((frames[0][:1], frames[1][:1]), TVL1Params(), default_threads, default_steps)
    result = {
        "device": torch.cuda.get_device_name(),
        "batch": options.batch,
        "choices": choices,
        "shares": share_by_kernel(action),
        "seconds_of_a_batch_of_equal_frames": median_seconds(still),
        "seconds_of_one_pair": median_seconds(one),
    }
    print(json.dumps({name: value for name, value in result.items() if name != "choices"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
