"""Run shard tasks on Ray: a local Ray where no cluster is given, else the cluster at an address.

One actor is one slot of one CPU (or of a share of a GPU). An actor or node that dies costs only the shard
that it had in hand: the shard is given to a new actor.
"""

import importlib.util
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.runners.local import MAX_TRIES, worker_environment
from pipeline.shard_task import ShardReport, ShardTask, make_shard
from stin.shards.errors import StinPipeError


def ray_installed() -> bool:
    """Tell whether ray can be imported, without importing it."""
    return importlib.util.find_spec("ray") is not None


def run_ray(
    tasks: Sequence[ShardTask],
    *,
    num_workers: int | None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    poll_s: float = 1.0,
) -> Iterator[ShardReport | None]:
    """Yield a report for each shard as it is finished, and None every `poll_s` seconds in between.

    Args:
        tasks: the shards to make.
        num_workers: slots; None is one for each CPU of the cluster.
        address: of an existing cluster; None starts Ray on this machine.
        gpus_per_worker: share of a GPU that each slot asks for.
        poll_s: longest silence.

    Raises:
        StinPipeError: no cluster at the address, resources that it does not have, or a shard on which
            workers died again and again.
    """
    import ray

    _connect(ray, address, num_workers, gpus_per_worker)
    try:
        slots = _count_slots(ray, num_workers, gpus_per_worker, len(tasks))
        yield from _drive(ray, tasks, slots, gpus_per_worker, poll_s)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, num_workers: int | None, gpus_per_worker: float) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handler = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    if address:
        options = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    else:
        options["num_cpus"] = num_workers or os.cpu_count()
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = f"no Ray cluster at {address}" if address else "Ray does not start on this machine"
        raise StinPipeError(f"{place}: {error}; check --address, or use --runner local") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # ray.init puts its own in place


def _count_slots(ray: Any, num_workers: int | None, gpus_per_worker: float, num_tasks: int) -> int:
    """Return how many actors to start; refuse what the cluster can never give."""
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
    if gpus_per_worker and gpus < gpus_per_worker:
        raise StinPipeError(
            f"--flow cuda needs {gpus_per_worker:g} GPU a worker, but the Ray cluster has {gpus:g}; "
            "use --flow cpu, or a cluster with GPUs"
        )
    if cpus < 1:
        raise StinPipeError("the Ray cluster has no CPU to work on; check its nodes with `ray status`")
    most = min(cpus, int(gpus / gpus_per_worker)) if gpus_per_worker else cpus
    return max(1, min(num_workers or most, most, num_tasks))


def _drive(
    ray: Any, tasks: Sequence[ShardTask], num_slots: int, gpus_per_worker: float, poll_s: float
) -> Iterator[ShardReport | None]:
    """Keep every slot at work on one shard at a time."""
    slot_type = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(_Slot)
    waiting = list(reversed(tasks))
    tries = dict.fromkeys((task.shard.name for task in tasks), 0)
    in_hand: dict[Any, tuple[Any, ShardTask]] = {}
    idle = [slot_type.remote() for _ in range(num_slots)]
    while waiting or in_hand:
        while waiting and idle:
            slot, task = idle.pop(), waiting.pop()
            in_hand[slot.make.remote(task)] = (slot, task)
        finished, _ = ray.wait(list(in_hand), num_returns=1, timeout=poll_s)
        if not finished:
            yield None
        for reference in finished:
            slot, task = in_hand.pop(reference)
            try:
                report = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                tries[task.shard.name] += 1
                if tries[task.shard.name] >= MAX_TRIES:
                    raise _died(task, error) from error
                waiting.append(task)
                idle.append(slot_type.remote())
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else _died(task, error) from error
            idle.append(slot)
            yield report


def _died(task: ShardTask, error: Exception) -> StinPipeError:
    return StinPipeError(
        f"shard {task.shard.name}: its worker died {MAX_TRIES} times ({str(error).splitlines()[0][:200]}); "
        "what is finished is kept, the same command resumes"
    )


class _Slot:
    """An actor: one CPU slot that makes shards one after another."""

    def __init__(self) -> None:
        worker_environment()

    def make(self, task: ShardTask) -> ShardReport:
        return make_shard(task)
