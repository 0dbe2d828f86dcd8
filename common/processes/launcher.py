"""What the launcher (torchrun, or a cluster's own) and the system tell a process; free of torch."""

import os


def rank() -> int:
    """Return the number of this process among all; 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Tell whether this process prints, also where no group of processes exists (yet or any more).

    Inside a group `World.is_main` says the same.
    """
    return rank() == 0


def usable_cores() -> int:
    """Count the cores that this process may use; macOS knows those of the machine alone."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_a_rank() -> int:
    """Return the share of the usable cores that falls to a process; at least 1."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
