"""A KubeRay manifest: the whole chain as one RayJob on Kubernetes."""

import json
import re
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.workflows.jobs.programs import require_printable
from stin_pipe.workflows.run.lock import BATCH_JOB

CONFIG_PATH = "/etc/stin-pipe/run.toml"
USER = 10001
"""The user of our images; pods must not run as root."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SPLITS = re.compile(r"[A-Za-z0-9_.,-]+")


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """The options of `job kubernetes`.

    Attributes:
        image: container image with stin-pipe and Ray, the same on all pods.
        claim: persistent volume claim that every pod mounts at `mount` (ReadWriteMany).
        name: of the RayJob and its ConfigMap; None is the run's name.
        workers: pods that extract, beside the head.
        cpus, memory, gpus, shm_size: of each pod; shared memory counts as memory of the pod.
        deadline: seconds after which the job is ended.
        ttl: seconds after which the finished job and its pods are removed.
        ray_version: of Ray in the image; None is that of the Ray installed here.
        out: file to write; None is standard output.
    """

    image: str
    claim: str
    mount: str = "/data"
    name: str | None = None
    namespace: str = "default"
    workers: int = 2
    cpus: int = 8
    memory: str = "32Gi"
    gpus: int = 0
    shm_size: str = "8Gi"
    deadline: int = 7 * 24 * 3600
    ttl: int = 600
    ray_version: str | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class KubernetesJob:
    """What the manifest is made from.

    Attributes:
        config_text: the run's configuration file; it travels in the ConfigMap.
        run, videos: paths inside the pods, under the mount.
        splits: value of `stin-pipe run --split`.
        retries: new clusters after a failure.
    """

    options: KubernetesOptions
    config_text: str
    run: str
    videos: str
    splits: str
    retries: int = 3
    user: int = USER

    @property
    def name(self) -> str:
        """Name of the RayJob and its ConfigMap."""
        return self.options.name or PurePosixPath(self.run).name.lower().replace("_", "-")

    @property
    def ray_version(self) -> str:
        """Version of Ray in the image.

        Raises:
            ValueError: no option says it, and Ray is not installed here.
        """
        if self.options.ray_version:
            return self.options.ray_version
        try:
            return metadata.version("ray")
        except metadata.PackageNotFoundError as error:
            raise ArgumentError(
                "--ray-version: ray is not installed here; give its version in the image", "ray_version"
            ) from error

    @property
    def entrypoint(self) -> str:
        """The command of the job; extraction uses the cluster in which the job runs."""
        return (
            f"env {BATCH_JOB}={self.options.namespace}/{self.name} "
            "STIN_PIPE_EXTRACT_RUNNER=ray STIN_PIPE_EXTRACT_ADDRESS=auto "
            f"stin-pipe run --config {CONFIG_PATH} --run {shlex.quote(self.run)} --split {self.splits}"
        )


def render_manifest(job: KubernetesJob) -> str:
    """Return the manifest as YAML.

    Raises:
        ValueError: a value that Kubernetes or the pods cannot use; names the option.
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
    environment.filters["q"] = lambda text: quoted(str(text))
    return environment.get_template("kubernetes.yaml.jinja").render(job=job, options=job.options).lstrip()


def quoted(text: str) -> str:
    """Return a text as a double-quoted scalar that YAML and JSON read alike.

    JSON writes an emoji as two halves when it writes ASCII only, and YAML reads those as two broken letters.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def _check(job: KubernetesJob) -> None:
    # Kubernetes refuses most of these itself, but minutes later and in other words.
    options = job.options
    for name, value, pattern, rule in (
        (
            "name",
            job.name,
            _NAME,
            "lower-case letters, digits and -, at most 47 of them; without --name it is the run's name",
        ),
        ("namespace", options.namespace, _NAME, "lower-case letters, digits and -"),
        ("claim", options.claim, _NAME, "the name of a persistent volume claim"),
        ("image", options.image, _IMAGE, "an image such as registry/stin-pipe:0.1.0"),
        ("memory", options.memory, _QUANTITY, "a quantity such as 32Gi"),
        ("shm_size", options.shm_size, _QUANTITY, "a quantity such as 8Gi"),
        ("split", job.splits, _SPLITS, "names separated by commas"),
    ):
        # The value goes into YAML as a JSON string, so this is about meaning, not about safety.
        if not pattern.fullmatch(value):
            flag = "--" + name.replace("_", "-")
            raise ArgumentError(f"{flag}: {value!r} is not {rule}", {"split": "splits"}.get(name, name))

    for name, value in (("run", job.run), ("mount", options.mount)):
        require_printable(name, value)

    # A path outside the volume would exist in one pod only and be lost with it.
    mount = PurePosixPath(options.mount)
    for key, path in (("run", job.run), ("videos of [extract]", job.videos)):
        inside = PurePosixPath(path)
        if not inside.is_absolute() or ".." in inside.parts or not inside.is_relative_to(mount):
            raise ValueError(
                f"{key}: {path!r} must be an absolute path under --mount {options.mount}, where pods see the "
                "volume"
            )
