"""The CUDA back end on machines that cannot run it: it says why, and what to do."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from stin_pipe.pipeline.flow import tvl1
from stin_pipe.pipeline.flow.cuda import engine as cuda
from stin_pipe.stin.shards.errors import StinPipeError


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no CUDA device" in cuda.why_unavailable()


@pytest.mark.parametrize(
    ("missing", "package"), [("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")]
)
def test_with_a_gpu_but_without_the_extra_it_names_the_extra(monkeypatch, missing, package):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "_find", lambda module: None if module == missing else object())
    assert cuda.why_unavailable() == f'the package {package} is missing (pip install "stin-pipe[cuda]")'


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asked_for_by_name_it_fails_with_the_reason():
    frames = np.zeros((1, 32, 32), np.uint8)
    with pytest.raises(StinPipeError, match=r"the cuda flow back end cannot run here: .*choose cpu or auto"):
        tvl1(frames, frames, backend="cuda")


def test_importing_it_loads_neither_torch_nor_numba():
    code = (
        "import sys, stin_pipe.pipeline.flow.cuda.engine\n"
        "print(sorted({'torch', 'numba', 'numba_cuda'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
