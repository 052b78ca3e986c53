"""Fixtures that several kinds of tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos, split lists and flow ground truth; skips where it is absent."""
    folder = Path(os.environ.get("STIN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder} (set STIN_SHARED_DATA)")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run GPU tests where there is a GPU; without one skip them, or fail when the run demands one."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if torch.cuda.is_available() or os.environ.get("STIN_REQUIRE_GPU") == "1":
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="no CUDA device (set STIN_REQUIRE_GPU=1 to fail instead)"))
