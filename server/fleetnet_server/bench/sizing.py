"""What measured figures mean for a fleet on this machine."""

from typing import NamedTuple

from fleetnet_server.bench.measure import LinkFigures

# Of the core and of the memory: the rest is for devices that come back all at once, queries,
# the dashboard, and whatever else the machine does.
HEADROOM = 0.5


class Size(NamedTuple):
    """How many devices of one reading a second, each in a message of its own.

    Attributes:
        by_cpu: half of one core (the server is one process). by_memory: half of what is free.
        by_files: None without limit, and over DTLS, where all devices share one socket.
        devices: the least of these. bound: which it is, "cpu", "memory" or "files".
        back_s: seconds until so many are back after a restart, with half of a core.
    """

    by_cpu: int
    by_memory: int
    by_files: int | None
    devices: int
    bound: str
    back_s: float


def size_of(figures: LinkFigures, memory_bytes: int, files: int | None) -> Size:
    """Return how large a fleet may be.

    Args:
        memory_bytes: that a program could have now. files: that it may open; None: no limit.
    """
    by_cpu = _rounded(HEADROOM * figures.readings_per_core_s)
    per_session = max(1.0, figures.session_bytes)
    by_memory = _rounded(HEADROOM * memory_bytes / per_session)
    limits = {"cpu": by_cpu, "memory": by_memory}
    if files is not None:
        limits["files"] = files
    bound = min(limits, key=lambda name: limits[name])
    back_s = limits[bound] / (HEADROOM * figures.handshakes_per_core_s)
    return Size(by_cpu, by_memory, files, limits[bound], bound, back_s)


def _rounded(number: float) -> int:
    """Round down to two digits: a figure of some seconds is no better."""
    whole = int(number)
    unit: int = 10 ** max(0, len(str(whole)) - 2)
    return whole // unit * unit
