"""Where and how fast a training or a scoring runs; nothing here changes what is computed."""

import resource
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.shards.errors import ArgumentError

Amp = Literal["auto", "off", "bf16", "fp16"]
MAX_LOADER_WORKERS = 12


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Settings that may differ between machines, and between a training and its resumption.

    Attributes:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        loader_workers: processes that read shards; None takes none on a CPU, whose cores run the network, and
            up to 12 on a GPU.
        amp: mixed precision; ``auto`` is bf16 on a GPU that has it and off elsewhere.
        checkpoint_every_s: seconds between checkpoints.
        checkpoint_every_steps: steps between further checkpoints; 0 for none.
        channels_last: memory layout of the network; 8-23 % faster on a CPU as well.
        compile: whether to use ``torch.compile``: a pause at the start, faster steps after it.
        tensorboard: whether event files are written.
    """

    device: str = "auto"
    loader_workers: int | None = None
    amp: Amp = "auto"
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int = 0
    channels_last: bool = True
    compile: bool = False
    tensorboard: bool = True


def choose_device(name: str, *, local_rank: int = 0, local_count: int = 1) -> torch.device:
    """Resolve ``auto``, and check that the device exists.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        local_rank: number of this process among those that train together on this machine, and so of its GPU
            if ``name`` has no number.
        local_count: number of these processes.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_count > 1:
        if local_count > torch.cuda.device_count():
            raise ValueError(
                f"{local_count} train workers on this machine need as many GPUs, torch sees "
                f"{torch.cuda.device_count()}; lower --train-workers, or train on cpu"
            )
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}", "device") from error
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}", "device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ArgumentError(
            f"device {name} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use cpu",
            "device",
        )
    return device


def loader_worker_count(wanted: int | None, device: torch.device, *, local_count: int = 1) -> int:
    """Return the loader workers of one of ``local_count`` networks that share this machine."""
    if wanted is not None:
        if wanted < 0:
            raise ValueError(f"loader_workers must be >= 0, got {wanted}")
        return wanted
    if device.type == "cpu":
        return 0
    return max(1, min(MAX_LOADER_WORKERS, (usable_cpus() - 2) // local_count))


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this process: of its GPU if it computes on one, else of its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resolve_amp(amp: Amp, device: torch.device) -> Literal["off", "bf16", "fp16"]:
    """Resolve ``auto``, and refuse what the device cannot do."""
    if amp == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "off"
    if amp == "fp16" and device.type == "cpu":
        raise ArgumentError("amp fp16 needs a GPU; on a CPU use off or bf16", "amp")
    return amp


def autocast(amp: Literal["off", "bf16", "fp16"], device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if amp == "bf16" else torch.float16)
