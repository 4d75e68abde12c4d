"""How long things took, by upper bounds: what Prometheus makes percentiles of."""

import bisect


class Histogram:
    """Counts of seconds; used by one thread.

    Args:
        bounds: seconds, growing; what took longer than the last one is counted as well.

    Attributes:
        total: seconds of all together.
    """

    def __init__(self, bounds: tuple[float, ...]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def cumulated(self) -> list[tuple[str, float]]:
        """Return (bound, how many took no longer), the last one "+Inf"."""
        total = 0
        found = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found
