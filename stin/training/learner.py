"""A network, its optimiser, and what else changes as it learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from stin_pipe.stin.device import Runtime, resolve_amp
from stin_pipe.stin.network.config import SpatialConfig
from stin_pipe.stin.network.streams import Stream, StreamOutput, build_stream
from stin_pipe.stin.network.weights import start_from
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.config import TrainConfig
from stin_pipe.stin.training.optim import AveragedWeights, build_optimizer, stream_loss
from stin_pipe.stin.training.ranks import Ranks

SAFE_CHANNELS = 16
"""Channels of a strided 1x1 convolution with which no crash was seen."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A network and what changes with it from step to step."""

    config: TrainConfig
    network: Stream
    forward: Callable[..., StreamOutput]
    """The network as training calls it: itself, compiled, or wrapped by ``joined``."""
    joined: DistributedDataParallel | None
    """Averages the gradients of several processes; None for one."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    device: torch.device
    runtime: Runtime
    bound_px: float
    ranks: Ranks
    flops_per_sample: int
    """See ``flops_per_sample``."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, with frozen ones."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def final_weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights that are validated and exported: the averaged ones, if weights are averaged."""
        return self.average.values if self.average else self.network.state_dict()

    def require_finite_weights(self, *, step: int) -> None:
        """Refuse weights that are not finite, which no further step can repair.

        Raises:
            StinPipeError: names the step and the first of these weights.
        """
        named = [*self.network.state_dict().items(), *(self.average.values if self.average else {}).items()]
        finite = torch.stack([torch.isfinite(value).all() for _, value in named]).tolist()
        if not all(finite):
            raise StinPipeError(
                f"step {step}: weights are no longer finite ({named[finite.index(False)][0]}). "
                "The last checkpoint is kept; lower --lr"
            )


def build_learner(
    config: TrainConfig,
    *,
    num_classes: int,
    bound_px: float,
    runtime: Runtime,
    device: torch.device,
    notify: Callable[[str], None],
    load_init: bool,
    ranks: Ranks,
) -> Learner:
    """Build network and optimiser from the configuration's seed.

    Args:
        config: complete configuration.
        num_classes: classes of the run.
        bound_px: see ``transforms.normalise_flow``.
        runtime: for mixed precision, memory layout and compilation.
        device: resolved device.
        notify: called with what of the ``init`` file was left out.
        load_init: whether to read ``config.init``; a resumed training has its weights from the checkpoint.
        ranks: the processes that train together.

    Raises:
        StinPipeError: if the ``init`` file does not fit.
    """
    torch.manual_seed(config.seed)
    network = build_stream(config.stream, num_classes=num_classes)

    if config.init and load_init:
        for message in start_from(network, Path(config.init)):
            notify(message)
    if _freezes_norms(config):
        for norm in _frozen_norms(network):
            norm.requires_grad_(False)

    flops = flops_per_sample(network, config)
    network = network.to(device)
    if runtime.channels_last and not _is_narrow(network, device):
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    # Before the join, which freezes parameters: a checkpoint must fit any number of processes.
    optimizer = build_optimizer(network, config.optim)
    joined = _join_gradients(network, config, device) if ranks.count > 1 else None
    decay = config.optim.ema_decay

    return Learner(
        config=config,
        network=network,
        forward=torch.compile(joined or network) if runtime.compile else joined or network,
        joined=joined,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=resolve_amp(runtime.amp, device) == "fp16"),
        average=AveragedWeights(network, decay=decay) if decay else None,
        device=device,
        runtime=runtime,
        bound_px=bound_px,
        ranks=ranks,
        flops_per_sample=flops,
    )


def require_enough_values(learner: Learner, *, num_samples: int) -> None:
    """Refuse parts of a batch in which a batch norm would see one value a channel.

    Args:
        learner: what is going to learn.
        num_samples: samples of the smallest part that the network runs at once.

    Raises:
        StinPipeError: says what to raise.
    """
    if num_samples > 1:
        return
    config = learner.config
    training_mode(learner)
    try:
        with torch.no_grad():
            _dry_forward(learner.network, _weightless(learner.network), config)
    except ValueError as error:
        raise StinPipeError(
            f"{config.num_segments} segments of {config.augment.crop_px} px of a single video are too "
            "little for a batch norm; raise --batch-size or --segments, or lower --accumulate or "
            "--train-workers"
        ) from error


def flops_per_sample(network: Stream, config: TrainConfig) -> int:
    """Return the floating point operations of one forward pass of one sample, K clips at training size.

    A multiplication and an addition count as two; convolutions and matrix products are counted, the rest is
    small beside them. Nothing is computed.
    """
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _dry_forward(network, _weightless(network), config)
    return int(counter.get_total_flops())


def _is_narrow(network: nn.Module, device: torch.device) -> bool:
    """Whether channels_last may crash: with AVX-512, oneDNN writes past its memory in narrow shortcuts."""
    return device.type == "cpu" and any(
        module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels < SAFE_CHANNELS
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    )


def _join_gradients(network: Stream, config: TrainConfig, device: torch.device) -> DistributedDataParallel:
    # DistributedDataParallel waits for a gradient of every parameter that could have one, and an auxiliary
    # head of weight zero never gets any. A backward pass without values tells which.
    network.train()
    weights = _weightless(network)

    output = _dry_forward(network, weights, config)
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    stream_loss(output, label, aux_weight=config.stream.aux_weight).total.backward()
    for name, parameter in network.named_parameters():
        if weights[name].grad is None:
            parameter.requires_grad_(False)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _weightless(network: Stream) -> dict[str, torch.Tensor]:
    """Return the network's weights without their values, so that a pass takes neither time nor memory."""
    return {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        for name, value in network.state_dict(keep_vars=True).items()
    }


def _dry_forward(network: Stream, weights: dict[str, torch.Tensor], config: TrainConfig) -> StreamOutput:
    """Pass one sample of undecided values through the network with these weights."""
    stream = config.stream
    channels = 3 if isinstance(stream, SpatialConfig) else 2 * stream.stack_len
    size_px = config.augment.crop_px
    sample_BKCHW = torch.empty(1, config.num_segments, channels, size_px, size_px, device="meta")
    with torch.random.fork_rng(devices=[]):  # dropout must not move the generator of the training
        return functional_call(network, weights, (sample_BKCHW,))


def training_mode(learner: Learner) -> None:
    """Put the network into training mode, except for the frozen norms."""
    learner.network.train()
    if _freezes_norms(learner.config):
        for norm in _frozen_norms(learner.network):
            norm.eval()


def _freezes_norms(config: TrainConfig) -> bool:
    return config.partial_bn and bool(config.init)


def _frozen_norms(network: Stream) -> list[nn.BatchNorm2d]:
    # All but the first of the backbone (TSN); the norms of the STIN modules are new and have to learn.
    return [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)][1:]
