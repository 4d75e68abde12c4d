"""Times in buckets: constant memory, and those of several processes can be added up."""

import math
from collections.abc import Mapping

# The lower end of the first bucket in ms, and how much wider each is than the last: a
# percentile is at most 5 % above the true one.
_LEAST_MS = 0.01
_GROWTH = math.log(1.05)

# Nothing is kept apart above an hour: the table has at most 404 entries.
_MOST = math.ceil(math.log(3_600_000 / _LEAST_MS) / _GROWTH)


_SHARES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))


class Histogram:
    """How often which time was seen.

    Attributes:
        count: of all times; total_ms: their sum; most_ms: the longest.
    """

    __slots__ = ("_buckets", "count", "most_ms", "total_ms")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total_ms = 0.0
        self.most_ms = 0.0

    def add(self, ms: float, times: int = 1) -> None:
        """Note ``ms``, ``times`` times over."""
        place = 0 if ms <= _LEAST_MS else math.ceil(math.log(ms / _LEAST_MS) / _GROWTH)
        place = min(place, _MOST)
        self._buckets[place] = self._buckets.get(place, 0) + times
        self.count += times
        self.total_ms += ms * times
        self.most_ms = max(self.most_ms, ms)

    def percentile(self, share: float) -> float | None:
        """Return the time in ms that ``share`` (0 to 1) of all did not exceed; None without any."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for place in sorted(self._buckets):
            seen += self._buckets[place]
            if seen >= wanted:
                return min(self.most_ms, _LEAST_MS * math.exp(place * _GROWTH))
        return self.most_ms

    def summary(self) -> dict[str, float | int | None]:
        """Return {"count", "mean", "p50", "p90", "p95", "p99", "max"}; ms, None without any."""
        mean = self.total_ms / self.count if self.count else None
        found: dict[str, float | int | None] = {"count": self.count, "mean": _round(mean)}
        for name, share in _SHARES:
            found[name] = _round(self.percentile(share))
        found["max"] = _round(self.most_ms if self.count else None)
        return found

    def merge(self, other: "Histogram") -> None:
        """Add what ``other`` has seen."""
        for place, times in other._buckets.items():
            self._buckets[place] = self._buckets.get(place, 0) + times
        self.count += other.count
        self.total_ms += other.total_ms
        self.most_ms = max(self.most_ms, other.most_ms)

    def to_json(self) -> dict[str, object]:
        """Return what ``from_json`` takes."""
        buckets = {str(place): times for place, times in self._buckets.items()}
        return {"buckets": buckets, "total_ms": self.total_ms, "most_ms": self.most_ms}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> "Histogram":
        """Read the document of ``to_json``; an empty one gives an empty histogram."""
        made = cls()
        buckets = document.get("buckets") or {}
        assert isinstance(buckets, dict)
        made._buckets = {int(place): int(times) for place, times in buckets.items()}
        made.count = sum(made._buckets.values())
        made.total_ms = float(str(document.get("total_ms", 0.0)))
        made.most_ms = float(str(document.get("most_ms", 0.0)))
        return made


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 2)
