"""TV-L1 flow: every back end of this machine beside cv2.optflow, in one run.

    python benchmarks/flow.py --data ../shared/data --json flow.json --picture flow.png
    python benchmarks/flow.py --data ../shared/data --prepare pairs.npz     # then, on a bare GPU machine:
    python benchmarks/flow.py --pairs pairs.npz --json flow.json

Speed on the CPU is that of one thread against one thread, in CPU seconds of the process, which other
processes of the machine disturb less than the clock; the best of some repeats, cv2's first and only run.
"""

import argparse
import importlib.util
import json
import platform
import time
from pathlib import Path

import cv2
import flow_pairs
import numpy as np
from flow_machine import cpu_seconds, measure_ceilings, threads_against_processes, wall_seconds
from flow_pairs import PairSet

from stin_pipe.pipeline.flow import TVL1Params, pyramid_sizes, resolve_backend, tvl1
from stin_pipe.pipeline.flow.backends import solve
from stin_pipe.stin.processes.cpus import usable_cpus

FIXED_300 = TVL1Params(epsilon=0.0)
GROWTH_WIDTHS = (64, 128, 256, 512, 1024)
BATCHES = (1, 4, 16, 64)


def run_cv2(frames0: np.ndarray, frames1: np.ndarray, *, defaults: bool) -> tuple[np.ndarray, list[float]]:
    """Fields and CPU seconds of each pair, one thread; `defaults` are 10 x 30 iterations and a median."""
    chosen = {} if defaults else {"innnerIterations": 300, "outerIterations": 1, "medianFiltering": 1}
    solver = cv2.optflow.DualTVL1OpticalFlow_create(**chosen)
    flows, seconds = [], []
    for frame0, frame1 in zip(frames0, frames1, strict=True):
        begin = time.process_time()
        flows.append(solver.calc(frame0, frame1, None))
        seconds.append(time.process_time() - begin)
    return np.stack(flows), seconds


def end_point_error(flow: np.ndarray, truth: np.ndarray | None) -> float | None:
    """Mean over pairs of the mean distance from the known true flow, in pixels."""
    if truth is None:
        return None
    errors = []
    for field, true in zip(flow, truth, strict=True):
        known = (np.abs(true) < 1e9).all(axis=-1)
        errors.append(np.linalg.norm(field - true, axis=-1)[known].mean())
    return float(np.mean(errors))


def pixel_iterations(iterations: np.ndarray, size: tuple[int, ...], params: TVL1Params) -> np.ndarray:
    """Pixel-iterations of each pair from its (N, levels, warps) iterations."""
    pixels = np.array([height * width for height, width in pyramid_sizes(size[0], size[1], params)])
    return (iterations.sum(axis=2) * pixels).sum(axis=1)


def compare(pairs: PairSet, repeats: int) -> dict:
    """Measure cv2 (both ways) and the cpu back end on each pair of a set."""
    result: dict = {"pairs": len(pairs.labels), "size": pairs.frames0.shape[1:], "labels": pairs.labels}
    for name, defaults in (("cv2_median_off", False), ("cv2_defaults", True)):
        flow, seconds = run_cv2(pairs.frames0, pairs.frames1, defaults=defaults)
        result[name] = {"seconds": seconds, "error_px": end_point_error(flow, pairs.truth)}
    singles = [(pairs.frames0[i : i + 1], pairs.frames1[i : i + 1]) for i in range(len(pairs.labels))]
    traces = [solve(*pair, backend="cpu", num_threads=1) for pair in singles]
    flow = np.concatenate([trace.flow for trace in traces])
    work = pixel_iterations(np.concatenate([t.iterations for t in traces]), flow.shape[1:3], TVL1Params())
    result["cpu"] = {
        "seconds": [
            cpu_seconds(lambda pair=pair: tvl1(*pair, backend="cpu", num_threads=1), repeats)
            for pair in singles
        ],
        "error_px": end_point_error(flow, pairs.truth),
        "pixel_iterations": work.tolist(),
    }
    ours = np.array(result["cpu"]["seconds"])
    for name in ("cv2_median_off", "cv2_defaults"):
        theirs = np.array(result[name]["seconds"])
        result[f"speed_over_{name}"] = {
            "by_summed_time": theirs.sum() / ours.sum(),
            "quartiles_of_pairs": np.percentile(theirs / ours, (0, 25, 50, 75, 100)).tolist(),
        }
    return result


