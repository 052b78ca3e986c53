"""A KubeRay manifest: the whole chain as one RayJob on Kubernetes."""

import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from stin_pipe.workflows.run.lock import BATCH_JOB

CONFIG_PATH = "/etc/stin-pipe/run.toml"
USER = 10001
"""The user of our images."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


@dataclass(frozen=True, kw_only=True)
class KubernetesJob:
    """What the manifest is made from.

    Attributes:
        name: of the RayJob and its ConfigMap.
        config_text: the run's configuration file; it travels in the ConfigMap.
        run, videos: paths inside the pods, under `mount`.
        splits: value of `stin-pipe run --split`.
        image: container image with stin-pipe and Ray, the same on all pods.
        claim: persistent volume claim that every pod mounts at `mount` (ReadWriteMany).
        workers: pods beside the head that extract.
        cpus, memory, gpus: of each pod.
        shm: size of /dev/shm.
        deadline_s: the job is ended after so many seconds.
        ttl_s: the finished job and its pods are removed after so many seconds.
        retries: new clusters after a failure.
    """

    name: str
    config_text: str
    run: str
    videos: str
    splits: str
    image: str
    claim: str
    mount: str
    ray_version: str
    namespace: str = "default"
    workers: int = 2
    cpus: int = 8
    memory: str = "32Gi"
    gpus: int = 0
    shm: str = "8Gi"
    deadline_s: int = 7 * 24 * 3600
    ttl_s: int = 600
    retries: int = 3
    user: int = USER

    @property
    def entrypoint(self) -> str:
        """The command of the job; extraction uses the cluster in which the job runs."""
        return (
            f"env {BATCH_JOB}={self.namespace}/{self.name} "
            "STIN_PIPE_EXTRACT_RUNNER=ray STIN_PIPE_EXTRACT_ADDRESS=auto "
            f"stin-pipe run --config {CONFIG_PATH} --run {shlex.quote(self.run)} --split {self.splits}"
        )


def render_manifest(job: KubernetesJob) -> str:
    """Return the manifest as YAML.

    Raises:
        ValueError: a value that Kubernetes or the pods could not use; names the option.
    """
    _check(job)
    environment = Environment(
        loader=PackageLoader("stin_pipe.workflows.jobs", "."),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML: every text goes through `q`, as a JSON string
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["q"] = lambda text: json.dumps(str(text))
    return environment.get_template("kubernetes.yaml.jinja").render(job=job).lstrip()


def videos_in_pods(config: Path) -> str:
    """Return the videos' path as the file says it: it need not exist here."""
    table = tomllib.loads(config.read_text(encoding="utf-8")).get("extract", {})
    return str(table.get("videos", "")) if isinstance(table, dict) else ""


def _check(job: KubernetesJob) -> None:
    for option, value, pattern, rule in (
        (
            "--name",
            job.name,
            _NAME,
            "lower-case letters, digits and -, at most 47; without --name it is the run's name",
        ),
        ("--namespace", job.namespace, _NAME, "lower-case letters, digits and -"),
        ("--claim", job.claim, _NAME, "the name of a persistent volume claim"),
        ("--image", job.image, _IMAGE, "an image such as registry/stin-pipe:0.1.0"),
        ("--memory", job.memory, _QUANTITY, "a quantity such as 32Gi"),
        ("--shm-size", job.shm, _QUANTITY, "a quantity such as 8Gi"),
        ("--split", job.splits, re.compile(r"[A-Za-z0-9_.,-]+"), "names separated by commas"),
    ):
        if not pattern.fullmatch(value):
            raise ValueError(f"{option}: {value!r} is not {rule}")
    mount = PurePosixPath(job.mount)
    for key, path in (("run", job.run), ("videos of [extract]", job.videos)):
        inside = PurePosixPath(path)
        if not inside.is_absolute() or ".." in inside.parts or not inside.is_relative_to(mount):
            raise ValueError(
                f"{key}: {path!r} must be an absolute path under --mount {job.mount}, as pods see the volume"
            )
