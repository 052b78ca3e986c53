"""`stin-pipe job`: the chain of a configuration file as jobs of Slurm, of a Ray cluster or of Kubernetes."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stin_pipe.stin.shards.bounded import read_bytes
from stin_pipe.workflows.terminal.config_file import CONFIGURATION, config_path
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import DIRECTORY, Names, Pair, WholeNumber

SLURM_EXAMPLES = """\b
Examples:
  stin-pipe job slurm --config run.toml --nodes 4 --cpus-per-task 16 --partition cpu --time 12:00:00
  stin-pipe job slurm --config run.toml --gpus-per-node 1 --account vision --submit
"""
RAY_EXAMPLES = """\b
Examples:
  stin-pipe job ray --config /shared/run.toml --address http://head:8265             # show the command
  stin-pipe job ray --config /shared/run.toml --address http://head:8265 --submit
"""
KUBERNETES_EXAMPLES = """\b
Example:
  stin-pipe job kubernetes --config run.toml --image registry/stin-pipe:0.1.0 --claim videos > job.yaml
"""


def _chain_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every kind of job asks of the chain."""
    split = click.option(
        "--split",
        "splits",
        type=Names(),
        default="all",
        help="Splits to train and evaluate, separated by commas; all takes every split of the data.",
    )
    return run_option(required=False)(split(function))


@click.group(epilog=SLURM_EXAMPLES)
def job() -> None:
    """Turn the chain of a configuration file into cluster jobs."""


@job.command(epilog=SLURM_EXAMPLES)
@_chain_options
@click.option(
    "--out", type=DIRECTORY, help="Folder for scripts and logs.  [default: FILE.slurm beside the file]"
)
@click.option("--nodes", type=WholeNumber(min=1), default=1, help="Nodes for the extraction.")
@click.option("--cpus-per-task", type=WholeNumber(min=1), default=8, help="CPUs per node for each job.")
@click.option(
    "--gpus-per-node",
    type=WholeNumber(min=0),
    default=0,
    help="GPUs per node for the extraction; each training takes one GPU, unless this is 0.",
)
@click.option("--partition", help="Passed to sbatch.")
@click.option("--account", help="Passed to sbatch.")
@click.option(
    "--time",
    "time_limit",
    help="Passed to sbatch; a job that needs longer is put back into the queue and resumes.",
)
@click.option("--mem", help="Passed to sbatch.")
@click.option(
    "--sbatch",
    type=Pair(example="qos=long"),
    multiple=True,
    callback=lambda ctx, param, value: dict(value),
    help="Any other option of sbatch; repeatable.",
)
@click.option(
    "--setup", multiple=True, metavar="LINE", help="Shell line that each script runs first; repeatable."
)
@click.option("--max-at-once", type=WholeNumber(min=1), help="Most trainings that run at the same time.")
@click.option(
    "--warn",
    "warn_s",
    type=WholeNumber(10, 3600),
    default=120,
    help="Seconds before the end of --time at which a stage is asked to stop.",
)
@click.option("--submit", is_flag=True, help="Submit the jobs.")
@common_options
def slurm(
    output: Output, run_path: Path | None, splits: tuple[str, ...], submit: bool, **values: Any
) -> None:
    """Write commented job scripts for Slurm, and submit them if asked.

    extract.sh runs on one node, or on several that it joins into a Ray cluster; train.sh is an array over
    splits and streams; fuse-eval.sh follows. submit.sh submits these three in order; chain.sh does everything
    in one job. Jobs that are preempted or reach their time limit stop in order, go back into the queue and
    resume.
    """
    from stin_pipe.workflows.jobs.slurm import SlurmJob, SlurmOptions, submit_scripts, write_scripts
    from stin_pipe.workflows.run.chain import read_checked_chain

    with usage_errors():
        options = SlurmOptions(**values)
        chain = read_checked_chain(click.get_current_context(), _config(), run_path, splits)
        slurm_job = SlurmJob(
            options=options,
            config=chain.options.config,
            run=chain.options.run.path,
            splits=chain.splits,
            evaluate=chain.evaluate,
            streams=chain.options.streams,
        )
        scripts = write_scripts(slurm_job)

    numbers: dict[str, str] = {}
    if submit:
        numbers = submit_scripts(slurm_job)
        for name, number in numbers.items():
            output.show(f"{name}: job {number}")
        output.show(f"follow them with squeue, and with: stin-pipe status --run {slurm_job.run}")
    else:
        output.show(f"wrote {', '.join(path.name for path in scripts)} to {slurm_job.out}")
        output.show(f"to submit them: {shlex.join(['bash', str(slurm_job.out / 'submit.sh')])}")
    output.result(
        {
            "run": str(slurm_job.run),
            "splits": list(chain.splits),
            "scripts": [str(path) for path in scripts],
            "jobs": numbers,
        }
    )


