"""What two streams say of one video."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stin_pipe.stin.results.analysis import NUM_LIKELIEST, Answers, likeliest
from stin_pipe.stin.scoring.fusion import FUSED
from stin_pipe.stin.scoring.motion import LEAST_MOVING, Motion
from stin_pipe.workflows.prediction.fusion_choice import FusionChoice


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """What a model says of one video.

    Attributes:
        source: path of the video, or ``frames`` for frames in memory.
        num_frames: frames that were stored of it.
        classes: class names by label.
        answers: of ``spatial``, ``temporal`` and ``fused``, as far as model and video have them: scores and
            log probabilities, one row each.
        fusion: how the streams were fused, or None.
        motion: how much moves; None where no flow was made.
        stack_len: flow fields that the temporal stream looks at as one clip.
        notes: what decoding had to say where the video is damaged in part, else None.
        overlay: path of its overlay, where one was written.
    """

    source: str
    num_frames: int
    classes: tuple[str, ...]
    answers: Mapping[str, Answers]
    fusion: FusionChoice | None
    motion: Motion | None
    stack_len: int
    notes: Mapping[str, Any] | None = None
    overlay: str | None = None

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {probability:.3f}" for name, probability in self.top(3))
        return f"<Prediction of {self.source}: {best}>"

    @property
    def decisive(self) -> str:
        """Name of what decides: ``fused``, or the only stream there is."""
        return FUSED if FUSED in self.answers else next(iter(self.answers))

    @property
    def by_stream(self) -> dict[str, np.ndarray]:
        """Probability of each class by stream, float64 (C,) each, ``fused`` among them."""
        return {name: np.exp(answers.log_probabilities[0]) for name, answers in self.answers.items()}

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each class, float64 (C,): fused, or those of the only stream."""
        return self.by_stream[self.decisive]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top(1)[0][0]

    def top(self, k: int = NUM_LIKELIEST) -> list[tuple[str, float]]:
        """Return the `k` likeliest classes with their probabilities, likeliest first.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        order = np.argsort(-self.answers[self.decisive].scores[0], kind="stable")[:k]
        return [(self.classes[label], float(self.probabilities[label])) for label in order]

    @property
    def too_little_motion(self) -> bool:
        """Whether so little moves, or frames are so few, that the temporal stream's answer is a guess."""
        motion = self.motion
        return motion is not None and (
            motion.num_fields < self.stack_len or motion.moving_share < LEAST_MOVING
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: the five likeliest classes of each stream, and only what there is."""
        value = {
            "video": self.source,
            "num_frames": self.num_frames,
            **{name: likeliest(answers, 0, self.classes) for name, answers in self.answers.items()},
            "fusion": self.fusion and self.fusion.to_json(),
            "motion": self.motion and self.motion.to_json(stack_len=self.stack_len),
            "overlay": self.overlay,
            "notes": None if self.notes is None else dict(self.notes),
        }
        return {key: item for key, item in value.items() if item is not None}
