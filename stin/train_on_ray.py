"""Train a stream with several processes on one machine or many, started and watched by Ray Train.

Each process runs the loop of ``train``. Ray places the processes, joins them (gloo on CPUs, NCCL on GPUs) and
starts them again when one dies; they then continue from the last checkpoint. Events and the request to stop
travel through small files in ``out_dir/launch``, which all nodes share with the run.
"""

import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stin_pipe.stin.device import Runtime
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.processes.ray_session import cluster_address, ray_session
from stin_pipe.stin.processes.worker_start import cannot_start
from stin_pipe.stin.shards.errors import StinPipeError, first_line
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import train_stream
from stin_pipe.stin.training.config import TrainConfig
from stin_pipe.stin.training.interrupt import Interrupted, StopSignal
from stin_pipe.stin.training.launch_files import EventReader, EventWriter, LaunchFolder
from stin_pipe.stin.training.ranks import BACKEND_CPU, BACKEND_GPU
from stin_pipe.stin.training.report import OnProgress, TrainResult

LAUNCH_FOLDER = "launch"
MAX_FAILURES = 3
"""Deaths of a worker that a training survives; the workers then start again from the last checkpoint."""
POLL_S = 0.3
ORDERLY_END_S = 10.0
"""Time for Ray to end by itself once the training has ended."""
END_GRACE_S = 120.0
"""Time for the workers to write a checkpoint and end once they are asked to stop."""


@dataclass(frozen=True, kw_only=True)
class WorkerCount:
    """How many processes train: as many as the cluster has room for, from ``least`` to ``most``."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"train workers must be N or MIN-MAX with 1 <= MIN <= MAX, got {self}")

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


def train_on_ray(
    config: TrainConfig,
    *,
    num_workers: WorkerCount,
    address: str | None,
    manifest: Manifest,
    extract_dir: Path,
    out_dir: Path,
    split: str,
    runtime: Runtime,
    extraction: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda _event: None,
    handle_signals: bool = True,
) -> TrainResult:
    """Train a stream as ``train_stream`` does, with several processes.

    Args:
        config: see ``train_stream``, as are those not named here.
        num_workers: processes; each takes its part of every batch, so their number does not change the batch.
        address: of a Ray cluster, ``auto`` for the one of this machine; None starts Ray here.
        manifest: the run's videos.
        extract_dir: on a path that all nodes share, like ``out_dir``.
        out_dir: folder of the training.
        split: the split whose training list is used.
        runtime: ``device`` cpu keeps the workers off GPUs.
        extraction: settings that the model file keeps.
        on_progress: called in this process, about once a second.
        handle_signals: see ``train_stream``.

    Raises:
        StinPipeError: if Ray Train is not installed, the cluster is too small, or the training fails.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint written.
    """
    _require_ray_train()
    out_dir = Path(out_dir).absolute()
    folder = LaunchFolder(path=out_dir / LAUNCH_FOLDER)
    shutil.rmtree(folder.path, ignore_errors=True)  # left by a launch that was killed
    folder.path.mkdir(parents=True)

    task = _Task(
        config=replace(config, init=str(Path(config.init).absolute()) if config.init else ""),
        manifest=manifest,
        extract_dir=Path(extract_dir).absolute(),
        out_dir=out_dir,
        split=split,
        runtime=runtime,
        extraction=dict(extraction or {}),
        num_threads=int(os.environ.get("OMP_NUM_THREADS", "0")),
    )
    # More workers than cores are slow, but with fewer CPUs than workers Ray would wait for ever.
    num_cpus = max(num_workers.most, usable_cpus())
    try:
        with ray_session(cluster_address(address), num_cpus=num_cpus, advice="check --address") as ray:
            trainer = _trainer(num_workers, task, use_gpu=_place(ray, num_workers, runtime))
            return _watch(trainer, folder, on_progress, handle_signals=handle_signals)
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What each process gets to work with."""

    config: TrainConfig
    manifest: Manifest
    extract_dir: Path
    out_dir: Path
    split: str
    runtime: Runtime
    extraction: dict[str, Any]
    num_threads: int
    """Threads of each process on CPUs; 0 divides the cores of the machine among its processes."""

    @property
    def folder(self) -> LaunchFolder:
        """Files through which the launching process and its workers talk."""
        return LaunchFolder(path=self.out_dir / LAUNCH_FOLDER)


