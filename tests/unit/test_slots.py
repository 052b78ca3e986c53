"""Slots without Ray: a stand-in that answers as Ray does, with actors that die and nodes that come and go."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from stin_pipe.pipeline.planning.plan import ExtractParams, PlannedShard
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.runners.ray import _drive
from stin_pipe.pipeline.runners.slots import Slots, slot_kinds
from stin_pipe.pipeline.shard.make_shard import ShardReport
from stin_pipe.stin.shards.errors import StinPipeError


class ActorDied(Exception):
    actor_init_failed = False


class CannotImport(ActorDied):
    actor_init_failed = True


class StandIn:
    """The part of ray that slots use; `make` decides what a shard's making gives or raises."""

    def __init__(
        self, make: Callable[[str, int], ShardReport], start: Callable[[int], None] = lambda _number: None
    ) -> None:
        self.exceptions = SimpleNamespace(RayActorError=ActorDied, RayTaskError=KeyError)
        self.make, self.start, self.actors, self.asked = make, start, [], []
        self.answers: dict[object, Callable[[], object]] = {}

    def remote(self, **resources: object):
        self.asked.append(resources)
        return lambda _type: SimpleNamespace(remote=self._start)

    def _start(self, flow_backend: str, num_threads: int):
        number = len(self.actors)

        def method(answer: Callable[..., object]):
            def call(*arguments: object) -> object:
                reference = object()
                self.answers[reference] = lambda: answer(*arguments)
                return reference

            return SimpleNamespace(remote=call)

        actor = Actor()
        actor.ready = method(lambda: self.start(number))
        actor.make = method(lambda task: self.make(task.shard.name, number))
        self.actors.append((flow_backend, num_threads))
        return actor

    def wait(self, references: list[object], *, num_returns: int, timeout: float, fetch_local: bool):
        assert references, "ray.wait refuses an empty list"
        return references[:num_returns], references[num_returns:]

    def get(self, reference: object) -> object:
        return self.answers.pop(reference)()


class Actor:
    """Hashable, as an actor's handle is."""


def report(shard: str) -> ShardReport:
    return ShardReport(shard=shard, num_done=1, num_failed=0, num_frames=2, num_fields=1, seconds=0.0)


def drive(
    ray: StandIn,
    nodes: Callable[[], list],
    *,
    backend: str = "cpu",
    num_workers: int | None = None,
    warn=print,
):
    params = ExtractParams(size=None, short_side=32, bound_px=2.5, flow_backend=backend)
    tasks = [
        ShardTask(
            extract_dir=Path(),
            root=Path(),
            shard=PlannedShard(name=f"{number:05d}", videos=()),
            params=params,
            fingerprint="",
            timeout_s=60,
        )
        for number in range(6)
    ]
    slots = Slots(ray, slot_kinds(backend, 0.25, 2, nodes()), num_workers, nodes)
    return [item.shard for item in _drive(ray, tasks, slots, 0.001, lambda: False) if item]


NODE = {"CPU": 1.0, "memory": 2.0**33}


def test_every_shard_is_made_once_by_as_many_actors_as_nodes_hold() -> None:
    ray = StandIn(lambda shard, _actor: report(shard))
    assert sorted(drive(ray, lambda: [NODE, NODE])) == [f"{number:05d}" for number in range(6)]
    assert len(ray.actors) == 2 and set(ray.actors) == {("cpu", 1)}
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 0.0, "memory": 768 * 2**20}]
    ray = StandIn(lambda shard, _actor: report(shard))
    assert len(drive(ray, lambda: [NODE, NODE, NODE], num_workers=1)) == 6 and len(ray.actors) == 1


def test_an_actor_that_dies_costs_its_shard_a_try_and_is_replaced() -> None:
    def make(shard: str, actor: int) -> ShardReport:
        if actor == 0 and shard == "00002":
            raise ActorDied("killed")
        return report(shard)

    ray = StandIn(make)
    assert sorted(drive(ray, lambda: [NODE])) == [f"{number:05d}" for number in range(6)]
    assert len(ray.actors) == 2


def test_a_shard_that_kills_every_actor_ends_the_run_by_name() -> None:
    def make(shard: str, actor: int) -> ShardReport:
        if shard == "00003":
            raise ActorDied("killed")
        return report(shard)

    with pytest.raises(StinPipeError, match="shard 00003: its worker died 3 times"):
        drive(StandIn(make), lambda: [NODE])


def test_a_cluster_that_is_empty_for_a_while_is_waited_for() -> None:
    looks = iter([[NODE], [], [], []])
    ray = StandIn(lambda shard, _actor: report(shard))
    assert len(drive(ray, lambda: next(looks, [NODE]))) == 6


def test_mixed_nodes_get_slots_of_both_kinds_gpus_first() -> None:
    gpu = {"CPU": 4.0, "GPU": 0.5, "memory": 2.0**36}
    ray = StandIn(lambda shard, _actor: report(shard))
    assert len(drive(ray, lambda: [NODE, gpu], backend="mixed")) == 6
    assert ray.actors == [("cuda", 4), ("cuda", 4), ("cpu", 1)]


def test_actors_that_cannot_import_their_code_end_the_run_with_their_traceback() -> None:
    def start(_number: int) -> None:
        raise CannotImport("Traceback:\n  File 'slots.py'\n    import h5py\nImportError: no h5py")

    with pytest.raises(StinPipeError, match="a worker process cannot start: ImportError: no h5py") as error:
        drive(StandIn(lambda shard, _actor: report(shard), start), lambda: [NODE, NODE])
    assert "File 'slots.py'" in str(error.value)


def test_one_node_that_cannot_import_is_left_out_with_one_warning() -> None:
    def start(number: int) -> None:
        if number > 0:
            raise CannotImport("ImportError: no h5py")

    ray, warnings = StandIn(lambda shard, _actor: report(shard), start), []
    nodes = [NODE, NODE, NODE]
    slots = Slots(ray, slot_kinds("cpu", 0.25, 2, nodes), None, lambda: nodes, warnings.append)
    for _ in range(6):
        slots.start_missing(9)
        slots.wait(0.001)
    assert len(slots.idle) == 1 and not slots.starting and len(ray.actors) == 3
    assert len(warnings) == 1 and "continuing with the workers that did start" in warnings[0]
    assert "no h5py" in warnings[0] and "\n" not in warnings[0]
