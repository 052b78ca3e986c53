"""Which frames of a video are stored: all, every n-th, or by time for a given rate; none is stored twice.

Times are exact fractions: a float just below a half would choose another frame than ffmpeg's filter `fps`
does, which chose them in earlier versions and agrees wherever the source has frames enough.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

EVEN = Fraction(1, 10)
"""Largest difference of a field's span from that of the rate, as a part of it, that counts as even."""

SAME_RATE = 0.02

Picture = TypeVar("Picture")


@dataclass(frozen=True, kw_only=True)
class Timed(Generic[Picture]):
    """A picture and when it is shown, in seconds."""

    picture: Picture
    at_s: Fraction


@dataclass(frozen=True, kw_only=True)
class Chosen(Generic[Picture]):
    """A picture to store, when it is shown, and the source's next picture, from which none may be stored."""

    picture: Picture
    at_s: Fraction
    following: Picture | None


@dataclass(kw_only=True)
class ChoiceNotes:
    """What a choice by time met.

    Attributes:
        num_chosen: pictures chosen.
        first_s, last_s: when the first and the last of them are shown.
        unfilled: pictures that the rate asks for and the source lacks; they are left out, not repeated.
        uneven: spans between two chosen pictures that differ from the rate's by more than a tenth.
    """

    num_chosen: int = 0
    first_s: Fraction = Fraction(0)
    last_s: Fraction = Fraction(0)
    unfilled: int = 0
    uneven: int = 0

    def rate(self, fps: float) -> float:
        """Return how many pictures a second were chosen: `fps`, unless the source has fewer."""
        if self.num_chosen < 2 or self.last_s <= self.first_s:
            return fps
        found = float((self.num_chosen - 1) / (self.last_s - self.first_s))
        return fps if abs(found / fps - 1) <= SAME_RATE else found


def every_nth(frames: Iterable[Timed[Picture]], stride: int) -> Iterator[Chosen[Picture]]:
    """Choose every `stride`-th picture."""
    for index, (frame, following) in enumerate(_with_next(frames)):
        if index % stride == 0:
            picture = following.picture if following else None
            yield Chosen(picture=frame.picture, at_s=frame.at_s, following=picture)


def by_time(
    frames: Iterable[Timed[Picture]],
    fps: float,
    notes: ChoiceNotes,
    *,
    repeat: bool = False,
    ends_s: Fraction | None = None,
) -> Iterator[Chosen[Picture]]:
    """Choose at most one picture for each tick of a clock of `fps`: the latest that has come by then.

    Times are rounded to the nearest tick. A tick without a picture of its own is passed over: repeated
    pictures would have flow of zero, which looks like no motion.

    Args:
        frames: in the order in which they are shown.
        fps: the rate.
        notes: filled on the way.
        repeat: show a picture again at ticks without one, as earlier versions did.
        ends_s: when the last picture ends; None takes it for as long as the one before.
    """
    rate = Fraction(f"{fps:g}")
    span = Fraction(1)
    for frame, following in _with_next(_forward(frames)):
        if following:
            span = following.at_s - frame.at_s
        end_s = following.at_s if following else frame.at_s + span if ends_s is None else ends_s
        num_ticks = _tick(end_s, rate) - _tick(frame.at_s, rate)
        # A video of one picture, or of pictures that all share a tick, still has that one.
        if num_ticks <= 0 and (following or notes.num_chosen):
            continue

        _note(notes, frame.at_s, rate, missing=max(0, num_ticks - 1) if following else 0)
        picture = following.picture if following else None
        for _ in range(max(1, num_ticks) if repeat else 1):
            yield Chosen(picture=frame.picture, at_s=frame.at_s, following=picture)


def _tick(at_s: Fraction, rate: Fraction) -> int:
    return math.floor(at_s * rate + Fraction(1, 2))


def _note(notes: ChoiceNotes, at_s: Fraction, rate: Fraction, *, missing: int) -> None:
    if notes.num_chosen:
        notes.uneven += abs((at_s - notes.last_s) * rate - 1) > EVEN
    else:
        notes.first_s = at_s
    notes.num_chosen += 1
    notes.last_s = at_s
    notes.unfilled += missing


def _with_next(frames: Iterable[Timed[Picture]]) -> Iterator[tuple[Timed[Picture], Timed[Picture] | None]]:
    previous: Timed[Picture] | None = None
    for frame in frames:
        if previous is not None:
            yield previous, frame
        previous = frame
    if previous is not None:
        yield previous, None


def _forward(frames: Iterable[Timed[Picture]]) -> Iterator[Timed[Picture]]:
    """Let time go on where a clock jumps back: else all pictures would wait until it catches up."""
    offset, last, span = Fraction(0), None, Fraction(0)
    for frame in frames:
        at_s = frame.at_s + offset
        if last is not None and at_s < last:
            offset += last + span - at_s
            at_s = last + span
        elif last is not None:
            span = at_s - last
        last = at_s
        yield Timed(picture=frame.picture, at_s=at_s)
