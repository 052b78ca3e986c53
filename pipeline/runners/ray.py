"""Make shards on Ray: on this machine, or on the cluster at an address.

An actor is one slot: one CPU, or a share of a GPU. An actor or node that dies costs only the work on its
current shard, which goes to another actor.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from stin_pipe.pipeline.flow import resolve_backend
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.runners.nodes import (
    begin_preflight,
    check_nodes,
    choose_flow,
    end_preflight,
    node_facts,
)
from stin_pipe.pipeline.runners.slots import SlotKind, Slots, require_room, slot_kinds
from stin_pipe.pipeline.shard.make_shard import MAX_TRIES, ShardReport
from stin_pipe.stin.processes.cpus import usable_cpus
from stin_pipe.stin.processes.ray_session import cluster_address, open_cluster, ray_session
from stin_pipe.stin.shards.errors import StinPipeError, first_line

PREFLIGHT_S = 120.0
"""A node imports our libraries for the first time here, perhaps from a cold network file system."""


def run_ray(
    tasks: Sequence[ShardTask],
    *,
    num_workers: int | None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    cpus_per_worker: int = 1,
    need_bytes: int = 0,
    warn: Callable[[str], None] = lambda _line: None,
    poll_s: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ShardReport | None]:
    """Yield a report for each finished shard, and None every `poll_s` seconds in between.

    Args:
        tasks: the shards to make.
        num_workers: slots; None is one for each CPU of the cluster.
        address: of an existing cluster; None starts Ray on this machine.
        gpus_per_worker: share of a GPU that a slot with flow on cuda asks for.
        cpus_per_worker: CPUs that such a slot uses to decode and encode.
        need_bytes: estimated disk of the shards.
        warn: called with what a person should know.
        poll_s: longest silence.
        stop: once it is true, no further shard starts.

    Raises:
        StinPipeError: no cluster at the address, a node that cannot work, too few resources, workers that
            cannot start, or a shard on which workers died again and again.
    """
    address = cluster_address(address)
    with _session(address, num_workers) as ray:
        nodes = _nodes(ray)
        offers = [resources for _, resources in nodes]
        kinds = slot_kinds(tasks[0].params.flow_backend, gpus_per_worker, cpus_per_worker, offers)
        require_room(offers, kinds)
        if address:
            if warning := open_cluster(address):
                warn(warning)
            working = [node for node, resources in nodes if any(kind.fits(resources) for kind in kinds)]
            _check_nodes(ray, working, tasks, need_bytes, warn)
        _warn_of_narrow_memory(offers, kinds, num_workers, warn)

        slots = Slots(ray, kinds, num_workers, lambda: [resources for _, resources in _nodes(ray)], warn)
        yield from _drive(ray, tasks, slots, poll_s, stop)


def flow_of_cluster(address: str, *, allow_mixed: bool) -> str:
    """Return the flow back end that `auto` means on the nodes of a cluster.

    Raises:
        StinPipeError: no cluster, or its nodes differ and `allow_mixed` is off.
    """
    with _session(address, None) as ray:
        nodes = [node for node, resources in _nodes(ray) if resources.get("CPU", 0) >= 1]
        require_room([resources for _, resources in _nodes(ray)], [SlotKind(flow_backend="cpu")])
        return choose_flow(_ask_nodes(ray, nodes, _own_flow), allow_mixed=allow_mixed)


def _session(address: str | None, num_workers: int | None) -> AbstractContextManager[Any]:
    advice = "check --address, or use --runner local"
    return ray_session(address, num_cpus=num_workers or usable_cpus(), advice=advice)


def _own_flow() -> tuple[str, str]:
    return socket.gethostname(), resolve_backend("auto")


def _nodes(ray: Any) -> list[tuple[str, dict[str, float]]]:
    """Return the id and resources of each node that is alive."""
    return [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _warn_of_narrow_memory(
    nodes: Sequence[dict[str, float]],
    kinds: Sequence[SlotKind],
    num_workers: int | None,
    warn: Callable[[str], None],
) -> None:
    """Warn where memory allows fewer workers than the CPUs do."""
    by_memory = sum(kind.fits(node) for kind in kinds for node in nodes)
    by_cpus = sum(replace(kind, memory_bytes=0).fits(node) for kind in kinds for node in nodes)
    expected = min(num_workers or by_cpus, by_cpus)
    if by_memory < expected:
        need = kinds[0].memory_bytes / 2**30
        warn(f"{by_memory} workers instead of {expected}: each asks Ray for {need:.2g} GiB of memory")


def _check_nodes(
    ray: Any,
    nodes: Sequence[str],
    tasks: Sequence[ShardTask],
    need_bytes: int,
    warn: Callable[[str], None],
) -> None:
    """Check every node that will work, before any of them starts."""
    videos = (task.root / video.path for task in tasks for video in task.shard.videos)
    video = next((path for path in videos if path.is_file()), None)
    preflight = begin_preflight(tasks[0].extract_dir, video=video, flow_backend=tasks[0].params.flow_backend)
    try:
        check_nodes(_ask_nodes(ray, nodes, node_facts, preflight), need_bytes=need_bytes, warn=warn)
    finally:
        end_preflight(preflight)


def _ask_nodes(ray: Any, nodes: Sequence[str], question: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run a function once on each node and return the answers.

    Raises:
        StinPipeError: a node does not answer, or cannot run stin-pipe.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        # They ask for no CPU, or a busy node would answer only when its own work is done.
        answers = [
            ray.remote(num_cpus=0, max_retries=0)(question)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(*arguments)
            for node in nodes
        ]
        return ray.get(answers, timeout=PREFLIGHT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise StinPipeError(
            f"a node of the Ray cluster did not answer within {PREFLIGHT_S:g} s; look at `ray status`"
        ) from error
    except ray.exceptions.RayError as error:
        # Ray's text begins with its own frames; the last line is the reason.
        reason = str(error).strip().splitlines()[-1][:200]
        raise StinPipeError(
            f"a node of the Ray cluster cannot run stin-pipe ({reason}); "
            "install the same version on all nodes"
        ) from error


def _drive(
    ray: Any, tasks: Sequence[ShardTask], slots: Slots, poll_s: float, stop: Callable[[], bool]
) -> Iterator[ShardReport | None]:
    """Keep every slot busy with one shard at a time."""
    waiting = list(reversed(tasks))  # taken from its end, in the order of the plan
    tries = dict.fromkeys((task.shard.name for task in tasks), 0)

    while waiting or slots.busy:
        if stop():
            waiting.clear()
        slots.start_missing(len(waiting))
        while waiting and slots.idle:
            slots.give(waiting.pop())

        finished = slots.wait(poll_s)
        if not finished:
            yield None

        for reference in finished:
            slot, task = slots.busy.pop(reference)
            try:
                report = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                if stop():  # the signal that stops the run may have reached the workers too
                    continue
                tries[task.shard.name] += 1
                if tries[task.shard.name] >= MAX_TRIES:
                    raise _died(task, error) from error
                waiting.append(task)
                continue
            except ray.exceptions.RayTaskError as error:
                # The shard's own exception, such as a full disk: another actor would meet it too.
                raise error.cause if isinstance(error.cause, Exception) else _died(task, error) from error

            slots.idle.append(slot)
            yield report


def _died(task: ShardTask, error: Exception) -> StinPipeError:
    return StinPipeError(
        f"shard {task.shard.name}: its worker died {MAX_TRIES} times ({first_line(error)}); "
        "what is finished is kept, the same command resumes"
    )
