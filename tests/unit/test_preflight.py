"""Preflight: what a node answers, and which clusters are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from stin_pipe.pipeline.runners.nodes import (
    NodeFacts,
    begin_preflight,
    check_nodes,
    choose_flow,
    end_preflight,
    node_facts,
)
from stin_pipe.pipeline.runners.slots import (
    GPU_WORKER_BYTES,
    WORKER_BYTES,
    SlotKind,
    require_room,
    slot_kinds,
)
from stin_pipe.stin.shards.errors import StinPipeError

GOOD = NodeFacts(host="a", problem="", versions={"ffmpeg": "7.0", "numpy": "2.4"}, free_bytes=10)


def test_a_node_that_sees_the_same_folder_has_no_problem(tmp_path: Path) -> None:
    video = tmp_path / "x.mp4"
    video.write_bytes(b"x")
    asked = begin_preflight(tmp_path, video=video)
    facts = node_facts(asked)
    assert facts.problem == "" and facts.free_bytes > 0 and facts.versions["ffmpeg"]
    assert len(list(tmp_path.glob(".preflight-*"))) == 2
    end_preflight(asked)
    assert list(tmp_path.glob(".preflight-*")) == []


def test_another_folder_another_token_or_no_video_is_said(tmp_path: Path) -> None:
    asked = begin_preflight(tmp_path, video=tmp_path / "gone.mp4")
    assert "gone.mp4 cannot be read here (No such file or directory)" in node_facts(asked).problem
    elsewhere = replace(asked, extract_dir=tmp_path / "other")
    assert "is not the run's folder here" in node_facts(elsewhere).problem
    (tmp_path / asked.token).write_bytes(b"another driver's")
    assert "is another folder here" in node_facts(asked).problem


def test_clusters_that_cannot_work_are_refused_by_node() -> None:
    warnings: list[str] = []
    check_nodes([GOOD, replace(GOOD, host="b")], need_bytes=5, warn=warnings.append)
    assert warnings == []
    with pytest.raises(StinPipeError, match=r"node b: x cannot be read"):
        check_nodes([GOOD, replace(GOOD, host="b", problem="x cannot be read")], need_bytes=0, warn=print)
    other = replace(GOOD, host="b", versions={"ffmpeg": "6.1", "numpy": "2.4"})
    with pytest.raises(StinPipeError, match=r"node b has ffmpeg 6\.1, node a has 7\.0; install the same"):
        check_nodes([GOOD, other], need_bytes=0, warn=print)
    check_nodes([GOOD], need_bytes=2**40, warn=warnings.append)
    assert "1024.0 GiB are needed" in warnings[0]


def test_nodes_whose_ffmpeg_lacks_codecs_are_refused_or_told() -> None:
    warnings: list[str] = []
    poor = replace(GOOD, host="b", lacking=("vp9",))
    for nodes in ([GOOD, poor], [poor, GOOD]):
        with pytest.raises(StinPipeError, match="ffmpeg of node b cannot decode vp9, that of node a can"):
            check_nodes(nodes, need_bytes=0, warn=print)
    check_nodes([poor, replace(poor, host="c")], need_bytes=0, warn=warnings.append)
    assert "ffmpeg cannot decode vp9; videos in these codecs will fail" in warnings


def test_a_node_that_cannot_run_the_flow_back_end_says_so(tmp_path: Path, monkeypatch) -> None:
    from stin_pipe.pipeline.flow import backends

    monkeypatch.setattr(backends, "_why_no_cuda", lambda: "there is no GPU")
    asked = begin_preflight(tmp_path, video=None, flow_backend="cuda")
    assert "the cuda flow back end cannot run here: there is no GPU" in node_facts(asked).problem
    assert node_facts(replace(asked, flow_backend="cpu")).problem == ""
    assert node_facts(replace(asked, flow_backend="mixed")).problem == ""


def test_one_flow_back_end_for_all_nodes_unless_mixing_is_allowed() -> None:
    assert choose_flow([("a", "cpu"), ("b", "cpu")], allow_mixed=False) == "cpu"
    assert choose_flow([("a", "cuda")], allow_mixed=True) == "cuda"
    differing = [("a", "cuda"), ("b", "cpu"), ("c", "cuda")]
    assert choose_flow(differing, allow_mixed=True) == "mixed"
    with pytest.raises(StinPipeError, match=r"\(cpu: b; cuda: a, c\), .* or --allow-mixed-flow"):
        choose_flow(differing, allow_mixed=False)


GIB = 2**30


@pytest.mark.parametrize(
    ("node", "cpu", "cuda", "mixed"),
    [
        ({"CPU": 4, "memory": 100 * GIB}, 4, 0, (0, 4)),
        ({"CPU": 4, "memory": 2 * WORKER_BYTES + 1}, 2, 0, (0, 2)),
        ({"CPU": 4}, 4, 0, (0, 4)),
        ({"CPU": 16, "GPU": 1, "memory": 100 * GIB}, 16, 4, (4, 0)),
        ({"CPU": 3, "GPU": 2, "memory": 100 * GIB}, 3, 3, (3, 0)),
        ({"CPU": 16, "GPU": 8, "memory": 2 * GPU_WORKER_BYTES}, 8, 2, (2, 0)),
        ({"CPU": 0, "GPU": 1, "memory": 100 * GIB}, 0, 0, (0, 0)),
        ({"memory": 100 * GIB}, 0, 0, (0, 0)),
    ],
)
def test_slots_of_a_node(node: dict[str, float], cpu: int, cuda: int, mixed: tuple[int, int]) -> None:
    assert slot_kinds("cpu", 0.25)[0].fits(node) == cpu
    assert slot_kinds("cuda", 0.25)[0].fits(node) == cuda
    kinds = slot_kinds("mixed", 0.25)
    assert tuple(kind.fits(node) for kind in kinds) == mixed
    assert [kind.flow_backend for kind in kinds] == ["cuda", "cpu"]


@pytest.mark.parametrize(
    ("nodes", "backend", "message"),
    [
        ([{"GPU": 1.0}], "cpu", "has no CPU to work on"),
        ([{"CPU": 4.0}], "cuda", r"needs 0\.25 GPU a worker, but the Ray cluster has 0"),
        ([{"CPU": 4.0, "memory": GIB / 8}], "cpu", r"a worker needs 0\.75 GiB of memory, .* 0\.12 GiB"),
        (
            [{"CPU": 4.0, "GPU": 1, "memory": GIB}],
            "cuda",
            "largest node of the cluster with a GPU and a CPU offers 1 GiB",
        ),
    ],
)
def test_a_cluster_without_room_is_refused_at_once(nodes, backend: str, message: str) -> None:
    with pytest.raises(StinPipeError, match=message):
        require_room(nodes, slot_kinds(backend, 0.25))
    require_room([*nodes, {"CPU": 1, "GPU": 1, "memory": 8 * GIB}], slot_kinds(backend, 0.25))


def test_slots_with_a_gpu_take_the_cpus_that_there_are() -> None:
    many, few = {"CPU": 16, "GPU": 1.0, "memory": 99 * GIB}, {"CPU": 2, "GPU": 1.0, "memory": 99 * GIB}
    for nodes, num_cpus, held in (([many], 4, 4), ([few], 2, 1), ([few, many], 4, 4), ([{"CPU": 8.0}], 4, 0)):
        kind = slot_kinds("cuda", 0.25, 4, nodes)[0]
        assert (kind.num_cpus, kind.num_threads) == (num_cpus, 2 * num_cpus)
        assert sum(kind.fits(node) for node in nodes) == held
    assert slot_kinds("cpu", 0.25, 4, [many])[0].num_cpus == 1


def test_a_worker_of_a_mixed_run_uses_its_own_back_end_and_keeps_the_fingerprint(tmp_path: Path) -> None:
    from stin_pipe.pipeline.listing.listing import ListedVideo
    from stin_pipe.pipeline.planning.plan import ExtractParams, PlannedShard
    from stin_pipe.pipeline.planning.todo import ShardTask
    from stin_pipe.pipeline.runners import slots
    from stin_pipe.stin.shards.reader import ShardFile
    from stin_pipe.stin.shards.schema import Mark

    params = ExtractParams(size=None, short_side=32, bound_px=2.5, flow_backend="mixed")
    video = ListedVideo(id="a/x.avi", path="a/x.avi", label=0, class_name="a", splits={})
    (tmp_path / "shards").mkdir()
    task = ShardTask(
        extract_dir=tmp_path,
        root=tmp_path,
        shard=PlannedShard(name="00000", videos=(video,)),
        params=params,
        fingerprint=params.fingerprint(),
        timeout_s=60,
    )
    slots._Slot("cpu", 1).make(task)
    assert ShardFile(tmp_path / "shards" / "00000.h5").attributes["flow_backend"] == "cpu"
    assert Mark.load(tmp_path / "shards" / "00000.json").fingerprint == params.fingerprint()
    assert SlotKind(flow_backend="cpu").memory_bytes == WORKER_BYTES
