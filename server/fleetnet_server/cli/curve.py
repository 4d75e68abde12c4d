"""A curve of any number of readings in bounded memory: least, mean and greatest by time.

Points are gathered into buckets of one width in time. When there are too many buckets the
width doubles, and each pair becomes one: what is kept depends on the resolution, not on the
number of readings or on the span.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.summaries import StoredSum

_MOST = 2048
_YEAR_10000_MS = 253_402_300_800_000  # what no calendar of Python's shows
_MOST_NUMBER = 1e300  # of larger ones sums are infinite


class Bucket(NamedTuple):
    """The numbers of one span of time; ``unix_ms`` is of the first of them,
    ``number`` is how many they are."""

    unix_ms: int
    low: float
    mean: float
    high: float
    number: int


class Curve:
    """Gathers numbers, in order of time.

    Attributes:
        count: numbers taken. skipped: readings that are no numbers, or have no date.
    """

    def __init__(self, most: int = _MOST):
        self._most = most
        self._width_ms = 1
        self._origin_ms = 0
        self._buckets: dict[int, Bucket] = {}
        self.count = 0
        self.skipped = 0

    def add_all(self, found: Iterable[Reading | StoredSum]) -> "Curve":
        """Take readings, and at its middle what is kept of some; truth values are 0 and 1."""
        for one in found:
            if isinstance(one, StoredSum):
                self.add_sum(one)
            else:
                self.add(one.unix_ms, one.value)
        return self

    def add_sum(self, one: StoredSum) -> None:
        """Take what retention kept of a minute or an hour."""
        middle = one.unix_ms + one.length_ms // 2
        if middle >= _YEAR_10000_MS or max(abs(one.low), abs(one.high)) >= _MOST_NUMBER:
            self.skipped += one.count
            return
        self._take(Bucket(middle, one.low, one.mean, one.high, one.count))

    def add(self, unix_ms: int | None, value: Any) -> None:
        """Take one reading."""
        is_number = isinstance(value, int | float) and abs(value) < _MOST_NUMBER
        if unix_ms is None or unix_ms >= _YEAR_10000_MS or not is_number:
            self.skipped += 1
            return
        number = float(value)
        self._take(Bucket(unix_ms, number, number, number, 1))

    def _take(self, one: Bucket) -> None:
        if not self.count:
            self._origin_ms = one.unix_ms
        self.count += one.number
        self._put((one.unix_ms - self._origin_ms) // self._width_ms, one)
        while len(self._buckets) > self._most:
            self._halve()

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets that hold something, in order of time."""
        return [self._buckets[key] for key in sorted(self._buckets)]

    def _halve(self) -> None:
        before, self._buckets = self._buckets, {}
        self._width_ms *= 2
        for key in sorted(before):
            self._put(key // 2, before[key])

    def _put(self, key: int, more: Bucket) -> None:
        old = self._buckets.get(key)
        if old is None:
            self._buckets[key] = more
            return
        count = old.number + more.number
        mean = old.mean + (more.mean - old.mean) * (more.number / count)
        self._buckets[key] = Bucket(
            min(old.unix_ms, more.unix_ms), min(old.low, more.low), mean,
            max(old.high, more.high), count,
        )  # fmt: skip
