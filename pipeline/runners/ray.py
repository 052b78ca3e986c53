"""Run shard tasks on Ray: a local Ray where no cluster is given, else the cluster at an address.

One actor is one slot of one CPU (or of a share of a GPU). An actor or node that dies costs only the shard
that it had in hand: the shard is given to a new actor.
"""

import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.preflight import begin_preflight, check_nodes, end_preflight, node_facts
from pipeline.runners.local import worker_environment
from pipeline.shard_task import MAX_TRIES, ShardReport, ShardTask, make_shard
from stin.shards.errors import StinPipeError

PREFLIGHT_S = 120.0
START_S = 600.0


def ray_installed() -> bool:
    """Tell whether ray can be imported, without importing it."""
    return importlib.util.find_spec("ray") is not None


def run_ray(
    tasks: Sequence[ShardTask],
    *,
    num_workers: int | None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    need_bytes: int = 0,
    warn: Callable[[str], None] = lambda _line: None,
    poll_s: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ShardReport | None]:
    """Yield a report for each shard as it is finished, and None every `poll_s` seconds in between.

    Args:
        tasks: the shards to make.
        num_workers: slots; None is one for each CPU of the cluster.
        address: of an existing cluster; None starts Ray on this machine.
        gpus_per_worker: share of a GPU that each slot asks for.
        need_bytes: disk that the shards will take, by estimate.
        warn: called with what a person should know.
        poll_s: longest silence.
        stop: when it becomes true, no further shard is begun.

    Raises:
        StinPipeError: no cluster at the address, a node that cannot work, resources that the cluster does
            not have, or a shard on which workers died again and again.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    _connect(ray, address, num_workers)
    try:
        if address:
            _look_at_nodes(ray, tasks, need_bytes, warn)
        yield from _drive(ray, tasks, _Slots(ray, num_workers, gpus_per_worker), poll_s, stop)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, num_workers: int | None) -> None:
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


def _look_at_nodes(
    ray: Any, tasks: Sequence[ShardTask], need_bytes: int, warn: Callable[[str], None]
) -> None:
    """Ask every node of the cluster what it sees, before any work."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    videos = (task.root / video.path for task in tasks for video in task.shard.videos)
    video = next((path for path in videos if path.exists()), None)
    asked = begin_preflight(tasks[0].extract_dir, video=video)
    try:
        answers = [
            ray.remote(num_cpus=0, max_retries=0)(node_facts)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(asked)
            for node in nodes
        ]
        check_nodes(ray.get(answers, timeout=PREFLIGHT_S), need_bytes=need_bytes, warn=warn)
    except ray.exceptions.GetTimeoutError as error:
        raise StinPipeError(
            f"a node of the Ray cluster did not answer within {PREFLIGHT_S:g} s; look at `ray status`"
        ) from error
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[-1][:200]
        raise StinPipeError(
            f"a node of the Ray cluster cannot run stin-pipe ({first}); install the same version on all nodes"
        ) from error
    finally:
        end_preflight(asked)


def _wanted_slots(ray: Any, num_workers: int | None, gpus_per_worker: float) -> int:
    """Return how many actors the cluster can hold now; refuse what it can never give."""
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
    return max(1, min(num_workers or most, most))


class _Slots:
    """The actors of a run: started while the cluster has room, replaced when they die.

    A new actor gets a shard only when it answers, so that one which waits for a lost node's CPU holds nothing
    back; and nodes that join while the work goes on are used.
    """

    def __init__(self, ray: Any, num_workers: int | None, gpus_per_worker: float) -> None:
        self._ray, self._num_workers, self._gpus = ray, num_workers, gpus_per_worker
        self._type = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(_Slot)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}  # reference of the first answer -> actor
        self.in_hand: dict[Any, tuple[Any, ShardTask]] = {}
        self._last_alive = time.monotonic()

    @property
    def num_alive(self) -> int:
        """Actors that have answered."""
        return len(self.idle) + len(self.in_hand)

    def start_missing(self, num_waiting: int) -> None:
        """Start actors up to what the cluster holds and the waiting shards can use."""
        missing = (
            _wanted_slots(self._ray, self._num_workers, self._gpus) - self.num_alive - len(self.starting)
        )
        for _ in range(min(missing, num_waiting - len(self.idle) - len(self.starting))):
            slot = self._type.remote()
            self.starting[slot.ready.remote()] = slot
        if self.num_alive:
            self._last_alive = time.monotonic()
        elif time.monotonic() - self._last_alive > START_S:
            raise StinPipeError(
                f"no worker of the Ray cluster could be started for {START_S:g} s; look at `ray status`; "
                "what is finished is kept, the same command resumes"
            )

    def give(self, task: ShardTask) -> None:
        """Give a shard to an idle actor."""
        slot = self.idle.pop()
        self.in_hand[slot.make.remote(task)] = (slot, task)

    def wait(self, timeout_s: float) -> list[Any]:
        """Wait for answers; actors that have started become idle, references of shards are returned."""
        answered, _ = self._ray.wait(
            [*self.in_hand, *self.starting], num_returns=1, timeout=timeout_s, fetch_local=False
        )
        for reference in answered:
            if reference in self.starting:
                slot = self.starting.pop(reference)
                try:
                    self._ray.get(reference)
                    self.idle.append(slot)
                except self._ray.exceptions.RayActorError:
                    continue  # its node went away while it started; `start_missing` sees to it
        return [reference for reference in answered if reference in self.in_hand]


def _drive(
    ray: Any, tasks: Sequence[ShardTask], slots: _Slots, poll_s: float, stop: Callable[[], bool]
) -> Iterator[ShardReport | None]:
    """Keep every slot at work on one shard at a time."""
    waiting = list(reversed(tasks))
    tries = dict.fromkeys((task.shard.name for task in tasks), 0)
    while waiting or slots.in_hand:
        if stop():
            waiting.clear()
        slots.start_missing(len(waiting))
        while waiting and slots.idle:
            slots.give(waiting.pop())
        finished = slots.wait(poll_s)
        if not finished:
            yield None
        for reference in finished:
            slot, task = slots.in_hand.pop(reference)
            try:
                report = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                if stop():
                    continue
                tries[task.shard.name] += 1
                if tries[task.shard.name] >= MAX_TRIES:
                    raise _died(task, error) from error
                waiting.append(task)
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else _died(task, error) from error
            slots.idle.append(slot)
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

    def ready(self) -> None:
        """Answer: the actor has started."""

    def make(self, task: ShardTask) -> ShardReport:
        return make_shard(task)
