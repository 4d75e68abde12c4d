"""What this machine has, and how busy it is with other things (proc(5))."""

import os
import resource
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Return the memory that a program could have now: MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def open_files() -> int | None:
    """Return how many files a process may open at most, None: no limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def busy_s() -> float:
    """Return the CPU seconds that all cores together have worked since the machine started."""
    fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]  # idle, iowait
    guests = sum(fields[8:10])  # counted in user and nice already
    return (sum(fields) - idle - guests) / os.sysconf("SC_CLK_TCK")
