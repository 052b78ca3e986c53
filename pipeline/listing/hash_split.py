"""A split for data sets without lists: by a hash of each name, so that it is stable when videos are added."""

import hashlib
from collections.abc import Iterable

from stin_pipe.stin.shards.schema import Subset

TEST_SHARE = 0.3
"""Share of each class that the hash split puts into the test list (HMDB51's 70/30)."""

HASH_SPLIT = "split 1 was made by a stable hash, 70 % train, 30 % test"
"""What a `split_source` says of such a split."""


def hash_split(ids: Iterable[str]) -> dict[str, Subset]:
    """Split the videos of one class by a hash of their id: stable when videos are added.

    A class of two or more has at least one video on each side.
    """
    ranked = sorted(ids, key=hash_share)
    sides: dict[str, Subset] = {video_id: hash_side(video_id) for video_id in ranked}
    if len(ranked) >= 2:
        sides[ranked[0]], sides[ranked[-1]] = "test", "train"
    return sides


def hash_side(video_id: str) -> Subset:
    """Return the side of the split that a video's hash says, whatever other videos there are."""
    return "test" if hash_share(video_id) < TEST_SHARE else "train"


def hash_share(text: str) -> float:
    """Map a name to [0, 1), the same on every machine."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
