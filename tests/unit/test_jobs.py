"""Job scripts and manifests: what is in them, what they do when they run, and what they refuse."""

import json
import os
import signal
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.workflows.jobs.kubernetes import KubernetesJob, KubernetesOptions, quoted, render_manifest
from stin_pipe.workflows.jobs.ray_cluster import RayJobOptions, ray_command
from stin_pipe.workflows.jobs.slurm import SlurmJob, SlurmOptions, render_scripts

ODD = "a b'c $(touch hacked) %j é"
"""A path that spaces, quotes, commands and sbatch's patterns could break."""

# A program that notes what it was called with; it ends as $CODE says, or after TERM with 143.
STUB = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" > "$CALLS/$(basename "$0").$$"
[[ $(basename "$0") == stin-pipe && -n ${SLOW:-} ]] || exit "${CODE:-0}"
trap 'exit ${ON_TERM:-143}' TERM
touch "$CALLS/ready"
for _ in {1..600}; do sleep 0.05; done
"""


@pytest.fixture
def job(tmp_path: Path) -> SlurmJob:
    folder = tmp_path / ODD
    (folder / "bin").mkdir(parents=True)
    (folder / "calls").mkdir()
    for name in ("stin-pipe", "scontrol", "ray"):
        (folder / "bin" / name).write_text(STUB)
        (folder / "bin" / name).chmod(0o755)
    return SlurmJob(
        config=folder / "run.toml",
        run=folder / "run one",
        splits=["1", "2"],
        evaluate=["all"],
        folder=folder,
        bin=folder / "bin",
        options=SlurmOptions(
            out=folder / "out",
            cpus_per_task=4,
            partition="gpu,cpu",
            time_limit="1-12:00:00",
            setup=["export FROM_SETUP=yes"],
        ),
    )


def asking(job: SlurmJob, **changes: Any) -> SlurmJob:
    """Return the job with other options."""
    return replace(job, options=replace(job.options, **changes))


def start(job: SlurmJob, name: str, **environment: str) -> subprocess.Popen[str]:
    """Run a rendered script as Slurm would, with stubs for all programs."""
    job.out.mkdir(exist_ok=True)
    script = job.out / name
    script.write_text(render_scripts(job)[name])
    known = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_CPUS_PER_TASK": "4"}
    return subprocess.Popen(
        ["bash", str(script)],
        cwd=job.folder,
        env={**os.environ, **known, "CALLS": str(job.folder / "calls"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def calls(job: SlurmJob) -> list[list[str]]:
    return sorted(path.read_text().splitlines() for path in (job.folder / "calls").glob("*.*"))


@pytest.mark.parametrize("nodes", [1, 3])
def test_scripts_are_shell_and_ask_for_what_was_said(job: SlurmJob, nodes: int, tmp_path: Path) -> None:
    scripts = render_scripts(asking(job, nodes=nodes, gpus_per_node=2, max_at_once=3))
    for name, content in scripts.items():
        (tmp_path / name).write_text(content)
        assert subprocess.run(["bash", "-n", tmp_path / name], check=False).returncode == 0, name
        if name == "submit.sh":
            continue
        directives = [line for line in content.splitlines() if line.startswith("#SBATCH ")]
        for wanted in ("--requeue", "--signal=B:USR1@120", "--partition=gpu,cpu", "--time=1-12:00:00"):
            assert f"#SBATCH {wanted}" in directives, name
        (log,) = [line for line in directives if "--output=" in line]
        assert "%%j" in log and log.endswith(('-%j.log"', "-%j.log", "-%A-%a.log"))
        body = [line for line in content.splitlines() if line and not line.startswith("#")]
        assert content.index(body[0]) > content.index(directives[-1])  # sbatch stops at the first command
    assert (
        f"#SBATCH --nodes={nodes}" in scripts["extract.sh"] and "--gpus-per-node=2" in scripts["extract.sh"]
    )
    assert "#SBATCH --array=0-3%3" in scripts["train.sh"] and "--gpus-per-node=1" in scripts["train.sh"]
    assert ("ray start" in scripts["extract.sh"]) == (nodes > 1)
    assert "--gpus-per-node" not in render_scripts(job)["train.sh"]


@pytest.mark.parametrize(
    ("name", "environment", "arguments"),
    [
        ("extract.sh", {}, ["extract", "CONFIG", "--runner", "local", "--workers", "4", "--grace", "90"]),
        ("train.sh", {"SLURM_ARRAY_TASK_ID": "0"}, ["train-spatial", "CONFIG", "--split", "1"]),
        ("train.sh", {"SLURM_ARRAY_TASK_ID": "3"}, ["train-temporal", "CONFIG", "--split", "2"]),
        ("fuse-eval.sh", {}, ["fuse-eval", "CONFIG", "--split", "all"]),
        ("chain.sh", {}, ["run", "CONFIG", "--split", "1,2"]),
    ],
)
def test_a_script_calls_its_stage_with_every_path_as_one_word(
    job: SlurmJob, name: str, environment: dict[str, str], arguments: list[str]
) -> None:
    script = start(job, name, **environment, CODE="3")
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 3, output  # the stage's own exit code
    given = ["--config", str(job.config), "--run", str(job.run)]
    expected = [word for item in arguments for word in (given if item == "CONFIG" else [item])]
    assert calls(job) == [["stin-pipe", *expected]]
    assert not list(job.folder.rglob("hacked"))


@pytest.mark.parametrize(
    ("signum", "code", "requeued"),
    [
        (signal.SIGUSR1, 143, [["scontrol", "requeue", "5_1"]]),
        (signal.SIGUSR1, 134, [["scontrol", "requeue", "5_1"]]),  # what TERM makes of Ray while it starts
        (signal.SIGUSR1, 0, []),  # it was finished in the time that was left
        (signal.SIGTERM, 143, []),
    ],
)
def test_signals_reach_the_stage_and_only_the_time_limit_queues_again(
    job: SlurmJob, signum: int, code: int, requeued: list[list[str]]
) -> None:
    script = start(job, "train.sh", SLURM_ARRAY_TASK_ID="1", SLOW="yes", ON_TERM=str(code))
    deadline = time.monotonic() + 30
    while not (job.folder / "calls" / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    script.send_signal(signum)
    script.communicate(timeout=60)
    assert script.returncode == code
    assert [call for call in calls(job) if call[0] == "scontrol"] == requeued


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "gpu; rm -rf /"}, "--partition: 'gpu; rm -rf /' contains characters that are not"),
        ({"sbatch": {"qos": "$(id)"}}, "--qos: '$(id)' contains characters that are not allowed in a job"),
        ({"time_limit": "1\n#SBATCH --uid=0"}, "--time: "),
        ({"time_limit": "abc"}, "--time: 'abc' is not a time that Slurm knows: minutes, MM:SS"),
        ({"time_limit": "1-2-3"}, "--time: '1-2-3' is not a time that Slurm knows"),
        ({"out": Path("/runs/a\nb")}, "--out: "),
        ({"setup": ["module load x\nrm -rf /"]}, "--setup: "),
    ],
)
def test_hostile_options_are_refused(job: SlurmJob, changes: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        render_scripts(asking(job, **changes))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"splits": ["$(id)"]}, "--split: "), ({"run": Path('/runs/a"b')}, "--run: ")],
)
def test_hostile_names_are_refused(job: SlurmJob, changes: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        render_scripts(replace(job, **changes))
    assert message in str(raised.value)


@pytest.mark.parametrize("time", ["90", "90:00", "12:00:00", "2-12", "2-12:30", "2-12:30:00", "UNLIMITED"])
def test_every_form_of_a_time_limit_is_taken(job: SlurmJob, time: str) -> None:
    script = render_scripts(asking(job, time_limit=time))["train.sh"]
    assert f"#SBATCH --time={time}" in script.splitlines()


CONFIG = 'run = "/data/runs/mine"\n[extract]\nvideos = "/data/a \\"b\\": {{ x }}"   # é\n'


@pytest.fixture
def pods() -> KubernetesJob:
    return KubernetesJob(
        config_text=CONFIG,
        run="/data/my runs",
        videos="/data/videos",
        splits="all",
        options=KubernetesOptions(
            name="mine",
            image="registry:5000/stin-pipe@sha256:" + "0" * 64,
            claim="videos",
            ray_version="2.60.0",
            workers=3,
            gpus=1,
        ),
    )


def of_pods(pods: KubernetesJob, **changes: Any) -> KubernetesJob:
    """Return the job with other options."""
    return replace(pods, options=replace(pods.options, **changes))


def test_the_manifest_asks_for_what_was_said_and_ends(pods: KubernetesJob) -> None:
    config, job = yaml.safe_load_all(render_manifest(pods))
    assert tomllib.loads(config["data"]["run.toml"]) == tomllib.loads(CONFIG)
    spec = job["spec"]
    assert (config["kind"], job["kind"], job["apiVersion"]) == ("ConfigMap", "RayJob", "ray.io/v1")
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 600
    assert spec["activeDeadlineSeconds"] == 604800
    command = "stin-pipe run --config /etc/stin-pipe/run.toml --run '/data/my runs' --split all"
    assert spec["entrypoint"].endswith(command)
    assert "STIN_PIPE_BATCH_JOB=default/mine " in spec["entrypoint"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 3
    for group in (spec["rayClusterSpec"]["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == pods.options.image
        assert container["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
        assert mounts["/data"]["persistentVolumeClaim"]["claimName"] == "videos"
        assert mounts["/etc/stin-pipe"]["configMap"]["name"] == "mine"
    alone = list(yaml.safe_load_all(render_manifest(of_pods(pods, workers=0, gpus=0))))[1]
    assert "workerGroupSpecs" not in alone["spec"]["rayClusterSpec"] and "nvidia" not in json.dumps(alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "Mine_1"},
            "--name: 'Mine_1' is not lower-case letters, digits and -, at most 47",
        ),
        ({"image": 'x"\n- evil'}, "--image: "),
        ({"claim": "a b"}, "--claim: "),
        ({"shm_size": "much"}, "--shm-size: 'much'"),
    ],
)
def test_options_that_pods_cannot_use_are_refused(pods: KubernetesJob, changes: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        render_manifest(of_pods(pods, **changes))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": "1; rm -rf /"}, "--split: "),
        ({"run": "runs/mine"}, "run: 'runs/mine' must be an absolute path under --mount /data"),
        ({"videos": "/data/../etc"}, "videos of [extract]: "),
    ],
)
def test_paths_that_pods_cannot_use_are_refused(pods: KubernetesJob, changes: dict, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        render_manifest(replace(pods, **changes))
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["😀 𝒳 über\n", "a = 'x'\r\n\tb\n", '"\\ud800"', "\x7f\x85\u2028\ufeff"])
def test_texts_reach_a_manifest_letter_for_letter(text: str) -> None:
    """YAML reads the halves of a letter that ASCII JSON writes as two broken ones."""
    written = quoted(text)
    assert yaml.safe_load(f"a: {written}\n") == {"a": text} and json.loads(written) == text
    assert "\\ud83d" not in written and all(char.isprintable() for char in written)


@pytest.mark.parametrize("char", ["\n", "\x1b", "\x7f", "\x9b", "\0"])
def test_control_characters_are_refused_by_one_rule(char: str) -> None:
    for config, run in ((f"a{char}.toml", "run"), ("a.toml", f"r{char}n")):
        with pytest.raises(ArgumentError, match="contains control characters"):
            ray_command(Path(config), Path(run), ["1"], RayJobOptions(address="http://head:8265"))
