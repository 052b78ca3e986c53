"""Accuracy on the held-out part of the training list, measured while a stream trains."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from stin_pipe.stin.clips.dataset import ScoringClips, network_input
from stin_pipe.stin.clips.loader import batches_of, scoring_loader
from stin_pipe.stin.clips.read_clips import ClipShape, ClipSource
from stin_pipe.stin.device import autocast, resolve_amp
from stin_pipe.stin.network.streams import StreamOutput, stream_scores
from stin_pipe.stin.training.learner import Learner


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Accuracy on held-out videos, each seen in one centre crop of K segments."""

    top1: float
    """Accuracy of the stream's score, which is fused later."""
    main_top1: float
    aux_top1: float | None
    loss: float

    def metrics(self) -> dict[str, float | None]:
        """Return the values of a line of metrics.jsonl."""
        return {
            "top1": self.top1,
            "main_top1": self.main_top1,
            "aux_top1": self.aux_top1,
            "loss": self.loss,
        }


def validate(
    learner: Learner, videos: Sequence[ClipShape], source: ClipSource, *, batch_size: int, num_workers: int
) -> ValidationResult:
    """Score held-out videos with the weights that would be exported now; each process scores its part.

    Raises:
        StinPipeError: if a video cannot be read; the same error in all processes.
    """
    config = learner.config
    clips = ScoringClips(
        learner.ranks.part(videos),
        source,
        stream=config.stream,
        crop_px=config.augment.crop_px,
        num_segments=config.num_segments,
        num_crops=1,
        flip=False,
    )

    own = learner.ranks.together(
        lambda: _count(learner, clips, batch_size=batch_size, num_workers=num_workers)
    )
    right_top1, right_main, right_aux, num_aux, loss_sum = learner.ranks.sums(own)
    return ValidationResult(
        top1=right_top1 / len(videos),
        main_top1=right_main / len(videos),
        aux_top1=right_aux / len(videos) if num_aux else None,
        loss=loss_sum / len(videos),
    )


@torch.inference_mode()
def _count(learner: Learner, clips: ScoringClips, *, batch_size: int, num_workers: int) -> list[float]:
    """Return sums over the clips: correct answers of the stream, of its main and its auxiliary head, answers
    of the auxiliary head, and losses."""
    config = learner.config
    learner.network.eval()
    weights = dict(learner.final_weights())
    right_top1 = right_main = right_aux = num_aux = 0
    loss_sum = 0.0

    loader = scoring_loader(clips, batch_size=batch_size, num_workers=num_workers, pin_memory=False)
    for batch in batches_of(loader):
        inputs = network_input(
            batch, stream=config.stream, bound_px=learner.bound_px, device=learner.device
        ).squeeze(1)
        with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
            output: StreamOutput = functional_call(learner.network, weights, (inputs,))

        scores = stream_scores(output, aux_at_test=config.stream.aux_at_test).float().cpu()
        right_top1 += int((scores.argmax(1) == batch.labels).sum())
        right_main += int((output.logits.float().cpu().argmax(1) == batch.labels).sum())
        if output.aux_logits is not None:
            num_aux += len(batch.labels)
            right_aux += int((output.aux_logits.float().cpu().argmax(1) == batch.labels).sum())
        loss_sum += nn.functional.cross_entropy(
            output.logits.float().cpu(), batch.labels, reduction="sum"
        ).item()
    return [right_top1, right_main, right_aux, num_aux, loss_sum]
