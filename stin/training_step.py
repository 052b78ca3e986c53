"""One step of training, one validation, and what both work on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

from stin.clips import ClipShape, ClipSource
from stin.config import TrainConfig
from stin.dataset import Batch, ScoringClips, network_input
from stin.device import Runtime, autocast, resolve_amp
from stin.loader import batches_of, scoring_loader
from stin.losses import stream_loss
from stin.optim import AveragedWeights, build_optimizer, learning_rate
from stin.shards.errors import StinPipeError
from stin.streams import Stream, StreamOutput, build_stream, stream_scores
from stin.weights import start_from

MAX_LISTED_VIDEOS = 8


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A network and everything that changes with it from step to step."""

    config: TrainConfig
    network: Stream
    forward: Callable[..., StreamOutput]
    """The network as it is called in training: itself, or compiled."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    device: torch.device
    runtime: Runtime
    bound_px: float

    def final_weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights that are validated and exported: the averaged ones where there are such."""
        return self.average.values if self.average else self.network.state_dict()


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The numbers of one step, as the loss was before it."""

    loss: float
    main_loss: float
    aux_loss: float | None
    grad_norm: float
    lr: float

    def metrics(self) -> dict[str, float | None]:
        """Return what metrics.jsonl keeps."""
        return {
            "loss": self.loss,
            "main_loss": self.main_loss,
            "aux_loss": self.aux_loss,
            "grad_norm": self.grad_norm,
            "lr": self.lr,
        }


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """How the stream does on held-out videos, one centre crop of K segments each."""

    top1: float
    """Of the stream's score, as it is fused later."""
    main_top1: float
    aux_top1: float | None
    loss: float

    def metrics(self) -> dict[str, float | None]:
        """Return what metrics.jsonl keeps."""
        return {
            "top1": self.top1,
            "main_top1": self.main_top1,
            "aux_top1": self.aux_top1,
            "loss": self.loss,
        }


