"""The loss of a stream: cross-entropy of the main head plus the weighted one of the auxiliary head."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from stin_pipe.stin.network.streams import StreamOutput


@dataclass(frozen=True, kw_only=True)
class StreamLoss:
    """The parts of a stream's loss; ``total`` is what is descended."""

    total: torch.Tensor
    main: torch.Tensor
    aux: torch.Tensor | None


def stream_loss(
    output: StreamOutput, labels_B: torch.Tensor, *, aux_weight: float, label_smoothing: float = 0.0
) -> StreamLoss:
    """Return L = CE(main, y) + aux_weight * CE(aux, y), each the mean over the samples.

    Source: our reconstruction of STIN's "auxiliary losses"; weight 0.5 lies between OFF (1) and GoogLeNet
    (0.3).
    """
    main = functional.cross_entropy(output.logits.float(), labels_B, label_smoothing=label_smoothing)
    if output.aux_logits is None:
        return StreamLoss(total=main, main=main, aux=None)
    aux = functional.cross_entropy(output.aux_logits.float(), labels_B, label_smoothing=label_smoothing)
    # At weight zero the auxiliary loss is left out, not multiplied: a NaN there must not reach the main head.
    total = main if aux_weight == 0 else main + aux_weight * aux
    return StreamLoss(total=total, main=main, aux=aux)
