"""What processes use (proc(5)), and how many files they may open (getrlimit(2))."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fleetnet_server.errors import ConfigError

# Beside sockets a process has its standard files, libraries, store files, pipes.
_OTHER_FILES = 150


class Usage(NamedTuple):
    """CPU seconds of all threads since the start; resident memory in bytes."""

    cpu_s: float
    rss_bytes: int

    @classmethod
    def sum(cls, parts: "Iterable[Usage]") -> "Usage":
        """Return the sum over processes."""
        cpu_s, rss_bytes = 0.0, 0
        for part in parts:
            cpu_s += part.cpu_s
            rss_bytes += part.rss_bytes
        return cls(cpu_s, rss_bytes)


def usage(pid: int | str = "self") -> Usage | None:
    """Return what a process of this machine has used; None when it is gone, or no Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime, stime
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def family_usage(pid: int) -> Usage | None:
    """Return the same for a process and its children: a server may have workers."""
    own = usage(pid)
    if own is None:
        return None
    found = [own]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        child = usage(path.name) if int(fields[1]) == pid else None
        if child is not None:
            found.append(child)
    return Usage.sum(found)


def allow_files(needed: int, what: str, remedy: str) -> None:
    """Raise this process's limit of open files as far as it goes; its children inherit it.

    Args:
        needed: sockets of the process that needs most. what: its name. remedy: what helps.

    Raises:
        ConfigError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed += _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{what} needs {needed} open files, the limit is {hard}: {remedy}, or raise it "
            f"(`ulimit -Hn {needed}`, LimitNOFILE= in a systemd unit)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
