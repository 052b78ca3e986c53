"""How much a network computes."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from stin_pipe.stin.network.streams import SpatialConfig, build_stream
from stin_pipe.stin.training.config import TrainConfig


def flops_per_sample(config: TrainConfig, *, num_classes: int) -> int:
    """Return the floating point operations of one forward pass of one sample, K clips at training size.

    A multiplication and an addition count as two; convolutions and matrix products are counted, the rest is
    small beside them. Nothing is computed: the network is built without memory for its weights.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        network = build_stream(config.stream, num_classes=num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(sample_like(config))
    return int(counter.get_total_flops())


def sample_like(config: TrainConfig) -> torch.Tensor:
    """Return one sample (1, K, C, h, w) of undecided values, of the size that the network trains on."""
    stream = config.stream
    channels = 3 if isinstance(stream, SpatialConfig) else 2 * stream.stack_len
    size_px = config.augment.crop_px
    return torch.empty(1, config.num_segments, channels, size_px, size_px)
