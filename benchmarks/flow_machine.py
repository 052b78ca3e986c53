"""Clocks for `flow.py`, what the machine can do at most, and threads against processes."""

import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable

import cv2
import numpy as np

from stin_pipe.pipeline.flow import tvl1


def cpu_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of the fastest run."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def wall_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds by the clock of the fastest run, the work on a GPU included."""
    import torch

    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


def work_alone(pairs_a_second_after: float, seconds: float, seed: int) -> float:
    """One independent process: wait for a common start, then count pairs a second for a while."""
    frames0, frames1 = _thread_frames(seed)
    tvl1(frames0, frames1, backend="cpu", num_threads=1)
    time.sleep(max(0.0, pairs_a_second_after - time.time()))
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        tvl1(frames0, frames1, backend="cpu", num_threads=1)
        done += len(frames0)
    return done / (time.perf_counter() - begin)


def _thread_frames(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scene = cv2.GaussianBlur(rng.normal(size=(300, 400)).astype(np.float32), (0, 0), 3)
    scene = (128 + 40 * scene / scene.std()).clip(0, 255).astype(np.uint8)
    return (
        np.stack([scene[i : i + 256, :340] for i in range(16)]),
        np.stack([scene[i + 1 : i + 257, 2:342] for i in range(16)]),
    )


def threads_against_processes(count: int, rounds: int, seconds: float) -> dict:
    """Throughput of `count` threads of one process over that of `count` processes, in turns."""
    ratios, rates = [], []
    frames0, frames1 = (
        np.concatenate(halves) for halves in zip(*map(_thread_frames, range(count)), strict=True)
    )
    with concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        for _ in range(rounds):
            start = time.time() + 5
            alone = sum(pool.map(work_alone, [start] * count, [seconds] * count, range(count)))
            tvl1(frames0, frames1, backend="cpu", num_threads=count)
            begin, done = time.perf_counter(), 0
            while time.perf_counter() - begin < seconds:
                tvl1(frames0, frames1, backend="cpu", num_threads=count)
                done += len(frames0)
            together = done / (time.perf_counter() - begin)
            ratios.append(together / alone)
            rates.append({"threads_pairs_per_s": together, "processes_pairs_per_s": alone})
    return {"count": count, "ratios": ratios, "median_ratio": float(np.median(ratios)), "rounds": rates}


def measure_ceilings() -> dict:
    """What one thread of this CPU can do at most: copy memory, and issue vector multiply-adds."""
    from numba import njit

    from stin_pipe.pipeline.flow.cpu.simd import KERNEL, LANES
    from stin_pipe.pipeline.flow.cpu.simd_memory import load, store

    source = np.ones(1 << 26, np.float32)
    target = np.empty_like(source)
    copy = cpu_seconds(lambda: np.copyto(target, source))

    @njit(**KERNEL)
    def multiply_add(values, count):
        a, b, c, d = load(values, 0), load(values, LANES), load(values, 2 * LANES), load(values, 3 * LANES)
        e, f, g, h = a + b, b + c, c + d, d + a
        for _ in range(count):
            a, b, c, d = a * a + a, b * b + b, c * c + c, d * d + d
            e, f, g, h = e * e + e, f * f + f, g * g + g, h * h + h
        store(values, 0, a + b + c + d + e + f + g + h)

    values, count = np.zeros(4 * LANES, np.float32), 5_000_000
    multiply_add(values, 1)
    return {
        "lanes": LANES,
        "copy_bytes_per_s": 2 * source.nbytes / copy,
        "vector_multiply_adds_per_s": 8 * count / cpu_seconds(lambda: multiply_add(values, count)),
        **count_instructions(),
    }


def count_instructions() -> dict:
    """Instructions of the solver's innermost loop, for each vector of pixels, by what they do."""
    import numba

    from stin_pipe.pipeline.flow.cpu import solver as cpu_solver
    from stin_pipe.pipeline.flow.cpu.simd import KERNEL

    floats, ints, one = numba.float32[::1], numba.int64, numba.float32
    row_pass = numba.njit(numba.float64(floats, *[ints] * 4, *[one] * 3), **KERNEL)(
        cpu_solver._row_pass.py_func
    )
    lines = next(iter(row_pass.inspect_asm().values())).splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith(".L") and ":" in line}
    loops = [
        lines[labels[words[1]] : i + 1]
        for i, line in enumerate(lines)
        if len(words := line.split()) == 2 and words[0].startswith("j") and labels.get(words[1], i) < i
    ]
    vector = max(loops, key=lambda loop: sum("mm" in line for line in loop))
    names = [line.split()[0] for line in vector if line.startswith("\t") and not line.startswith("\t.")]
    arithmetic = ("vfm", "vfnm", "vmul", "vadd", "vsub", "vmin", "vmax", "vrsqrt", "vrcp", "vdiv", "vsqrt")
    return {
        "loop_instructions": len(names),
        "loop_arithmetic": sum(name.startswith(arithmetic) for name in names),
        "loop_multiplier_port": sum(
            name.startswith(("vfm", "vfnm", "vmul", "vrsqrt", "vrcp")) for name in names
        ),
        "loop_memory_operands": sum("(" in line for line in vector if "mm" in line),
    }
