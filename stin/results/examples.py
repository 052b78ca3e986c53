"""The telling videos of a list: the most confident answers, right and wrong, and where streams disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from stin_pipe.stin.results.analysis import Answers

VIDEOS_A_GROUP = 3


class Group(StrEnum):
    """What a video is an example of; a page shows them in this order."""

    WRONG = "wrong"
    APART = "apart"
    RIGHT = "right"


@dataclass(frozen=True, kw_only=True)
class StreamAnswer:
    """The most probable class of one stream, or of the fusion, for one video."""

    stream: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """One telling video, and what each stream answers."""

    id: str
    group: Group
    truth: str
    answers: tuple[StreamAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "id": self.id,
            "group": self.group,
            "truth": self.truth,
            "answers": {
                item.stream: {"class": item.name, "probability": item.probability} for item in self.answers
            },
        }


def find_examples(
    ids: Sequence[str],
    labels_N: np.ndarray,
    class_names: Sequence[str],
    answers: Sequence[Answers],
) -> tuple[Example, ...]:
    """Choose the videos of a list that tell most.

    Args:
        ids, labels_N: of the list.
        class_names: by label.
        answers: of each stream, and last of what decides: the fusion, or the stream that stands alone.

    Returns:
        Up to `VIDEOS_A_GROUP` videos a group, each video once. Disagreement is the total variation distance
        between the probabilities of the two streams that are furthest apart; only those count that answer
        different classes.
    """
    chosen = choose_rows(labels_N, {item.name: np.exp(item.log_probabilities) for item in answers})
    return tuple(
        Example(
            id=ids[row],
            group=group,
            truth=class_names[int(labels_N[row])],
            answers=tuple(_answer(item, row, class_names) for item in answers),
        )
        for row, group in chosen
    )


def choose_rows(labels_N: np.ndarray, shares: Mapping[str, np.ndarray]) -> list[tuple[int, Group]]:
    """Return the rows of the telling videos by group, from the probabilities (N, C) by stream; the last of
    these decides."""
    *streams, decisive = shares.values()
    guesses, confidence = decisive.argmax(1), decisive.max(1)
    right = guesses == labels_N

    apart = np.full(len(labels_N), -1.0)
    for number, first in enumerate(streams):
        for second in streams[number + 1 :]:
            distance = np.abs(first - second).sum(1) / 2
            apart = np.maximum(apart, np.where(first.argmax(1) != second.argmax(1), distance, -1.0))

    # A score below 0 keeps a video out of a group.
    scores = {
        Group.WRONG: np.where(~right, confidence, -1.0),
        Group.APART: apart,
        Group.RIGHT: np.where(right, confidence, -1.0),
    }
    taken: set[int] = set()
    chosen = []
    for group, score in scores.items():
        order = [int(row) for row in np.argsort(-score, kind="stable") if score[row] >= 0]
        rows = [row for row in order if row not in taken][:VIDEOS_A_GROUP]
        taken.update(rows)
        chosen += [(row, group) for row in rows]
    return chosen


def _answer(item: Answers, row: int, class_names: Sequence[str]) -> StreamAnswer:
    guess = int(item.scores[row].argmax())
    probability = float(np.exp(item.log_probabilities[row, guess]))
    return StreamAnswer(
        stream=item.name,
        name=class_names[guess],
        probability=probability,
    )
