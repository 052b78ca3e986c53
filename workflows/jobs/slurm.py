"""Job scripts for Slurm: extraction over nodes, trainings as an array, evaluation after them."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.workflows.jobs.programs import call_program, require_printable

SCRIPTS = ("extract.sh", "train.sh", "fuse-eval.sh", "chain.sh", "submit.sh")

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:@+*/=&|()\[\]-]*")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d{1,2}(:\d\d){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_UNSAFE_IN_PATH = re.compile(r'["\\]')


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """The options of `job slurm`.

    Attributes:
        out: folder of scripts and logs; None is FILE.slurm beside the configuration file.
        nodes: nodes of the extraction; more than one form a Ray cluster.
        cpus_per_task: CPUs that a job takes on a node.
        gpus_per_node: GPUs of a node that an extraction takes; a training takes one if this is not 0.
        partition, account, time_limit, mem: options of sbatch.
        sbatch: further options of sbatch, by name.
        setup: shell lines that each script runs first (`module load ...`), taken as they are.
        max_at_once: trainings that may run at the same time; None is no limit.
        warn_s: seconds before the time limit at which Slurm asks a stage to end and the job is queued again.
    """

    out: Path | None = None
    nodes: int = 1
    cpus_per_task: int = 8
    gpus_per_node: int = 0
    partition: str | None = None
    account: str | None = None
    time_limit: str | None = None
    mem: str | None = None
    sbatch: Mapping[str, str] = field(default_factory=dict)
    setup: Sequence[str] = ()
    max_at_once: int | None = None
    warn_s: int = 120

    @property
    def directives(self) -> dict[str, str]:
        """Options of sbatch by name, for `#SBATCH --name=value` lines."""
        named = {"partition": self.partition, "account": self.account}
        named |= {"time": self.time_limit, "mem": self.mem, **self.sbatch}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What the scripts are made from.

    Attributes:
        config: the run's configuration file.
        run: run directory, on a path that all nodes share.
        splits: the splits to train.
        streams: the streams to train.
        evaluate: values of `fuse-eval --split`.
        folder: where the commands run; relative paths in the configuration start here.
        bin: folder with the programs `stin-pipe` and `ray`.
    """

    options: SlurmOptions
    config: Path
    run: Path
    splits: Sequence[str]
    evaluate: Sequence[str]
    streams: Sequence[str] = STREAMS
    folder: Path = field(default_factory=Path.cwd)
    bin: Path = field(default_factory=lambda: Path(sys.executable).parent)

    @property
    def out(self) -> Path:
        """Folder of scripts and logs."""
        return (self.options.out or self.config.with_suffix(".slurm")).absolute()

    @property
    def trainings(self) -> list[tuple[str, str]]:
        """(stream, split) of each task of the array."""
        return [(stream, split) for split in self.splits for stream in self.streams]

    @property
    def name(self) -> str:
        """Name of the jobs: that of the run, in characters that every tool accepts."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", self.run.name) or "run"


def write_scripts(job: SlurmJob) -> list[Path]:
    """Write all scripts into the job's folder.

    Raises:
        ValueError: a value that cannot stand in a script.
    """
    scripts = render_scripts(job)
    job.out.mkdir(parents=True, exist_ok=True)
    for name, content in scripts.items():
        path = job.out / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)
    return [job.out / name for name in scripts]


def submit_scripts(job: SlurmJob) -> dict[str, str]:
    """Submit the written scripts in order; return the number of each job by its name.

    Raises:
        StinPipeError: sbatch is missing, or fails.
    """
    lines = call_program(["bash", str(job.out / "submit.sh")], needs="sbatch").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def render_scripts(job: SlurmJob) -> dict[str, str]:
    """Return the content of each script by its name.

    Raises:
        ValueError: a value that cannot stand in a script.
    """
    _check(job)
    environment = Environment(
        loader=PackageLoader("stin_pipe.workflows.jobs", "."),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - shell scripts: every value goes through `sh` or `directive`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Paths and names are what people typed; none may turn into a second word or a command.
    environment.filters |= {"sh": lambda value: shlex.quote(str(value)), "directive": _directive}
    return {
        name: environment.get_template(f"{name}.jinja").render(job=job, options=job.options)
        for name in SCRIPTS
    }


def _check(job: SlurmJob) -> None:
    """Refuse what could not stand in a script as one harmless word or path."""
    # sbatch reads `#SBATCH` lines by rules of its own, not those of a shell, so quoting would not do.
    words = [*job.options.directives.items(), *(("split", split) for split in job.splits)]
    for name, value in words:
        if not _WORD.fullmatch(value):
            raise ArgumentError(
                f"--{name}: {value!r} contains characters that are not allowed in a job script; allowed are "
                "letters, digits and _.,:@+*/=&|()[]-",
                {"time": "time_limit", "split": "splits"}.get(name, name),
            )

    # A wrong time would show only when sbatch is called, perhaps on another machine.
    time = job.options.directives.get("time", "0")
    if not _TIME.fullmatch(time):
        raise ArgumentError(
            f"--time: {time!r} is not a time that Slurm knows: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or "
            "D-HH:MM:SS",
            "time_limit",
        )

    for name, path in (("out", job.out), ("config", job.config), ("folder", job.folder), ("run", job.run)):
        require_printable(name, str(path))
        if _UNSAFE_IN_PATH.search(str(path)):
            raise ArgumentError(
                f"--{name}: {str(path)!r} contains quotes or backslashes, which are not "
                "safe in a job script; use another path",
                {"run": "run_path"}.get(name, name),
            )

    # Setup lines are meant to be shell code, but a line break in one can only be a mistake.
    for line in job.options.setup:
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise ArgumentError(f"--setup: {line!r} must be one line; repeat the option for more", "setup")


def _directive(path: Path) -> str:
    """Return a path as the value of an `#SBATCH` line; sbatch expands % as a pattern unless it is doubled."""
    return '"' + str(path).replace("%", "%%") + '"'
