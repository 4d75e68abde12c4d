"""P6's arithmetic: what a session costs, from what its server cost with and without it."""

from typing import NamedTuple

KEEPALIVE_MS = 60_000
# The golden section: any run of successive numbers is spread evenly over the minute.
_SPREAD = 0.618034


def skew_ms(index: int) -> int:
    """Return how far the clock of a device is set ahead, 0 to just under a keepalive."""
    return int(index * _SPREAD % 1 * KEEPALIVE_MS)


class Standing(NamedTuple):
    """One server with some idle sessions, over one window.

    Attributes:
        cpu_ns: of all its threads. seconds: of the window. resident: bytes at its end.
        pings: keepalives that were answered in it.
    """

    sessions: int
    cpu_ns: int
    seconds: float
    resident: int
    pings: int

    @property
    def share(self) -> float:
        """CPU, in percent of a core."""
        return self.cpu_ns / self.seconds / 1e7


class Cost(NamedTuple):
    """What a session costs at one size, above what the first standing's did.

    Attributes:
        us: CPU of a session in a second. kib: resident memory of a session.
    """

    sessions: int
    us: float
    kib: float


def costs(standings: list[Standing]) -> list[Cost]:
    """Return what a session adds at each size to the first standing, which has a few."""
    first, *rest = standings
    return [
        Cost(
            one.sessions,
            (one.cpu_ns / one.seconds - first.cpu_ns / first.seconds)
            / (one.sessions - first.sessions)
            / 1000,
            (one.resident - first.resident) / (one.sessions - first.sessions) / 1024,
        )
        for one in rest
    ]
