"""The CUDA kernels, compiled without a GPU for those of today: resources, instructions, arguments."""

import ctypes
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("numba_cuda", reason='numba-cuda is not installed: pip install "stin-pipe[cuda]"')
pytest.importorskip("cuda.bindings", reason='cuda-bindings is not installed: pip install "stin-pipe[cuda]"')

from stin_pipe.pipeline.flow import TVL1Params
from stin_pipe.pipeline.flow.cuda.compile import compile_ptx, entry_name, link
from stin_pipe.pipeline.flow.cuda.patch import shared_floats
from stin_pipe.pipeline.flow.cuda.program import BatchShape, Slice, build_program, output_launch
from stin_pipe.stin.shards.errors import StinPipeError

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]
PTX_TYPES = {np.int32: "u32", np.float32: "f32", np.float64: "f64"}


@pytest.fixture(scope="module")
def ptx():
    try:
        return compile_ptx(256)
    except StinPipeError as error:
        pytest.skip(f"the parts of the CUDA toolkit that compile are not installed: {error}")


def resources(log: str) -> dict[str, int]:
    """Registers and spilled bytes from what the assembler says."""
    patterns = {
        "registers": r"Used (\d+) registers",
        "stores": r"(\d+) bytes spill stores",
        "loads": r"(\d+) bytes spill loads",
    }
    return {name: int(re.search(pattern, log).group(1)) for name, pattern in patterns.items()}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_link_for_the_gpus_of_today_within_their_registers(ptx, capability):
    for name, text in ptx.items():
        linked = link(text, capability)
        assert linked.code[:4] == b"\x7fELF"
        if not linked.log:  # this nvJitLink tells nothing
            continue
        found = resources(linked.log)
        if name == "iterate":
            # Two blocks of 256 threads share the 65,536 registers of a multiprocessor. What is spilled
            # lies outside the loop, but for some addresses.
            assert found["registers"] <= 128
            assert max(found["stores"], found["loads"]) <= 256
        else:
            assert (found["stores"], found["loads"]) == (0, 0)


def test_the_iteration_keeps_its_patch_in_registers_and_uses_approximate_arithmetic(ptx):
    text = ptx["iterate"]
    assert ".local" not in text, "an array of the patch went to local memory"
    assert ".f64" not in text
    assert ".extern .shared .align 16 " in text
    assert text.count("sqrt.approx.ftz.f32") == 32  # 16 pixels, 2 components
    assert "sqrt.rn" not in text and "div.rn" not in text
    assert len(re.findall(r"ld\.global\.v4\.f32", text)) == 44  # 3 + 6 planes, and 2 kept, of 4 rows
    assert len(re.findall(r"st\.global\.v4\.f32", text)) == 32


def test_arguments_of_every_launch_are_those_of_its_kernel(ptx):
    shape = BatchShape(height=61, width=50, capacity=4, chained=True, threads=256, blocks=2)
    program = build_program(shape, TVL1Params(median_filter=5, num_warps=1, max_iterations=8))
    outputs = [output_launch(shape, program.plans[0], scale=scale) for scale in (None, 6.35)]
    launches = {launch.kernel: launch for launch in (*program.launches, *outputs)}
    assert launches.keys() == ptx.keys()
    for name, launch in launches.items():
        head = ptx[name][ptx[name].index(".visible .entry") :].split(")")[0]
        given = [
            "u64" if isinstance(argument, Slice) else PTX_TYPES[type(argument)]
            for argument in launch.arguments
        ]
        assert re.findall(r"\.param \.(\w+)", head) == given, name
        assert entry_name(ptx[name]).startswith("_Z")


def test_a_block_fits_into_the_shared_memory_of_its_gpu():
    from stin_pipe.pipeline.flow.cuda.session import choose_threads, count_blocks

    assert (
        choose_threads(232448) == choose_threads(101376) == 256
    )  # sm_90 and sm_100; sm_86, sm_89 and sm_120
    assert choose_threads(65536) == 128  # sm_75
    assert count_blocks(256, 233472, 132) == 264
    assert count_blocks(256, 102400, 84) == 84
    assert 4 * shared_floats(256) <= 101376
    with pytest.raises(StinPipeError, match="shared memory"):
        choose_threads(16384)


def test_the_numba_cuda_inside_numba_is_refused():
    code = (
        "import numba.cuda as c; c.__file__ = '/lib/numba/cuda/__init__.py'\n"
        "import stin_pipe.pipeline.flow.cuda.device"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "numba-cuda is missing" in run.stderr and 'pip install "stin-pipe[cuda]"' in run.stderr


def test_arguments_are_laid_out_as_the_driver_takes_them():
    from stin_pipe.pipeline.flow.cuda.session import _as_c

    buffer = torch.zeros(8, dtype=torch.int32)
    given = [Slice(buffer="counts", start=3), np.int32(-2), np.float32(0.25), np.float64(0.8)]
    values = [_as_c(argument, {"counts": buffer}) for argument in given]
    assert [ctypes.sizeof(value) for value in values] == [8, 4, 4, 8]
    assert [value.value for value in values] == [buffer.data_ptr() + 12, -2, 0.25, 0.8]
