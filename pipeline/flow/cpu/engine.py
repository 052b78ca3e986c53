"""The CPU back end: compiled with numba, SIMD, cache-blocked, parallel over pairs.

Each thread works by itself on whole pairs with the GIL released and buffers of its own, so that n threads do
n times the work of one, and no result depends on their number.

Legend: N pairs, T frames of a clip, H and W sides in pixels.
"""

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Iterator

import numpy as np

from stin_pipe.pipeline.flow.cpu.kernel_cache import load_kernels
from stin_pipe.pipeline.flow.cpu.layout import aligned_floats, lay_out
from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.processes.cpus import usable_cpus

MOST_PAIRS_A_TURN = 16
"""Most pairs of a clip in one turn of a thread; the frame between two turns is prepared twice."""
TURNS_A_THREAD = 4
"""Turns of a clip for each thread, so that all threads end at about the same time."""


def solve(
    frames0: np.ndarray, frames1: np.ndarray, params: TVL1Params, num_threads: int, *, chained: bool
) -> TracedFlow:
    """Solve N pairs of checked (N, H, W) frames on `num_threads` threads; see `backends.solve`."""
    num_pairs, height, width = frames0.shape
    levels = len(lay_out(height, width, params).levels)
    flow = np.empty((num_pairs, height, width, 2), np.float32)
    iterations = np.zeros((num_pairs, levels, params.num_warps), np.int32)

    def take_turn(pairs: range) -> None:
        with _borrow_solver(height, width, params) as solver:
            for i in pairs:
                # In a clip, the first frame of a pair is the second of the pair before, and is prepared.
                if not chained or i == pairs[0]:
                    solver.take_frame(frames0[i], will_be_warped=False)
                solver.take_frame(frames1[i])
                solver.solve(flow[i], iterations[i])

    turns = _share_out(num_pairs, num_threads, chained=chained)
    if min(num_threads, len(turns)) == 1:
        for turn in turns:
            take_turn(turn)
    else:
        with concurrent.futures.ThreadPoolExecutor(min(num_threads, len(turns))) as pool:
            for _ in pool.map(take_turn, turns):
                pass
    return TracedFlow(flow=flow, iterations=iterations)


def _share_out(num_pairs: int, num_threads: int, *, chained: bool) -> list[range]:
    """Cut the pairs into turns; threads take one after another until none is left."""
    turn = 1
    if chained:
        turn = min(MOST_PAIRS_A_TURN, math.ceil(num_pairs / (num_threads * TURNS_A_THREAD)))
        turn = num_pairs if num_threads == 1 else turn
    return [range(i, min(i + turn, num_pairs)) for i in range(0, num_pairs, turn)]


class _Solver:
    """The buffers of one thread for frames of one size.

    They hold the grey pyramids of the last two frames, the quads of the last one, and the workspace.
    """

    def __init__(self, height: int, width: int, params: TVL1Params):
        self.job = height, width, params
        self.kernels = load_kernels()
        self.layout = lay_out(height, width, params)
        self.tables = self.layout.levels, self.layout.samples, self.layout.weights
        self.greys = [aligned_floats(self.layout.grey_floats) for _ in range(2)]
        self.quads = aligned_floats(self.layout.quads_floats)
        self.space = aligned_floats(self.layout.space_floats)
        self.flow = aligned_floats(self.layout.flow_floats)
        self.row = aligned_floats(self.layout.row_floats)
        self.scratch = aligned_floats(self.kernels.SCRATCH_FLOATS)
        self.offsets = np.zeros(self.kernels.SCRATCH_FLOATS, np.int32)
        self.constants = (
            np.float32(params.dual_step),
            np.float32(params.threshold),
            np.float32(params.theta),
            params.epsilon,
            params.num_warps,
            params.max_iterations,
            params.check_interval,
            params.median_filter,
            params.scale_step,
        )

    def take_frame(self, frame: np.ndarray, *, will_be_warped: bool = True) -> None:
        """Prepare a frame as the second of the next pair; the frame before becomes the first.

        A frame that will only ever be the first of a pair is not warped, and needs no quads.
        """
        self.greys.reverse()
        frame = np.require(frame, np.float32, ["C", "A", "W"])
        self.kernels.prepare(frame, *self.tables, self.row, self.greys[1], self.quads, will_be_warped)

    def solve(self, flow: np.ndarray, iterations: np.ndarray) -> None:
        """Solve the pair of the last two frames into `flow` (H, W, 2)."""
        self.kernels.solve(
            self.greys[0],
            self.quads,
            *self.tables,
            self.constants,
            self.space,
            self.flow,
            self.row,
            self.scratch,
            self.offsets,
            flow,
            iterations,
        )


_IDLE: list[_Solver] = []
"""Solvers of the last size and parameters, kept because fresh memory costs as much as a quarter of a pair."""
_IDLE_LOCK = threading.Lock()


@contextlib.contextmanager
def _borrow_solver(height: int, width: int, params: TVL1Params) -> Iterator[_Solver]:
    """Lend a solver to one thread; only those of the latest size and parameters are kept for the next."""
    job = height, width, params
    with _IDLE_LOCK:
        _IDLE[:] = [solver for solver in _IDLE if solver.job == job]
        solver = _IDLE.pop() if _IDLE else None

    solver = solver or _Solver(height, width, params)
    yield solver

    # A solver whose pair failed does not come back: nobody knows what its buffers hold.
    with _IDLE_LOCK:
        if len(_IDLE) < usable_cpus():
            _IDLE.append(solver)
