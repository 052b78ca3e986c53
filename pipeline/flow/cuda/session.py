"""Run a program of launches on a GPU: machine code loaded, buffers kept, launches recorded and replayed.

torch owns the context, the memory and the streams; the driver is called directly for what torch does not
offer: loading machine code and launching it. A session is made for one shape of batch and serves all later
batches of that shape. Its launches are recorded into a CUDA graph at its second use, so that Python pays for
them once.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]

from stin_pipe.pipeline.flow.cuda.cache import load_code
from stin_pipe.pipeline.flow.cuda.compile import ITERATE_REGISTERS, REGISTERS_OF_A_SM
from stin_pipe.pipeline.flow.cuda.patch import shared_floats
from stin_pipe.pipeline.flow.cuda.program import BatchShape, Launch, Slice, build_program, output_launch
from stin_pipe.pipeline.flow.params import TVL1Params
from stin_pipe.stin.shards.errors import StinPipeError

_TORCH_TYPES = {np.float32: torch.float32, np.int32: torch.int32}
_C_TYPES = {np.int32: ctypes.c_int32, np.float32: ctypes.c_float, np.float64: ctypes.c_double}
THREADS = (256, 128, 64)
"""Threads of a block of `iterate`, by preference: the first that the GPU's shared memory allows."""


def choose_threads(shared_bytes_of_a_block: int) -> int:
    """Return the threads of a block of `iterate` on a GPU with this much shared memory for a block.

    Raises:
        StinPipeError: If even the smallest block does not fit.
    """
    for threads in THREADS:
        if 4 * shared_floats(threads) <= shared_bytes_of_a_block:
            return threads
    raise StinPipeError(
        f"the GPU gives a block {shared_bytes_of_a_block} bytes of shared memory, the cuda flow back end "
        f"needs {4 * shared_floats(THREADS[-1])}; choose the cpu back end"
    )


def count_blocks(threads: int, shared_bytes_of_a_sm: int, num_sms: int) -> int:
    """Return the blocks of `iterate` that a GPU holds at a time."""
    # The system keeps this much of each block's shared memory for itself.
    reserved = 1024
    by_memory = shared_bytes_of_a_sm // (4 * shared_floats(threads) + reserved)
    by_registers = REGISTERS_OF_A_SM // (ITERATE_REGISTERS * threads)
    return num_sms * max(1, min(by_memory, by_registers))


