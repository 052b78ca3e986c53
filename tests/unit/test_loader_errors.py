"""Errors of loader workers arrive as they were raised."""

import os
import signal

import pytest

from stin_pipe.stin.clips.loader import batches_of, scoring_loader
from stin_pipe.stin.shards.errors import ShardError, StinPipeError

MESSAGE = "00001.h5: video a/b.avi: ShardError: a name that reads like a traceback\nand a second line"


class Broken:
    """Clips of a shard that cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, key: int) -> None:
        raise ShardError(MESSAGE)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_keeps_its_type_and_its_whole_text(num_workers: int) -> None:
    loader = scoring_loader(Broken(), batch_size=2, num_workers=num_workers, pin_memory=False)
    with pytest.raises(ShardError) as error:
        list(batches_of(loader))
    assert str(error.value) == MESSAGE


class Dying(Broken):
    """Clips in whose compiled code something is wrong."""

    def __getitem__(self, key: int) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


def test_the_signal_of_a_dead_worker_is_told() -> None:
    loader = scoring_loader(Dying(), batch_size=2, num_workers=1, pin_memory=False)
    with pytest.raises(StinPipeError, match=r"a loader worker died \(SIGSEGV\)"):
        list(batches_of(loader))
