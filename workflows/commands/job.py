"""`stin-pipe job`: the chain of a configuration file as jobs of Slurm, of a Ray cluster or of Kubernetes."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from stin_pipe.workflows.run.chain_checks import check_tables_for_pods, checked_chain, require_run
from stin_pipe.workflows.terminal.config_file import config_path
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import DIRECTORY, Names, WholeNumber

SLURM_EXAMPLES = """\b
Examples:
  stin-pipe job slurm --config run.toml --nodes 4 --cpus-per-task 16 --partition cpu --time 12:00:00
  stin-pipe job slurm --config run.toml --gpus-per-node 1 --account vision --submit
"""
RAY_EXAMPLES = """\b
Examples:
  stin-pipe job ray --config /shared/run.toml --address http://head:8265             # shows the command
  stin-pipe job ray --config /shared/run.toml --address http://head:8265 --submit
"""
KUBERNETES_EXAMPLES = """\b
Example:
  stin-pipe job kubernetes --config run.toml --image registry/stin-pipe:0.1.0 --claim videos > job.yaml
"""


chain_option = click.option(
    "--split", "wanted", type=Names(), default="all", help="Splits to train and evaluate, or all."
)


@click.group(epilog=SLURM_EXAMPLES)
def job() -> None:
    """Make cluster jobs of the chain that a configuration file describes."""


@job.command(epilog=SLURM_EXAMPLES)
@run_option(required=False)
@chain_option
@click.option(
    "--out", type=DIRECTORY, help="Folder of scripts and logs  [default: FILE.slurm beside the file]"
)
@click.option("--nodes", type=WholeNumber(min=1), default=1, help="Nodes of the extraction.")
@click.option("--cpus-per-task", type=WholeNumber(min=1), default=8, help="CPUs of each job on a node.")
@click.option(
    "--gpus-per-node",
    type=WholeNumber(min=0),
    default=0,
    help="GPUs of a node for the extraction; a training takes one, unless this is 0.",
)
@click.option("--partition", help="sbatch --partition.")
@click.option("--account", help="sbatch --account.")
@click.option(
    "--time", "time_limit", help="sbatch --time; a job that needs longer is queued again and resumes."
)
@click.option("--mem", help="sbatch --mem.")
@click.option("--sbatch", "more", multiple=True, metavar="NAME=VALUE", help="Any other option of sbatch.")
@click.option("--setup", multiple=True, metavar="LINE", help="Shell line that each script runs first.")
@click.option("--max-at-once", type=WholeNumber(min=1), help="Trainings that may run at the same time.")
@click.option(
    "--warn",
    "warn_s",
    type=WholeNumber(10, 3600),
    default=120,
    help="Seconds for an orderly end before --time.",
)
@click.option("--submit", is_flag=True, help="Submit the jobs.")
@common_options
def slurm(output: Output, run_path: Path | None, wanted: tuple[str, ...], **options: Any) -> None:
    """Write commented job scripts for Slurm, and submit them if asked.

    extract.sh works on one node, or on several that it joins into a Ray cluster; train.sh is an array over
    splits and streams; fuse-eval.sh follows; submit.sh submits them in order. chain.sh is all in one job.
    Jobs that are preempted, or reach their time limit, stop in order, are queued again and resume.
    """
    from stin_pipe.workflows.jobs.slurm import SlurmJob, render_scripts

    config, run, known, splits = checked_chain(click.get_current_context(), _config(), run_path, wanted)
    named = {"partition": options["partition"], "account": options["account"], "time": options["time_limit"]}
    named |= {"mem": options["mem"], **_more(options["more"])}
    asked = SlurmJob(
        config=config,
        run=run,
        splits=splits,
        evaluate=["all"] if splits == known and len(splits) > 1 else splits,
        out=(options["out"] or config.with_suffix(".slurm")).absolute(),
        folder=Path.cwd(),
        bin=Path(sys.executable).parent,
        nodes=options["nodes"],
        cpus_per_task=options["cpus_per_task"],
        gpus_per_node=options["gpus_per_node"],
        options={name: value for name, value in named.items() if value},
        setup=options["setup"],
        warn_s=options["warn_s"],
        max_at_once=options["max_at_once"],
    )
    with usage_errors():
        scripts = render_scripts(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, content in scripts.items():
        path = asked.out / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)
    submit = asked.out / "submit.sh"
    jobs: dict[str, str] = {}
    if options["submit"]:
        jobs = dict(line.split(" ", 1) for line in _call(["bash", str(submit)], needs="sbatch").splitlines())
        for name, number in jobs.items():
            output.show(f"{name}: job {number}")
        output.show(f"look at them with squeue, and with: stin-pipe status --run {run}")
    else:
        output.show(f"wrote {', '.join(scripts)} to {asked.out}")
        output.show(f"submit them: {shlex.join(['bash', str(submit)])}")
    output.result(
        {
            "run": str(run),
            "splits": splits,
            "scripts": [str(asked.out / name) for name in scripts],
            "jobs": jobs,
        }
    )


@job.command(epilog=RAY_EXAMPLES)
@run_option(required=False)
@chain_option
@click.option("--address", help="Address of the cluster's job server, http://HEAD:8265; required.")
@click.option("--no-wait", is_flag=True, help="Submit and return at once.")
@click.option("--submit", is_flag=True, help="Submit the job; without it the command is only shown.")
@common_options
def ray(
    output: Output,
    run_path: Path | None,
    wanted: tuple[str, ...],
    address: str | None,
    no_wait: bool,
    submit: bool,
) -> None:
    """Give the whole chain to a running Ray cluster, with `ray job submit`.

    All nodes must have stin-pipe, and share the paths of the configuration file, the videos and the run.
    """
    (address,) = _needed(address=address)
    config, run, _, splits = checked_chain(click.get_current_context(), _config(), run_path, wanted)
    command = ["ray", "job", "submit", "--address", address, *(["--no-wait"] if no_wait else []), "--"]
    command += ["env", "STIN_PIPE_EXTRACT_RUNNER=ray", "STIN_PIPE_EXTRACT_ADDRESS=auto"]
    command += ["stin-pipe", "run", "--config", str(config), "--run", str(run), "--split", ",".join(splits)]
    if submit:
        _call(command, needs="ray", stdout=sys.stderr)
    else:
        output.show(shlex.join(command))
    output.result({"run": str(run), "splits": splits, "argv": command, "submitted": submit})


@job.command(epilog=KUBERNETES_EXAMPLES)
@run_option(required=False)
@chain_option
@click.option("--image", help="Container image with stin-pipe and Ray (see docker/); required.")
@click.option("--claim", help="Persistent volume claim with videos and run, shared by all pods; required.")
@click.option("--mount", default="/data", help="Where pods see the volume; paths in the file lie under it.")
@click.option("--name", help="Name of the job  [default: the run's]")
@click.option("--namespace", default="default", help="Namespace of the job.")
@click.option("--workers", type=WholeNumber(min=0), default=2, help="Pods that extract beside the head.")
@click.option("--cpus", type=WholeNumber(min=1), default=8, help="CPUs of a pod.")
@click.option("--memory", default="32Gi", help="Memory of a pod, with its shared memory.")
@click.option("--gpus", type=WholeNumber(min=0), default=0, help="GPUs of a pod.")
@click.option("--shm-size", default="8Gi", help="Shared memory of a pod.")
@click.option("--deadline", type=WholeNumber(min=60), default=604800, help="Seconds after which it is ended.")
@click.option("--ttl", type=WholeNumber(min=0), default=600, help="Seconds that a finished job is kept.")
@click.option("--ray-version", help="Ray's version in the image  [default: the one installed here]")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write  [default: standard output]"
)
@common_options
def kubernetes(output: Output, run_path: Path | None, wanted: tuple[str, ...], **options: Any) -> None:
    """Write the manifest of a KubeRay RayJob that does the whole chain.

    The configuration file travels inside; its paths are those that the pods see. After an end the same job
    again resumes.
    """
    from stin_pipe.workflows.jobs.kubernetes import KubernetesJob, render_manifest, videos_in_pods

    image, claim = _needed(image=options["image"], claim=options["claim"])
    config = _config()
    run_path = require_run(config, run_path)
    check_tables_for_pods(click.get_current_context(), config, run_path, wanted)
    with usage_errors():
        manifest = render_manifest(
            KubernetesJob(
                name=options["name"] or run_path.name.lower().replace("_", "-"),
                config_text=config.read_text(encoding="utf-8"),
                run=str(run_path),
                videos=videos_in_pods(config),
                splits=",".join(wanted),
                image=image,
                claim=claim,
                mount=options["mount"],
                ray_version=options["ray_version"] or _ray_version(),
                namespace=options["namespace"],
                workers=options["workers"],
                cpus=options["cpus"],
                memory=options["memory"],
                gpus=options["gpus"],
                shm=options["shm_size"],
                deadline_s=options["deadline"],
                ttl_s=options["ttl"],
            )
        )
    if options["out"]:
        options["out"].write_text(manifest, encoding="utf-8")
        output.show(f"wrote {options['out']}; apply it: kubectl apply -f {shlex.quote(str(options['out']))}")
    else:
        output.show(manifest.rstrip("\n"))
    output.result({"run": str(run_path), "manifest": manifest})


def _needed(**given: str | None) -> list[str]:
    """Return values that must be given; all that lack, the file too, are asked for at once."""
    file = config_path(click.get_current_context())
    lacking = [f"--{name}" for name, value in given.items() if not value]
    if lacking:
        raise click.UsageError(f"needs {' and '.join([*([] if file else ['--config']), *lacking])}")
    return [value for value in given.values() if value]


def _config() -> Path:
    path = config_path(click.get_current_context())
    if path is None:
        raise click.UsageError("--config is missing: a job is made from the file that `stin-pipe run` reads")
    return path.absolute()


def _more(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.replace("-", "").isalpha():
            raise click.UsageError(f"--sbatch: expected NAME=VALUE such as qos=long, got {pair!r}")
        found[name] = value
    return found


def _ray_version() -> str:
    try:
        return metadata.version("ray")
    except metadata.PackageNotFoundError as error:
        raise click.UsageError(
            "--ray-version: ray is not installed here; give the version in the image"
        ) from error


def _call(command: list[str], *, needs: str, stdout: Any = subprocess.PIPE) -> str:
    """Run a program of the cluster and return what it printed, if that does not go elsewhere.

    Raises:
        StinPipeError: it is not here, or failed.
    """
    from stin_pipe.stin.shards.errors import StinPipeError

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if shutil.which(needs, path=path) is None:
        hint = 'pip install "stin-pipe[cluster]"' if needs == "ray" else "call it on a node of the cluster"
        raise StinPipeError(f"--submit: there is no program {needs} here; {hint}")
    done = subprocess.run(command, stdout=stdout, text=True, check=False, env={**os.environ, "PATH": path})
    if done.returncode:
        raise StinPipeError(f"{shlex.join(command)} failed with exit code {done.returncode}")
    return done.stdout or ""
