"""Run the CUDA back end whole under numba's simulator; a script of the test beside it.

Its calls, batches, launches and kernels are the real ones. Made up are the driver's launch and what torch
knows of a GPU: streams, events, graphs that record launches and replay them, and the card's properties.

Usage: NUMBA_ENABLE_CUDASIM=1 python flow_cuda_simulator.py IN.npz OUT.npz
"""

import contextlib
import sys
import types
import warnings

import numpy as np
import torch
from numba import cuda as simulator

from stin_pipe.pipeline.flow import TVL1Params
from stin_pipe.pipeline.flow.cuda import engine as cuda
from stin_pipe.pipeline.flow.cuda import session as cuda_session
from stin_pipe.pipeline.flow.cuda import solver as cuda_solver
from stin_pipe.pipeline.flow.cuda import tiles as cuda_tiles
from stin_pipe.pipeline.flow.cuda.compile import kernels
from stin_pipe.pipeline.flow.cuda.program import Slice

THREADS = 16
PAIRS = TVL1Params(check_interval=2, max_iterations=5, num_scales=2, num_warps=1, epsilon=0.03)
CLIP = TVL1Params(check_interval=3, max_iterations=3, num_scales=1, num_warps=1, median_filter=3)


class SimulatedGraph:
    """A CUDA graph: what is launched while it records is done at each replay, not at once."""

    recording: "SimulatedGraph | None" = None

    def __init__(self):
        self.launches = []

    def replay(self):
        """Do the recorded launches."""
        assert self.launches
        for launch in self.launches:
            launch()


@contextlib.contextmanager
def record(graph, capture_error_mode):
    """Record launches into a graph."""
    SimulatedGraph.recording = graph
    yield
    SimulatedGraph.recording = None


def bind(session, launch, **more):
    """Make a launch of a simulated kernel, in place of `Session._bind`."""
    buffers = {**session.buffers, **more}
    arguments = [
        buffers[value.buffer].view(-1).numpy()[value.start :] if isinstance(value, Slice) else value
        for value in launch.arguments
    ]
    kernel = COMPILED[launch.kernel][launch.grid, launch.block, 0, launch.shared_bytes]

    def do(stream):
        if SimulatedGraph.recording is not None:
            SimulatedGraph.recording.launches.append(lambda: kernel(*arguments))
        else:
            kernel(*arguments)

    return do


def poison(real_init):
    """Let a session begin with buffers full of what no kernel may use."""

    def init(self, *arguments):
        real_init(self, *arguments)
        for buffer in self.buffers.values():
            buffer.fill_(float("nan") if buffer.is_floating_point() else -7)
        self.buffers["finished"].zero_()
        assert self.plans[0].num_tiles > 1, "the image must be larger than a tile"

    return init


def probe_decide(*arguments):
    """Let a block of 4 threads decide, as `iterate` does; becomes a function of `cuda_solver`."""
    shared = cuda.shared.array(0, types.float32)
    _decide(shared, cuda.threadIdx.x, 4, *arguments)  # noqa: F821


def decide(check: int) -> dict[str, np.ndarray]:
    """Decide on 9 of 11 pairs, by a block of 4 threads."""
    counts = {
        "parity": np.arange(11, dtype=np.int32) % 2,
        "active": np.array([0, 1, 2, 3, 5, 6, 7, 9, 10, -7, -7], np.int32),
        "num_active": np.array([9], np.int32),
        "iterations": np.full(11, 16, np.int32),
    }
    partials = np.zeros((11, 3), np.float32)
    partials[[1, 5, 7, 9], 2] = 2.0  # above the limit
    partials[[4, 8]] = 9.0  # these ended long ago
    kernel = simulator.jit(types.FunctionType(probe_decide.__code__, vars(cuda_solver)))
    kernel[1, 4, 0, 16](
        partials.ravel(),
        *counts.values(),
        np.int32(3),
        np.int32(1),
        np.int32(8),
        np.int32(check),
        np.float32(1),
    )
    return {f"decide{check}_{name}": array for name, array in counts.items()}


def main(source_path: str, target_path: str) -> None:
    """Solve the two cases of the test."""
    given = {name: torch.from_numpy(array) for name, array in np.load(source_path).items()}
    frames = given["clip"]
    pairs = cuda.solve(given["frames0"], given["frames1"], PAIRS, chained=False, bound_px=None)
    clip = cuda.solve(frames[:-1], frames[1:], CLIP, chained=True, bound_px=None)
    packed = cuda.solve(frames[:-1], frames[1:], CLIP, chained=True, bound_px=3.0).flow
    np.savez(
        target_path, packed=packed, pairs_flow=pairs.flow, pairs_iterations=pairs.iterations,
        clip_flow=clip.flow, clip_iterations=clip.iterations, **decide(0), **decide(1),
    )  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # numba's simulator and numpy warn of arithmetic on NaN
    stream = types.SimpleNamespace(cuda_stream=0, wait_event=lambda event: None)
    event = types.SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    for name, stand_in in {
        "device": lambda device: contextlib.nullcontext(), "current_stream": lambda device: stream,
        "Event": lambda: event, "CUDAGraph": SimulatedGraph, "graph": record, "empty_cache": lambda: None,
        "mem_get_info": lambda device: (10**9, 10**9),
        "get_device_capability": lambda device: (9, 0),
    }.items():  # fmt: skip
        setattr(torch.cuda, name, stand_in)
    cuda_session.blocks_of = lambda device: (THREADS, 3)
    cuda_session._load_kernels = lambda *arguments: {}
    cuda_session.Session._bind = bind
    cuda_session.Session.__init__ = poison(cuda_session.Session.__init__)
    cuda_tiles.MOST_STEPS = (
        2  # so that a round of 3 iterations takes two launches, as one of 16 does on a GPU
    )
    cuda.BATCH_SIZES = (1, 2)  # so that three pairs take two batches, the second recorded and not full
    COMPILED = {name: simulator.jit(function) for name, (function, _) in kernels(THREADS).items()}
    main(*sys.argv[1:])
