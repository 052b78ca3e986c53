"""A training that waits for its loader on a GPU says so once, with numbers and what to do."""

from types import SimpleNamespace

import pytest
import torch

from stin_pipe.stin.device import Runtime
from stin_pipe.stin.training.loop import LOADER_WAIT_STEPS, TrainingLoop
from stin_pipe.stin.training.ranks import Ranks
from stin_pipe.stin.training.report import Notices, Pace


def told(*, device, wait_share, num_steps=LOADER_WAIT_STEPS):
    """Return what a loop says after a step, with a clock that has told ``wait_share``."""
    pace = Pace(seconds_before=0.0)
    pace.num_steps = num_steps
    pace._begun -= 100.0
    pace._waited = 100.0 * wait_share
    pace._num_samples = 5000
    notices = Notices(lambda _event: None)
    learner = SimpleNamespace(device=torch.device(device), runtime=Runtime(loader_workers=3), ranks=Ranks())
    TrainingLoop(
        plan=None,
        learner=learner,
        state=None,
        reader=None,
        log=None,
        stop=None,
        pace=pace,
        notices=notices,
    )._warn_of_loader()
    return notices.messages


def test_the_warning_has_the_numbers():
    (message,) = told(device="cuda", wait_share=0.4)
    assert "the loader is the bottleneck: 40% of the time" in message
    assert "50.0 samples/s with 3 loader workers; raise --loader-workers" in message


@pytest.mark.parametrize(
    "quiet",
    [
        {"device": "cuda", "wait_share": 0.2},
        {"device": "cuda", "wait_share": 0.4, "num_steps": LOADER_WAIT_STEPS + 1},
        {"device": "cpu", "wait_share": 0.9},  # reading and computing share the cores
    ],
)
def test_otherwise_nothing_is_said(quiet):
    assert told(**quiet) == []
