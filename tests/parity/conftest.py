"""Fixtures of the parity tests."""

import pytest


@pytest.fixture
def one_torch_thread():
    """Run torch on one thread: small images gain nothing by more, and on a busy machine threads wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
