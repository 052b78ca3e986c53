"""The CPU engine as it is compiled for other processors than this one.

Each runs in a process of its own, whose numba compiles for an older x86: 8 lanes with estimates of division
and root, and 8 lanes in SSE2 with exact ones.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROCESSORS = {
    "skylake-avx512": "avx,avx2,fma,avx512f,avx512vl,avx512dq,avx512bw,avx512cd",
    "haswell": "avx,avx2,fma",
    "x86-64": "sse2",
}
PROGRAM = """
import sys
import numpy as np
from stin_pipe.pipeline.flow import TVL1Params
from stin_pipe.pipeline.flow.backends import solve
from stin_pipe.pipeline.flow.cpu import simd
rng = np.random.default_rng(0)
y, x = np.mgrid[:53, :70]
frames = [128 + 60 * np.sin(0.3 * (x + 1.4 * t) + 0.1 * y) * np.cos(0.2 * y - 0.3 * t) for t in (0, 1)]
frames = (np.stack(frames) + rng.normal(size=(2, 53, 70))).astype(np.float32)
for params in (TVL1Params(epsilon=0.0, max_iterations=30), TVL1Params()):
    ours = solve(frames[:1], frames[1:], params=params, backend="cpu")
    exact = solve(frames[:1], frames[1:], params=params, backend="reference")
    assert np.abs(exact.flow).mean() > 0.1
    assert np.abs(ours.flow - exact.flow).mean() < (1e-4 if params.epsilon == 0 else 0.01)
    assert np.abs(ours.iterations - exact.iterations).max() <= 8
print(simd.LANES, simd.HAS_FAST_DIVIDER)
"""


def _can_run(features: str) -> bool:
    if platform.machine() != "x86_64":
        return False
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    return set(features.split(",")) <= set(flags)


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_engine_is_right_on_other_processors(processor, tmp_path):
    features = PROCESSORS[processor]
    if not _can_run(features):
        pytest.skip(f"this processor lacks some of {features}")
    numba_features = ",".join(f"+{feature}" for feature in features.split(","))
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": numba_features,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lanes = 16 if "avx512f" in features else 8
    assert result.stdout.split() == [str(lanes), "False"]