@job.command(epilog=RAY_EXAMPLES)
@_chain_options
@click.option("--address", help="Address of the cluster's job server, http://HEAD:8265.  [required]")
@click.option("--no-wait", is_flag=True, help="Return once the job is submitted, without following its log.")
@click.option("--submit", is_flag=True, help="Submit the job; without it, the command is only shown.")
@common_options
def ray(output: Output, run_path: Path | None, splits: tuple[str, ...], submit: bool, **values: Any) -> None:
    """Submit the whole chain to a running Ray cluster, with `ray job submit`.

    All nodes need stin-pipe, and the same paths to the configuration file, the videos and the run.
    """
    from stin_pipe.workflows.jobs.ray_cluster import RayJobOptions, ray_command, submit_to_ray
    from stin_pipe.workflows.run.chain import read_checked_chain

    _require(values, "address")
    with usage_errors():
        chain = read_checked_chain(click.get_current_context(), _config(), run_path, splits)
    run = chain.options.run.path
    command = ray_command(chain.options.config, run, chain.splits, RayJobOptions(**values))
    if submit:
        submit_to_ray(command)
    else:
        output.show(shlex.join(command))
    output.result({"run": str(run), "splits": list(chain.splits), "argv": command, "submitted": submit})


@job.command(epilog=KUBERNETES_EXAMPLES)
@_chain_options
@click.option("--image", help="Container image with stin-pipe and Ray (see docker/).  [required]")
@click.option(
    "--claim", help="Persistent volume claim with the videos and the run, shared by all pods.  [required]"
)
@click.option("--mount", default="/data", help="Where pods mount the volume; paths in the file lie under it.")
@click.option("--name", help="Name of the job.  [default: the run's name]")
@click.option("--namespace", default="default", help="Namespace of the job.")
@click.option("--workers", type=WholeNumber(min=0), default=2, help="Pods that extract, beside the head.")
@click.option("--cpus", type=WholeNumber(min=1), default=8, help="CPUs of each pod.")
@click.option("--memory", default="32Gi", help="Memory of each pod, shared memory included.")
@click.option("--gpus", type=WholeNumber(min=0), default=0, help="GPUs of each pod.")
@click.option("--shm-size", default="8Gi", help="Shared memory of each pod.")
@click.option(
    "--deadline", type=WholeNumber(min=60), default=604800, help="Seconds after which the job is ended."
)
@click.option("--ttl", type=WholeNumber(min=0), default=600, help="Seconds for which a finished job is kept.")
@click.option("--ray-version", help="Version of Ray in the image.  [default: that of the Ray installed here]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: standard output]",
)
@common_options
def kubernetes(output: Output, run_path: Path | None, splits: tuple[str, ...], **values: Any) -> None:
    """Write the manifest of a KubeRay RayJob that does the whole chain.

    The configuration file travels inside the manifest, so its paths are those that the pods see. Applied
    again after an end, the job resumes.
    """
    from stin_pipe.workflows.jobs.kubernetes import KubernetesJob, KubernetesOptions, render_manifest
    from stin_pipe.workflows.run.chain import check_for_pods, read_chain

    _require(values, "image", "claim")
    options = KubernetesOptions(**values)

    # Paths stay as they are written: they are those of the pods, not of this machine.
    with usage_errors():
        config = _config()
        chain = read_chain(click.get_current_context(), config, run_path, files_are_here=False)
        check_for_pods(chain, splits)
        manifest = render_manifest(
            KubernetesJob(
                options=options,
                config_text=read_bytes(config, CONFIGURATION).decode(),
                run=str(run_path),
                videos=str(chain.videos),
                splits=",".join(splits),
            )
        )

    # Without a file the manifest goes to standard output, for `kubectl apply -f -`.
    if options.out:
        options.out.write_text(manifest, encoding="utf-8")
        output.show(f"wrote {options.out}; to apply it: kubectl apply -f {shlex.quote(str(options.out))}")
    else:
        for line in manifest.rstrip("\n").split("\n"):
            output.show(line)
    output.result({"run": str(run_path), "manifest": manifest})


def _require(values: dict[str, Any], *names: str) -> None:
    """Refuse a call without these options; all that are missing, the file too, are asked for at once."""
    missing = [f"--{name}" for name in names if not values[name]]
    if missing:
        file = config_path(click.get_current_context())
        raise click.UsageError(f"needs {' and '.join([*([] if file else ['--config']), *missing])}")


def _config() -> Path:
    from stin_pipe.workflows.jobs.programs import require_printable

    path = config_path(click.get_current_context())
    if path is None:
        raise click.UsageError("--config is missing: a job is made from the file that `stin-pipe run` reads")
    require_printable("config", str(path))
    return path.absolute()
