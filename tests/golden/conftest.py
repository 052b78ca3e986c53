"""Tiny runs to train and score on, made once for all tests of this folder."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def made_shards() -> ModuleType:
    """The module ``tests/made_shards.py``, which no import path reaches."""
    path = Path(__file__).resolve().parents[1] / "made_shards.py"
    spec = importlib.util.spec_from_file_location("made_shards", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_run(made_shards: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with 12 training and 6 test videos of 40x32; tests only read it."""
    folder = tmp_path_factory.mktemp("tiny_run")
    made_shards.make_run(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny layers are slower on several threads, and equal bits are promised for one number of them."""
    torch.set_num_threads(1)
