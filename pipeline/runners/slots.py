"""Slots of a Ray cluster: actors with one CPU or a share of a GPU, as many as the nodes have room for.

Nothing here imports ray; `runners.ray` passes the module in, and tests pass a stand-in.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stin_pipe.pipeline.planning.plan import MIXED
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.runners.workers import use_one_thread
from stin_pipe.pipeline.shard.make_shard import ShardReport, make_shard
from stin_pipe.stin.processes.worker_start import cannot_start
from stin_pipe.stin.shards.errors import StinPipeError

START_S = 600.0
"""An autoscaler may need minutes to bring up the first node."""

WORKER_BYTES = 768 * 1024**2
"""Memory that a slot asks Ray for: what a worker and its ffmpeg need for 1080p video, with some to spare."""

GPU_WORKER_BYTES = 3 * 1024**3
"""The same with torch and a CUDA context; an estimate, not a measurement."""


@dataclass(frozen=True, kw_only=True)
class SlotKind:
    """What one slot asks of its node.

    Attributes:
        flow_backend: back end of its worker.
        num_gpus: share of a GPU; 0 for none.
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
        """Videos in progress at a time: two for each CPU beside a GPU, since half of them wait for it."""
        return 2 * self.num_cpus if self.num_gpus else 1

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many slots of this kind a node with these resources has room for."""
        gpus = float(resources.get("GPU", 0))
        if self.idle_gpus and gpus > 0:
            return 0

        limits = [int(resources.get("CPU", 0) // self.num_cpus)]
        if self.memory_bytes and "memory" in resources:
            limits.append(int(resources["memory"] // self.memory_bytes))
        if self.num_gpus:
            limits.append(int(gpus / self.num_gpus + 1e-9))  # 1 / 0.1 shares must be 10
        return max(0, min(limits))


def slot_kinds(
    flow_backend: str,
    gpus_per_worker: float,
    cpus_per_worker: int = 1,
    nodes: Sequence[Mapping[str, float]] = (),
) -> tuple[SlotKind, ...]:
    """Return the kinds of slots of a run, those with a GPU first.

    `cpus_per_worker` applies to slots with a GPU; it is lowered where no such node has that many.
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
    """Refuse a cluster on which no slot can ever start.

    Args:
        nodes: resources of each node, as Ray names them.
        kinds: kinds of slots; one that fits is enough.

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

    regardless = replace(first, memory_bytes=0)
    most = max((node.get("memory", 0) for node in nodes if regardless.fits(node)), default=0)
    raise StinPipeError(
        f"a worker needs {first.memory_bytes / 2**30:.2g} GiB of memory, but the largest node of the cluster "
        f"with {'a GPU and ' * bool(first.num_gpus)}a CPU offers {most / 2**30:.2g} GiB; "
        "start Ray with more --memory"
    )


class Slots:
    """The actors of a run: started while the cluster has room, replaced when they die.

    A new actor gets a shard only once it has answered, so an actor that waits for a lost node's CPU holds
    nothing up. Nodes that join later are used.
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
        # Ray itself places the actors; the sums over nodes only say how many it can place.
        self._types = {
            kind: ray.remote(num_cpus=kind.num_cpus, num_gpus=kind.num_gpus, memory=kind.memory_bytes)(_Slot)
            for kind in kinds
        }
        self._kind_of: dict[Any, SlotKind] = {}
        self._warn = warn
        self._failed_starts = dict.fromkeys(kinds, 0)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}  # reference of the first answer -> actor
        self.busy: dict[Any, tuple[Any, ShardTask]] = {}  # reference of a shard's report -> actor, task
        self._last_alive = time.monotonic()

    @property
    def num_alive(self) -> int:
        """Number of actors that have answered."""
        return len(self.idle) + len(self.busy)

    def start_missing(self, num_waiting: int) -> None:
        """Start as many actors as the cluster has room for and the waiting shards can use."""
        nodes = self._nodes()
        useful = num_waiting - len(self.idle) - len(self.starting)
        if self._num_workers:
            useful = min(useful, self._num_workers - self.num_alive - len(self.starting))

        for kind in self._kinds:
            alive = [*self.idle, *(slot for slot, _ in self.busy.values()), *self.starting.values()]
            # Counted again each time: nodes come and go, and so do actors.
            missing = sum(kind.fits(node) for node in nodes)
            missing -= sum(self._kind_of[slot] is kind for slot in alive) + self._failed_starts[kind]
            for _ in range(min(missing, useful)):
                slot = self._types[kind].remote(kind.flow_backend, kind.num_threads)
                self._kind_of[slot] = kind
                self.starting[slot.ready.remote()] = slot
                useful -= 1

        if self.num_alive:
            self._last_alive = time.monotonic()
        elif time.monotonic() - self._last_alive > START_S:
            raise StinPipeError(
                f"no worker of the Ray cluster has started for {START_S:g} s; look at `ray status`; "
                "what is finished is kept, the same command resumes"
            )

    def give(self, task: ShardTask) -> None:
        """Give a shard to an idle actor."""
        slot = self.idle.pop()
        self.busy[slot.make.remote(task)] = (slot, task)

    def wait(self, timeout_s: float) -> list[Any]:
        """Wait for answers: make actors that have started idle, and return references of finished shards."""
        references = [*self.busy, *self.starting]
        if not references:  # no node has room at the moment; one may come back
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
        return [reference for reference in answered if reference in self.busy]

    def _note_failed_start(self, kind: SlotKind, error: StinPipeError) -> None:
        """Continue with the other actors if there are any: perhaps only a node that joined late is broken."""
        if not self.num_alive:
            raise error
        if not any(self._failed_starts.values()):
            self._warn(f"{error.message}; continuing with the workers that did start")
        self._failed_starts[kind] += 1


class _Slot:
    """An actor that makes shards one after another."""

    def __init__(self, flow_backend: str, num_threads: int) -> None:
        use_one_thread()
        self._flow_backend, self._num_threads = flow_backend, num_threads

    def ready(self) -> None:
        """Return once the actor has started."""

    def make(self, task: ShardTask) -> ShardReport:
        if task.params.flow_backend == MIXED:  # the fingerprint stays that of the plan
            task = replace(task, params=replace(task.params, flow_backend=self._flow_backend))
        return make_shard(replace(task, num_threads=self._num_threads))
