"""What the HTTP side counts of itself; used on the event loop only."""

from collections import Counter

from fleetnet_server.core.histogram import Histogram

# Of requests, seconds: a page of readings may take one, a command that is waited for ten.
_BOUNDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")


class Requests:
    """Answers by method and status, and how long they took to begin."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self.took = Histogram(_BOUNDS)

    def count(self, method: str, status: int, seconds: float) -> None:
        """An answer began."""
        known = method if method in _METHODS else "other"
        self.counts[known, status] += 1
        self.took.add(seconds)


class Lag:
    """How late a timer of the event loop comes; whoever waits for one calls ``add``."""

    def __init__(self) -> None:
        self._worst = [0.0, 0.0]

    def add(self, seconds: float) -> None:
        """A timer was so late."""
        self._worst[0] = max(self._worst[0], seconds)

    def next_period(self) -> None:
        """Ten seconds are over."""
        self._worst = [0.0, self._worst[0]]

    @property
    def seconds(self) -> float:
        """The worst of this period and the one before."""
        return max(self._worst)
