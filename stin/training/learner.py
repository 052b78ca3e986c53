"""A network and everything that changes with it as it learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stin_pipe.stin.device import Runtime, resolve_amp
from stin_pipe.stin.network.flops import sample_like
from stin_pipe.stin.network.streams import Stream, StreamOutput, build_stream
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.training.config import TrainConfig
from stin_pipe.stin.training.losses import stream_loss
from stin_pipe.stin.training.optim import AveragedWeights, build_optimizer
from stin_pipe.stin.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A network and everything that changes with it from step to step."""

    config: TrainConfig
    network: Stream
    forward: Callable[..., StreamOutput]
    """The network as it is called in training: itself, or compiled, or one whose gradients are joined."""
    joined: DistributedDataParallel | None
    """What joins the gradients of several processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    device: torch.device
    runtime: Runtime
    bound_px: float
    ranks: Ranks

    @property
    def num_parameters(self) -> int:
        """How many numbers the network learns or keeps frozen."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def final_weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights that are validated and exported: the averaged ones where there are such."""
        return self.average.values if self.average else self.network.state_dict()

    def require_finite_weights(self, *, step: int) -> None:
        """Refuse weights that no further step can mend.

        Raises:
            StinPipeError: names the step and the first weights that are not finite.
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
        notify: told what of the ``init`` file was left out.
        load_init: whether to read ``config.init``; a resumed training has its weights from the checkpoint.
        ranks: the processes that train together.

    Raises:
        StinPipeError: if the ``init`` file does not fit.
    """
    torch.manual_seed(config.seed)
    network = build_stream(config.stream, num_classes=num_classes)
    if config.init and load_init:
        from stin_pipe.stin.network.weights import (
            start_from,  # needs safetensors, which training from scratch does not
        )

        for message in start_from(network, Path(config.init)):
            notify(message)
    if _freezes_norms(config):
        for norm in _frozen_norms(network):
            norm.requires_grad_(False)
    network = network.to(device)
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    amp = resolve_amp(runtime.amp, device)
    decay = config.optim.ema_decay
    optimizer = build_optimizer(network, config.optim)
    joined = None
    if ranks.count > 1:
        # What joins the gradients waits for one of every parameter that could have one.
        for name in parameters_without_gradient(config, num_classes=num_classes):
            network.get_parameter(name).requires_grad_(False)
        joined = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    return Learner(
        config=config,
        network=network,
        forward=torch.compile(joined or network) if runtime.compile else joined or network,
        joined=joined,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=amp == "fp16"),
        average=AveragedWeights(network, decay=decay) if decay else None,
        device=device,
        runtime=runtime,
        bound_px=bound_px,
        ranks=ranks,
    )


def parameters_without_gradient(config: TrainConfig, *, num_classes: int) -> tuple[str, ...]:
    """Return the names of the parameters that the loss does not depend on, such as an auxiliary head's at
    weight zero; found by descending once from a network without memory for its weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build_stream(config.stream, num_classes=num_classes)
        loss = stream_loss(
            network(sample_like(config)),
            torch.zeros(1, dtype=torch.int64),
            aux_weight=config.stream.aux_weight,
        )
        loss.total.backward()
    return tuple(name for name, parameter in network.named_parameters() if parameter.grad is None)


def require_enough_values(config: TrainConfig, *, num_classes: int, num_samples: int) -> None:
    """Refuse parts of a batch in which a batch norm would see one value a channel.

    Args:
        config: complete configuration.
        num_classes: classes of the run.
        num_samples: samples of the smallest part that the network runs at once.

    Raises:
        StinPipeError: says what to raise.
    """
    if num_samples > 1:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        network = build_stream(config.stream, num_classes=num_classes).train()
        for norm in _frozen_norms(network) if _freezes_norms(config) else []:
            norm.eval()
        try:
            network(sample_like(config))
        except ValueError as error:
            raise StinPipeError(
                f"{config.num_segments} segments of {config.augment.crop_px} px of a single video are too "
                "little for a batch norm; raise --batch-size or --segments, or lower --accumulate or "
                "--train-workers"
            ) from error


def training_mode(learner: Learner) -> None:
    """Put the network into training, all but the norms that stay as they were."""
    learner.network.train()
    if _freezes_norms(learner.config):
        for norm in _frozen_norms(learner.network):
            norm.eval()


def _freezes_norms(config: TrainConfig) -> bool:
    return config.partial_bn and bool(config.init)


def _frozen_norms(network: Stream) -> list[nn.BatchNorm2d]:
    # All but the first of the backbone; the norms of the STIN modules are new and have to learn.
    return [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)][1:]