def _work(settings: dict[str, Any]) -> None:
    """Train in one process, and write down how the training ended unless the process was killed."""
    task: _Task = settings["task"]
    if task.folder.outcome.exists():
        return  # Ray starts all processes again when one ended alone; the training is over

    local_count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(task.num_threads or max(1, usable_cpus() // local_count))
    try:
        result = train_stream(
            task.config,
            manifest=task.manifest,
            extract_dir=task.extract_dir,
            out_dir=task.out_dir,
            split=task.split,
            runtime=task.runtime,
            extraction=task.extraction,
            on_progress=EventWriter(task.folder).write,
            stop_file=task.folder.stop,
        )
        task.folder.leave_outcome(result)
    except Interrupted as stop:
        task.folder.leave_outcome(stop)
    except (StinPipeError, ValueError) as error:
        task.folder.leave_outcome(error)
        raise  # the others may be waiting for this process; Ray ends them


def _watch(
    trainer: Any, folder: LaunchFolder, on_progress: OnProgress, *, handle_signals: bool
) -> TrainResult:
    """Let Ray train in a thread, pass events on to the caller and a signal to the workers."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that is waited on
            failure.append(error)

    # Called from the main thread, Ray would install its own signal handlers.
    thread = threading.Thread(target=fit, daemon=True)
    reader = EventReader(folder, on_progress)
    stop_at, end_at = 0.0, 0.0  # when the workers were asked to stop, and when one of them ended the training
    with StopSignal(handle_signals=handle_signals) as stop:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            reader.pump()

            if folder.outcome.exists():
                end_at = end_at or time.monotonic()
                if time.monotonic() - end_at > ORDERLY_END_S:
                    break  # one process may have ended alone while the others wait for it

            if stop.received and not stop_at:
                stop_at = time.monotonic()
                folder.ask_to_stop(stop.received)
            if stop_at and time.monotonic() - stop_at > END_GRACE_S:
                raise Interrupted(stop.received, step=reader.last_step)

    reader.pump()
    if folder.outcome.exists():
        return folder.read_outcome()
    if failure and not reader.num_starts:
        raise cannot_start(str(failure[0])) from failure[0]
    raise StinPipeError(
        f"the train workers failed {MAX_FAILURES + 1} times "
        f"({first_line(failure[0]) if failure else 'no reason is known'}); "
        "what is finished is kept, the same command resumes after the last checkpoint"
    ) from (failure[0] if failure else None)


def _require_ray_train() -> None:
    missing = [name for name in ("ray", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise StinPipeError(
            f"--train-workers needs Ray Train, and {', '.join(missing)} is not installed; "
            'pip install "stin-pipe[cluster]", or start the command with torchrun'
        )
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")


def _place(ray: Any, num_workers: WorkerCount, runtime: Runtime) -> bool:
    """Decide whether the workers use GPUs, and refuse what the cluster can never give."""
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    use_gpu = runtime.device != "cpu" and (gpus > 0 or runtime.device != "auto")
    count, what = (gpus, "GPUs") if use_gpu else (cpus, "CPUs")
    if count < num_workers.least:
        raise StinPipeError(
            f"--train-workers {num_workers} needs {num_workers.least} {what}, the Ray cluster has {count}; "
            "lower it, or add nodes"
        )
    return use_gpu


def _trainer(num_workers: WorkerCount, task: _Task, *, use_gpu: bool) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    if not use_gpu:  # `auto` on a worker would take a GPU that Ray has not reserved for it
        task = replace(task, runtime=replace(task.runtime, device="cpu"))

    elastic = num_workers.least < num_workers.most
    try:
        scaling = ScalingConfig(
            num_workers=(num_workers.least, num_workers.most) if elastic else num_workers.most,  # pyright: ignore[reportArgumentType]
            use_gpu=use_gpu,
        )
    except (TypeError, ValueError) as error:
        raise StinPipeError(
            f"--train-workers {num_workers}: this Ray cannot change the number of workers while it trains "
            f"({first_line(error)}); give one number, or update ray"
        ) from error

    return TorchTrainer(
        _work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend=BACKEND_GPU if use_gpu else BACKEND_CPU),
        scaling_config=scaling,
        run_config=RunConfig(
            name="ray",
            storage_path=str(task.folder.path),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
