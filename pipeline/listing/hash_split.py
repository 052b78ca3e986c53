"""A split for data sets without lists: a hash of each name decides, so adding videos moves no other video."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from stin_pipe.stin.shards.schema import Subset

TEST_SHARE = 0.3
"""Share of each class that goes to the test list, as in HMDB51."""

HASH_SPLIT = "split 1 was made by a hash of the names, 70 % train and 30 % test"
"""How a `split_source` describes this split; nothing reads it back."""


def hash_split(ids: Iterable[str]) -> dict[str, Subset]:
    """Split the videos of one class by a hash of their ids; two or more give at least one on each side."""
    ranked = sorted(ids, key=hash_share)
    sides: dict[str, Subset] = {video_id: hash_side(video_id) for video_id in ranked}
    if len(ranked) >= 2:
        # The ends of the ranking are nearest to these sides anyway.
        sides[ranked[0]], sides[ranked[-1]] = "test", "train"
    return sides


def hashed_name(path: PurePosixPath) -> str:
    """Return what decides the side of CLASS/VIDEO: its path; of CLASS/GROUP/VIDEO: that of its group."""
    return str(path.parent if len(path.parts) == 3 else path)


def hash_side(video_id: str) -> Subset:
    """Return the side of one video, whatever other videos its class has."""
    return "test" if hash_share(video_id) < TEST_SHARE else "train"


def hash_share(text: str) -> float:
    """Map a name to [0, 1), the same on every machine."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
