"""Job scripts for Slurm: extraction over nodes, trainings as an array, evaluation after them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

SCRIPTS = ("extract.sh", "train.sh", "fuse-eval.sh", "chain.sh", "submit.sh")
STREAMS = ("spatial", "temporal")

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:@+*/=&|()\[\]-]*")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d{1,2}(:\d\d){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_UNSAFE_IN_PATH = re.compile(r'["\\\x00-\x1f\x7f]')


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What the scripts are made from.

    Attributes:
        config: the run's configuration file.
        run: run directory, on a path that all nodes share.
        splits: the splits to train and evaluate.
        evaluate: values of `fuse-eval --split`; `all` where that means the splits above.
        out: folder of scripts and logs.
        folder: where the commands are given; relative paths in the configuration start here.
        bin: folder with the programs `stin-pipe` and `ray`.
        nodes: nodes of the extraction; more than one forms a Ray cluster.
        cpus_per_task: CPUs of a node that a job takes.
        gpus_per_node: GPUs of a node that an extraction takes; a training takes one if this is not 0.
        options: further `--name=value` of sbatch, such as partition and account.
        setup: shell lines that each script runs first (`module load ...`), taken as they are.
        warn_s: seconds before the time limit at which Slurm asks a stage to end and the job is queued again.
        max_at_once: trainings of the array that may run at the same time; None is no limit.
    """

    config: Path
    run: Path
    splits: Sequence[str]
    evaluate: Sequence[str]
    out: Path
    folder: Path
    bin: Path
    nodes: int
    cpus_per_task: int
    gpus_per_node: int
    options: dict[str, str]
    setup: Sequence[str] = ()
    warn_s: int = 120
    max_at_once: int | None = None

    @property
    def trainings(self) -> list[tuple[str, str]]:
        """(stream, split) of each task of the array."""
        return [(stream, split) for split in self.splits for stream in STREAMS]

    @property
    def name(self) -> str:
        """Name of the jobs: the run's, in the letters that every tool takes."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", self.run.name) or "run"


def check_job(job: SlurmJob) -> None:
    """Refuse what could not stand in a script as one harmless word or path.

    Raises:
        ValueError: names the option and what it may hold.
    """
    for name, value in job.options.items():
        if not _WORD.fullmatch(value):
            raise ValueError(
                f"--{name}: {value!r} is no word for a job script: letters, digits and _.,:@+*/=&|()[]-"
            )
    if (time := job.options.get("time")) is not None and not _TIME.fullmatch(time):
        raise ValueError(
            f"--time: {time!r} is no time of Slurm: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
        )
    for split in job.splits:
        if not _WORD.fullmatch(split):
            raise ValueError(f"--split: {split!r} is no word for a job script")
    for name, path in (("out", job.out), ("config", job.config), ("folder", job.folder), ("run", job.run)):
        if _UNSAFE_IN_PATH.search(str(path)):
            raise ValueError(
                f"--{name}: {str(path)!r} holds quotes, backslashes or control characters, which no job "
                "script can carry safely; use another path"
            )
    for line in job.setup:
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise ValueError(f"--setup: {line!r} must be one line; give the option once a line")


def render_scripts(job: SlurmJob) -> dict[str, str]:
    """Return the content of each script by its name.

    Raises:
        ValueError: a value that cannot stand in a script.
    """
    check_job(job)
    environment = Environment(
        loader=PackageLoader("stin_pipe.workflows.jobs", "."),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - shell scripts: every value goes through `sh` or `directive`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"sh": lambda value: shlex.quote(str(value)), "directive": _directive}
    return {name: environment.get_template(f"{name}.jinja").render(job=job) for name in SCRIPTS}


def _directive(path: Path) -> str:
    """Return a path as a value of a `#SBATCH` line: quoted, its own % kept from sbatch's patterns."""
    return '"' + str(path).replace("%", "%%") + '"'
