"""The share of the auxiliary head in a stream's score; free of torch, so that score files need none."""

from typing import Any, TypeVar

from stin_pipe.stin.shards.errors import StinPipeError

Logits = TypeVar("Logits", bound=Any)
"""A torch tensor or a numpy array."""
MAX_AUX_SHARE = 1e6
"""Far beyond any use, and far from what overflows."""


def with_auxiliary(main: Logits, aux: Logits | None, *, share: float) -> Logits:
    """Return the score of a stream: the main logits plus `share` times the auxiliary ones.

    Args:
        main: logits of the main head, any shape.
        aux: logits of the auxiliary head; None in a plain stream, whose score is `main`.
        share: 0 leaves the auxiliary head out.

    Raises:
        StinPipeError: for a share that would overflow every score.
    """
    if not abs(share) <= MAX_AUX_SHARE:
        raise StinPipeError(
            f"the auxiliary scores' share (--aux) must be a number up to {MAX_AUX_SHARE:g}, got {share:g}"
        )
    return main if aux is None or share == 0 else main + share * aux