def growth(clips: PairSet, backends: list[str]) -> dict:
    """Time with frame size and with batch, at the stop rule and at 300 fixed iterations."""
    result: dict = {"size": [], "batch": []}
    frame0, frame1 = clips.frames0[7], clips.frames1[7]
    for width in GROWTH_WIDTHS:
        size = (width, width * 3 // 4)
        pair = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[None] for frame in (frame0, frame1)]
        for backend in backends:
            for params in (TVL1Params(), FIXED_300):
                traced = solve(*pair, params=params, backend=backend, num_threads=1)
                iterations = np.asarray(traced.iterations)
                work = float(pixel_iterations(iterations, pair[0].shape[1:], params)[0])
                clock = cpu_seconds if backend == "cpu" else wall_seconds
                seconds = clock(
                    lambda f=pair, p=params, b=backend: tvl1(*f, params=p, backend=b, num_threads=1), 3
                )
                result["size"].append(
                    {
                        "backend": backend,
                        "size": size[::-1],
                        "max_iterations_forced": params.epsilon == 0,
                        "seconds": seconds,
                        "pixel_iterations_per_s": work / seconds,
                    }
                )
    for backend in backends:
        for batch in BATCHES if backend == "cpu" else (*BATCHES, 128, 256, 512):
            index = np.arange(batch) % len(clips.labels)
            frames0, frames1 = clips.frames0[index], clips.frames1[index]
            seconds = wall_seconds(
                lambda f0=frames0, f1=frames1, b=backend: tvl1(f0, f1, backend=b), 2 if batch > 16 else 3
            )
            result["batch"].append({"backend": backend, "batch": batch, "pairs_per_s": batch / seconds})
    return result


def measure_cuda(sets: list[PairSet], batch: int) -> dict:
    """The cuda back end on clips: frames and flow on the device, end to end, and at 300 iterations."""
    import torch

    clips = next(pairs for pairs in sets if pairs.name == "clips")
    index = np.arange(batch) % len(clips.labels)
    host = clips.frames0[index], clips.frames1[index]
    device = tuple(torch.from_numpy(frames).cuda() for frames in host)
    traced = solve(*device, backend="cuda")
    fixed_traced = solve(*device, params=FIXED_300, backend="cuda")
    work, fixed_work = (
        pixel_iterations(np.asarray(torch.as_tensor(t.iterations).cpu()), flow_pairs.CLIP_SIZE, TVL1Params())
        for t in (traced, fixed_traced)
    )
    on_device = wall_seconds(lambda: tvl1(*device, backend="cuda"))
    end_to_end = wall_seconds(lambda: tvl1(*host, backend="cuda"))
    fixed = wall_seconds(lambda: tvl1(*device, params=FIXED_300, backend="cuda"), 3)
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    copy = wall_seconds(lambda: target.copy_(source))
    return {
        "device": torch.cuda.get_device_name(),
        "batch": batch,
        "pairs_per_s_on_device": batch / on_device,
        "pairs_per_s_end_to_end": batch / end_to_end,
        "mean_pixel_iterations": float(work.mean()),
        "fixed_300_pixel_iterations_per_s": float(fixed_work.sum()) / fixed,
        "copy_bytes_per_s": 2 * source.nbytes / copy,
        "errors_px": {
            pairs.name: end_point_error(
                np.asarray(torch.as_tensor(tvl1(pairs.frames0, pairs.frames1, backend="cuda")).cpu()),
                pairs.truth,
            )
            for pairs in sets
            if pairs.truth is not None
        },
    }


