"""Slots of a Ray cluster: actors of one CPU, or of a share of a GPU, as many as the nodes hold.

Nothing here imports ray; the module is handed in by `runners.ray`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stin_pipe.pipeline.planning.plan import MIXED
from stin_pipe.pipeline.runners.workers import use_one_thread
from stin_pipe.pipeline.shard.make_shard import ShardReport, ShardTask, make_shard
from stin_pipe.stin.processes.worker_start import cannot_start
from stin_pipe.stin.shards.errors import StinPipeError

START_S = 600.0

WORKER_BYTES = 768 * 1024**2
"""Memory that a slot asks Ray for: a worker and its ffmpeg on 1080p video, measured, and a little more."""

GPU_WORKER_BYTES = 3 * 1024**3
"""The same with torch and a CUDA context; a guess, until it is measured on such a machine."""


@dataclass(frozen=True, kw_only=True)
class SlotKind:
    """What one slot asks of its node.

    Attributes:
        flow_backend: back end that its worker uses.
        num_gpus: share of a GPU, 0 for none.
        num_cpus: CPUs for its decoders and encoders.
        memory_bytes: memory.
        idle_gpus: whether nodes with a GPU are left to another kind.
    """

    flow_backend: str
    num_gpus: float = 0.0
    num_cpus: int = 1
    memory_bytes: int = WORKER_BYTES
    idle_gpus: bool = False

    @property
    def num_threads(self) -> int:
        """Videos at work at a time: two for each CPU around a GPU, since half of them wait for it."""
        return 2 * self.num_cpus if self.num_gpus else 1

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many slots of this kind a node with these resources holds."""
        gpus = float(resources.get("GPU", 0))
        if self.idle_gpus and gpus > 0:
            return 0
        limits = [int(resources.get("CPU", 0) // self.num_cpus)]
        if self.memory_bytes and "memory" in resources:
            limits.append(int(resources["memory"] // self.memory_bytes))
        if self.num_gpus:
            limits.append(int(gpus / self.num_gpus + 1e-9))
        return max(0, min(limits))


def slot_kinds(
    flow_backend: str,
    gpus_per_worker: float,
    cpus_per_worker: int = 1,
    nodes: Sequence[Mapping[str, float]] = (),
) -> tuple[SlotKind, ...]:
    """Return the kinds of slots of a run, GPUs first.

    `cpus_per_worker` is for slots with a GPU, fewer where no such node has so many.
    """
    most = max((int(node.get("CPU", 0)) for node in nodes if node.get("GPU", 0)), default=cpus_per_worker)
    gpu = SlotKind(
        flow_backend="cuda",
        num_gpus=gpus_per_worker,
        num_cpus=max(1, min(cpus_per_worker, most)),
        memory_bytes=GPU_WORKER_BYTES,
    )
    if flow_backend == "cuda":
        return (gpu,)
    if flow_backend == MIXED:
        return (gpu, SlotKind(flow_backend="cpu", idle_gpus=True))
    return (SlotKind(flow_backend=flow_backend),)


def require_room(nodes: Sequence[Mapping[str, float]], kinds: Sequence[SlotKind]) -> None:
    """Refuse a cluster on which no slot could ever start.

    Args:
        nodes: resources of each node, as Ray names them.
        kinds: kinds of slots, any of which will do.

    Raises:
        StinPipeError: names what is missing.
    """
    if any(kind.fits(node) for kind in kinds for node in nodes):
        return
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if cpus < 1:
        raise StinPipeError("the Ray cluster has no CPU to work on; check its nodes with `ray status`")
    first = kinds[0]
    if first.num_gpus and max((node.get("GPU", 0) for node in nodes), default=0) < first.num_gpus:
        raise StinPipeError(
            f"--flow cuda needs {first.num_gpus:g} GPU a worker, but the Ray cluster has {gpus:g}; "
            "use --flow cpu, or a cluster with GPUs"
        )
    most = max(node.get("memory", 0) for node in nodes)
    raise StinPipeError(
        f"a worker needs {first.memory_bytes / 2**30:.2g} GiB of memory, and no node of the Ray cluster with "
        f"{'a GPU and ' * bool(first.num_gpus)}a CPU offers that (the largest: {most / 2**30:.2g} GiB); "
        "start Ray with more --memory"
    )


class Slots:
    """The actors of a run: started while the cluster has room, replaced when they die.

    A new actor gets a shard only when it answers, so that one which waits for a lost node's CPU holds nothing
    back; and nodes that join while the work goes on are used.
    """

    def __init__(
        self,
        ray: Any,
        kinds: Sequence[SlotKind],
        num_workers: int | None,
        nodes: Callable[[], Sequence[Mapping[str, float]]],
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._ray, self._kinds, self._num_workers, self._nodes = ray, kinds, num_workers, nodes
        self._types = {
            kind: ray.remote(num_cpus=kind.num_cpus, num_gpus=kind.num_gpus, memory=kind.memory_bytes)(_Slot)
            for kind in kinds
        }
        self._kind_of: dict[Any, SlotKind] = {}
        self._warn = warn
        self._failed_starts = dict.fromkeys(kinds, 0)
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
        nodes = self._nodes()
        wanted = num_waiting - len(self.idle) - len(self.starting)
        if self._num_workers:
            wanted = min(wanted, self._num_workers - self.num_alive - len(self.starting))
        for kind in self._kinds:
            alive = [*self.idle, *(slot for slot, _ in self.in_hand.values()), *self.starting.values()]
            missing = sum(kind.fits(node) for node in nodes)
            missing -= sum(self._kind_of[slot] is kind for slot in alive) + self._failed_starts[kind]
            for _ in range(min(missing, wanted)):
                slot = self._types[kind].remote(kind.flow_backend, kind.num_threads)
                self._kind_of[slot] = kind
                self.starting[slot.ready.remote()] = slot
                wanted -= 1
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
        references = [*self.in_hand, *self.starting]
        if not references:  # no node has room at this instant; one may come back
            time.sleep(timeout_s)
            return []
        answered, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        for reference in answered:
            if reference in self.starting:
                slot = self.starting.pop(reference)
                try:
                    self._ray.get(reference)
                    self.idle.append(slot)
                except self._ray.exceptions.RayActorError as error:
                    # Otherwise its node went away while it started, and `start_missing` starts another.
                    if error.actor_init_failed:
                        self._note_failed_start(self._kind_of[slot], cannot_start(str(error)))
        return [reference for reference in answered if reference in self.in_hand]

    def _note_failed_start(self, kind: SlotKind, error: StinPipeError) -> None:
        """Go on with the other actors where there are some: a node that joined late may be the broken one."""
        if not self.num_alive:
            raise error
        if not any(self._failed_starts.values()):
            self._warn(f"{error}\ngoing on with the workers that did start")
        self._failed_starts[kind] += 1


class _Slot:
    """An actor that makes shards one after another."""

    def __init__(self, flow_backend: str, num_threads: int) -> None:
        use_one_thread()
        self._flow_backend, self._num_threads = flow_backend, num_threads

    def ready(self) -> None:
        """Answer: the actor has started."""

    def make(self, task: ShardTask) -> ShardReport:
        if task.params.flow_backend == MIXED:  # the fingerprint stays that of the plan
            task = replace(task, params=replace(task.params, flow_backend=self._flow_backend))
        return make_shard(replace(task, num_threads=self._num_threads))