def build_learner(
    config: TrainConfig,
    *,
    num_classes: int,
    bound_px: float,
    runtime: Runtime,
    device: torch.device,
    notify: Callable[[str], None],
    load_init: bool,
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
    network = network.to(device)
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    amp = resolve_amp(runtime.amp, device)
    decay = config.optim.ema_decay
    return Learner(
        config=config,
        network=network,
        forward=torch.compile(network) if runtime.compile else network,
        optimizer=build_optimizer(network, config.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == "fp16"),
        average=AveragedWeights(network, decay=decay) if decay else None,
        device=device,
        runtime=runtime,
        bound_px=bound_px,
    )


def train_step(learner: Learner, batch: Batch, *, step: int, total_steps: int) -> StepReport:
    """Descend the loss of one batch; ``step`` is 0-based.

    Raises:
        StinPipeError: if the loss or its gradient is not finite (before any weight is touched), naming the
            step and the batch's videos; if the GPU's memory does not suffice.
    """
    config, optimizer, scaler = learner.config.optim, learner.optimizer, learner.scaler
    rate = learning_rate(config, step=step, total_steps=total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    _training_mode(learner)
    optimizer.zero_grad(set_to_none=True)
    totals = {"loss": 0.0, "main": 0.0, "aux": 0.0}
    has_aux = False
    try:
        clips = network_input(
            batch, stream=learner.config.stream, bound_px=learner.bound_px, device=learner.device
        )
        labels = batch.labels.to(learner.device, non_blocking=True)
        parts = min(config.accumulate, len(labels))
        for part_clips, part_labels in zip(
            clips.tensor_split(parts), labels.tensor_split(parts), strict=True
        ):
            share = len(part_labels) / len(labels)
            with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
                output = learner.forward(part_clips)
            loss = stream_loss(
                output,
                part_labels,
                aux_weight=learner.config.stream.aux_weight,
                label_smoothing=config.label_smoothing,
            )
            scaler.scale(loss.total * share).backward()
            totals["loss"] += loss.total.item() * share
            totals["main"] += loss.main.item() * share
            if loss.aux is not None:
                has_aux = True
                totals["aux"] += loss.aux.item() * share
    except torch.OutOfMemoryError as error:
        raise StinPipeError(
            f"out of GPU memory at step {step + 1} with {len(batch.ids)} samples of "
            f"{learner.config.num_segments} clips of {learner.config.augment.crop_px} px; "
            "lower --batch-size or raise --accumulate"
        ) from error
    scaler.unscale_(optimizer)
    limit = config.clip_norm if config.clip_norm > 0 else float("inf")
    norm = nn.utils.clip_grad_norm_(learner.network.parameters(), limit).item()
    # A scaler of fp16 expects gradients to overflow now and then, and skips that step itself.
    finite = totals["loss"] - totals["loss"] == 0 and (scaler.is_enabled() or norm - norm == 0)
    if not finite:
        raise StinPipeError(
            f"step {step + 1}: the loss is {totals['loss']} and its gradient's norm {norm}, which must be "
            f"finite; videos of this batch: {_listed(batch.ids)}. The last checkpoint is kept; lower "
            "--lr, or look at these videos"
        )
    scaler.step(optimizer)
    scaler.update()
    if learner.average is not None:
        learner.average.update(learner.network, step=step)
    return StepReport(
        loss=totals["loss"],
        main_loss=totals["main"],
        aux_loss=totals["aux"] if has_aux else None,
        grad_norm=norm,
        lr=rate,
    )


@torch.inference_mode()
def validate(
    learner: Learner, videos: Sequence[ClipShape], source: ClipSource, *, batch_size: int, num_workers: int
) -> ValidationResult:
    """Score held-out videos with the weights that would be exported now."""
    config = learner.config
    clips = ScoringClips(
        videos,
        source,
        stream=config.stream,
        crop_px=config.augment.crop_px,
        num_segments=config.num_segments,
        num_crops=1,
        flip=False,
    )
    learner.network.eval()
    weights = dict(learner.final_weights())
    right = {"top1": 0, "main": 0, "aux": 0}
    has_aux, loss_sum = False, 0.0
    loader = scoring_loader(clips, batch_size=batch_size, num_workers=num_workers, pin_memory=False)
    for batch in batches_of(loader):
        inputs = network_input(
            batch, stream=config.stream, bound_px=learner.bound_px, device=learner.device
        ).squeeze(1)
        with autocast(resolve_amp(learner.runtime.amp, learner.device), learner.device):
            output: StreamOutput = functional_call(learner.network, weights, (inputs,))
        scores = stream_scores(output, aux_at_test=config.stream.aux_at_test).float().cpu()
        right["top1"] += int((scores.argmax(1) == batch.labels).sum())
        right["main"] += int((output.logits.float().cpu().argmax(1) == batch.labels).sum())
        if output.aux_logits is not None:
            has_aux = True
            right["aux"] += int((output.aux_logits.float().cpu().argmax(1) == batch.labels).sum())
        loss_sum += nn.functional.cross_entropy(
            output.logits.float().cpu(), batch.labels, reduction="sum"
        ).item()
    return ValidationResult(
        top1=right["top1"] / len(videos),
        main_top1=right["main"] / len(videos),
        aux_top1=right["aux"] / len(videos) if has_aux else None,
        loss=loss_sum / len(videos),
    )


def _training_mode(learner: Learner) -> None:
    learner.network.train()
    if _freezes_norms(learner.config):
        for norm in _frozen_norms(learner.network):
            norm.eval()


def _freezes_norms(config: TrainConfig) -> bool:
    return config.partial_bn and bool(config.init)


def _frozen_norms(network: Stream) -> list[nn.BatchNorm2d]:
    # All but the first of the backbone; the norms of the STIN modules are new and have to learn.
    return [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)][1:]


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - MAX_LISTED_VIDEOS
    return ", ".join(ids[:MAX_LISTED_VIDEOS]) + (f" and {more} more" if more > 0 else "")