def draw(result: dict, path: Path) -> bool:
    """Draw speeds and growth; say whether there was matplotlib to do it."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for offset, name in ((-0.2, "cv2_median_off"), (0.2, "cv2_defaults")):
        speeds = [part[f"speed_over_{name}"] for part in result["sets"].values()]
        place = np.arange(len(speeds)) + offset
        left.bar(place, [speed["by_summed_time"] for speed in speeds], 0.38, label=f"over {name}")
        quartiles = np.array([speed["quartiles_of_pairs"] for speed in speeds])
        left.vlines(place, quartiles[:, 1], quartiles[:, 3], color="black")
    left.set_xticks(range(len(result["sets"])), result["sets"])
    left.set(ylabel="times faster, one thread", title="cpu back end; lines: quartiles of pairs")
    left.legend()
    for backend in result["backends"]:
        for forced in (False, True):
            rows = [
                row
                for row in result["growth"]["size"]
                if (row["backend"], row["max_iterations_forced"]) == (backend, forced)
            ]
            right.loglog(
                [row["size"][0] * row["size"][1] for row in rows],
                [row["pixel_iterations_per_s"] for row in rows],
                marker="o",
                label=f"{backend}, {'300 iterations' if forced else 'stop rule'}",
            )
    right.set(xlabel="pixels a frame", ylabel="pixel-iterations a second", title="growth with size, one pair")
    right.legend()
    figure.savefig(path, dpi=110)
    return True


def main() -> None:
    """Measure and write what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--pairs", type=Path, help="take the pairs from this .npz instead")
    parser.add_argument("--prepare", type=Path, help="write the pairs to this .npz and end")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--picture", type=Path, help="draw it there (with matplotlib)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256, help="pairs a call on a GPU")
    arguments = parser.parse_args()
    if arguments.pairs:
        sets = flow_pairs.load(arguments.pairs)
    else:
        sets = [*flow_pairs.load_truth(arguments.data), flow_pairs.load_clips(arguments.data)]
    if arguments.prepare:
        flow_pairs.save(sets, arguments.prepare)
        return
    cv2.setNumThreads(1)
    backends = ["cpu"] + (["cuda"] if resolve_backend("auto") == "cuda" else [])
    clips = next(pairs for pairs in sets if pairs.name == "clips")
    tvl1(clips.frames0[:1], clips.frames1[:1], backend="cpu", num_threads=1)  # compiles
    result = {
        "machine": {"processor": _processor(), "cores": usable_cpus()},
        "versions": {"python": platform.python_version(), "opencv": cv2.__version__, "numpy": np.__version__},
        "backends": backends,
        "ceilings": measure_ceilings(),
        "sets": {pairs.name: compare(pairs, arguments.repeats) for pairs in sets},
        "threads": threads_against_processes(2, rounds=5, seconds=4.0),
        "growth": growth(clips, backends),
        "cuda": measure_cuda(sets, arguments.batch) if "cuda" in backends else None,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.picture and not draw(result, arguments.picture):
        print("no picture: matplotlib is not installed")
    print(json.dumps({name: _summary(part) for name, part in result["sets"].items()}, indent=1))
    print(json.dumps({key: result[key] for key in ("ceilings", "threads", "cuda")}, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _summary(part: dict) -> dict:
    seconds = {name: sum(part[name]["seconds"]) for name in ("cv2_median_off", "cv2_defaults", "cpu")}
    errors = {name: part[name]["error_px"] for name in seconds}
    work = sum(part["cpu"]["pixel_iterations"])
    return {
        "seconds": seconds,
        "error_px": errors,
        "speed_over_cv2_median_off": part["speed_over_cv2_median_off"],
        "speed_over_cv2_defaults": part["speed_over_cv2_defaults"],
        "pixel_iterations_per_s": work / seconds["cpu"],
    }


if __name__ == "__main__":
    main()
