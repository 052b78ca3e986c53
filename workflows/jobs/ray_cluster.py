"""The chain as a job of a Ray cluster that is running."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.workflows.jobs.programs import call_program, require_printable


@dataclass(frozen=True, kw_only=True)
class RayJobOptions:
    """The options of `job ray`.

    Attributes:
        address: of the cluster's job server, `http://HEAD:8265`.
        no_wait: return once the job is submitted, without following its log.
    """

    address: str
    no_wait: bool = False


def ray_command(config: Path, run: Path, splits: Sequence[str], options: RayJobOptions) -> list[str]:
    """Return the `ray job submit` command; extraction uses the cluster in which the job runs."""
    for name, value in (("config", config), ("run", run), ("address", options.address)):
        require_printable(name, str(value))
    return [
        *("ray", "job", "submit", "--address", options.address, *(["--no-wait"] if options.no_wait else [])),
        *("--", "env", "STIN_PIPE_EXTRACT_RUNNER=ray", "STIN_PIPE_EXTRACT_ADDRESS=auto"),
        *("stin-pipe", "run", "--config", str(config), "--run", str(run), "--split", ",".join(splits)),
    ]


def submit_to_ray(command: list[str]) -> None:
    """Run the command; the job's log goes to standard error, since results go to standard output.

    Raises:
        StinPipeError: ray is missing, or the job fails.
    """
    call_program(command, needs="ray", stdout=sys.stderr)
