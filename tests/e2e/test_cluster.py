"""A Ray cluster as extract meets it: what it refuses at once, and what it does on two nodes."""

from pathlib import Path

import pytest

from stin_pipe.stin.shards.schema import Manifest


@pytest.mark.slow
def test_a_cluster_is_asked_before_any_work(made_videos, extracted_run: Path, tmp_path: Path, call) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from stin_pipe.pipeline.flow.backends import _why_no_cuda

    if not _why_no_cuda():
        pytest.skip("this machine has a GPU: its cluster would use it")
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        arguments = ("extract", "--run", tmp_path / "run", "--videos", made_videos.videos, "--splits")
        arguments = (*arguments, made_videos.lists, "--size", "48x32", "--address", cluster.address, "--json")
        called = call(*arguments, "--flow", "cuda")
        assert called.code == 1
        assert "--flow cuda needs 0.25 GPU a worker, but the Ray cluster has 0" in called.json["error"]
        node = cluster.add_node(num_cpus=1, num_gpus=1)  # a node that claims a GPU it does not have
        cluster.wait_for_nodes()
        called = call(*arguments, "--flow", "cuda")
        assert called.code == 1 and "the cuda flow back end cannot run here" in called.json["error"]
        assert list((tmp_path / "run" / "extract" / "shards").glob("*")) == []
        (tmp_path / "run" / "extract" / "plan.json").unlink()
        called = call(*arguments, "--allow-mixed-flow")  # all nodes agree on cpu: nothing is mixed
        assert called.code == 0, called.stderr
        assert called.json["flow_backend"] == "cpu" and "oken authentication" not in called.stderr
        run, calm = (
            {
                video.id: video.digest
                for video in Manifest.load(path / "extract/manifest.json").videos.values()
            }
            for path in (tmp_path / "run", extracted_run)
        )
        assert run == calm and len(run) == 27
        assert not list((tmp_path / "run" / "extract").glob(".*"))
        cluster.remove_node(node)
    finally:
        cluster.shutdown()


def test_mixed_flow_needs_a_cluster(made_videos, tmp_path: Path, call) -> None:
    arguments = ("extract", "--run", tmp_path / "run", "--videos", made_videos.videos, "--json")
    called = call(*arguments, "--allow-mixed-flow", "--runner", "local")
    assert called.code == 2 and "--allow-mixed-flow needs --flow auto and a cluster" in called.json["error"]
