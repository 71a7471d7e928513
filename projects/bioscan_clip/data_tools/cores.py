"""How many processes can work at once."""

import os


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # says less than cpu_count() inside a SLURM job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