def blocks_of(device: torch.device, threads: int | None = None) -> tuple[int, int]:
    """Return the threads of a block of `iterate`, by choice or the best, and the blocks that a GPU holds.

    Raises:
        StinPipeError: If the GPU cannot hold even the smallest block.
    """
    # The driver is ready once torch has used it.
    torch.cuda.synchronize(device)
    attributes = driver.CUdevice_attribute

    def ask(attribute: Any) -> int:
        return _check(driver.cuDeviceGetAttribute(attribute, device.index), "report the GPU's properties")

    most_shared = ask(attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
    threads = threads or choose_threads(most_shared)
    blocks = count_blocks(
        threads,
        ask(attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR),
        ask(attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
    )
    return threads, blocks


class Session:
    """The buffers and launches for batches of one shape on one GPU; use `solve`."""

    def __init__(self, shape: BatchShape, params: TVL1Params, device: torch.device) -> None:
        """Allocate the buffers and load the kernels.

        Raises:
            StinPipeError: If the kernels cannot be compiled or loaded.
        """
        self.shape, self.device = shape, device
        program = build_program(shape, params)
        self.plans, self._num_warps = program.plans, params.num_warps
        self.buffers = {
            name: torch.zeros(count, dtype=_TORCH_TYPES[kind], device=device)
            for name, (kind, count) in program.buffers.items()
        }
        self._kernels = _load_kernels(device.index, torch.cuda.get_device_capability(device), shape.threads)
        self._launches = [self._bind(launch) for launch in program.launches]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._uses = 0
        self._lock = threading.Lock()
        self._done = torch.cuda.Event()

    def solve(
        self,
        put_frames: Callable[[torch.Tensor], None],
        num_pairs: int,
        *,
        bound_px: float | None,
        output: torch.Tensor,
    ) -> torch.Tensor:
        """Solve a batch on torch's current stream, without waiting for it.

        Args:
            put_frames: Fills the (F, H, W) frames it is given.
            num_pairs: Pairs of the batch, at most the capacity.
            bound_px: When given, `output` is quantised with this bound.
            output: (num_pairs, H, W, 2) float32 pixels, or (num_pairs, 2 H, W) uint8; filled.

        Returns:
            (num_pairs, levels, warps) int32 iterations on the GPU.
        """
        with self._lock:
            stream = torch.cuda.current_stream(self.device)
            # The last batch may have run on another stream.
            stream.wait_event(self._done)

            put_frames(self._frames())
            self.buffers["num_pairs"].fill_(num_pairs)
            self.buffers["field"].zero_()  # where the coarsest level starts
            self._run()

            # Not part of the recording, since each batch has an output of its own.
            scale = None if bound_px is None else 127.0 / bound_px
            last = output_launch(self.shape, self.plans[0], scale=scale)
            self._bind(last, output=output)(stream.cuda_stream)
            iterations = self.buffers["iterations"].view(len(self.plans), self._num_warps, -1)
            iterations = iterations[..., :num_pairs].permute(2, 0, 1).contiguous()
            self._done.record(stream)
            return iterations

    def wait(self) -> None:
        """Wait for the last batch, so that the buffers may be freed."""
        self._done.synchronize()

    def _run(self) -> None:
        """Do all launches: one by one at first, recorded at the second use, replayed after."""
        self._uses += 1
        if self._uses == 2:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._launch_all()
            self._graph = graph
        if self._graph is not None:
            self._graph.replay()
        else:
            self._launch_all()

    def _launch_all(self) -> None:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        for launch in self._launches:
            launch(stream)

    def _frames(self) -> torch.Tensor:
        """Where the frames go, as (F, H, W) without the padding."""
        plan = self.plans[0]
        planes = self.buffers["level0"].view(self.shape.num_frames, -1, plan.pitch_px)
        return planes[:, : plan.height_px, : plan.width_px]

    def _bind(self, launch: Launch, **more: torch.Tensor) -> Callable[[int], None]:
        """Make a launch into a function of the stream, with its arguments laid out once."""
        buffers = {**self.buffers, **more}
        values = [_as_c(argument, buffers) for argument in launch.arguments]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        geometry = (*launch.grid, *launch.block, launch.shared_bytes)
        return functools.partial(
            _launch, self._kernels[launch.kernel], geometry, ctypes.addressof(addresses), (values, addresses)
        )


def _launch(kernel: Any, geometry: tuple[int, ...], arguments: int, _alive: object, stream: int) -> None:
    _check(driver.cuLaunchKernel(kernel, *geometry, stream, arguments, 0), "launch a flow kernel")


def _as_c(argument: Slice | np.generic, buffers: dict[str, torch.Tensor]) -> Any:
    """Turn an argument into what the driver copies to the kernel."""
    if isinstance(argument, Slice):
        buffer = buffers[argument.buffer]
        return ctypes.c_void_p(buffer.data_ptr() + argument.start * buffer.element_size())
    return _C_TYPES[type(argument)](argument.item())


@functools.lru_cache(maxsize=16)
def _load_kernels(device: int, capability: tuple[int, int], threads: int) -> dict[str, Any]:
    """Load each kernel into a GPU's context; it stays there for the life of the process."""
    # Makes torch's context the current one of this thread.
    torch.cuda.synchronize(device)
    attributes = driver.CUfunction_attribute
    functions = {}
    for name, (entry, code) in load_code(capability, threads).items():
        image = ctypes.create_string_buffer(code, len(code))
        module = _check(driver.cuModuleLoadData(ctypes.addressof(image)), f"load the flow kernel {name}")
        functions[name] = _check(driver.cuModuleGetFunction(module, entry.encode()), f"find {entry}")
    for attribute, value in (
        (attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 4 * shared_floats(threads)),
        (attributes.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100),
    ):
        _check(driver.cuFuncSetAttribute(functions["iterate"], attribute, value), "reserve shared memory")
    return functions


def _check(answer: tuple, task: str) -> Any:
    """Return the value of a driver call's answer.

    Raises:
        StinPipeError: If the driver reports an error.
    """
    error, *values = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        raise StinPipeError(
            f"the CUDA driver could not {task}: {error.name} ({int(error)}); free GPU memory, update the "
            "driver, or choose the cpu flow back end"
        )
    return values[0] if values else None
