"""How many CPUs this process may use."""

import os


def usable_cpus() -> int:
    """Return the CPUs that this process may use: under Slurm or taskset fewer than the machine has."""
    return len(os.sched_getaffinity(0))
