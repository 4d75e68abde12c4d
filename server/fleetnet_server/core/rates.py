"""Token buckets for many keys in a bounded table: who may come how often.

Each bucket is one number, the time at which it will be full again (the generic cell rate
algorithm, ITU-T I.371 annex A): a key that has been quiet for long needs no entry.
"""

import time
from collections.abc import Callable, Hashable

# An entry is a number and a key, some 200 B: 13 MB when every one is taken.
MAX_KEYS = 65_536

# Entries looked at for one newcomer to a full table; the oldest are the likeliest to be full.
_LOOKS = 16

_OTHERS = object()


class RateTable:
    """A token bucket a key: ``rate`` a second, ``burst`` at once.

    A table without room puts newcomers into one bucket for all of them, so that a flood of
    keys buys nothing.

    Args:
        rate: a second, above 0. burst: at least 1.
        most: entries. clock: seconds, monotonic.

    Attributes:
        refused: how often ``take`` said no. crowded: how often a newcomer found no room.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        most: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._most = most
        self._full_at: dict[Hashable, float] = {}
        self.refused = 0
        self.crowded = 0
        self.use(rate, burst)

    def __len__(self) -> int:
        return len(self._full_at)

    def use(self, rate: float, burst: float) -> None:
        """Count with another rate from now on."""
        self._period_s = 1.0 / rate
        self._depth_s = max(0.0, burst - 1.0) / rate

    def take(self, key: Hashable) -> bool:
        """Take one token of a key; False: it has none, and none was taken."""
        now = self._clock()
        full_at = self._full_at.pop(key, None)
        if full_at is None:
            full_at = now
            if len(self._full_at) >= self._most and not self._forget(now):
                self.crowded += 1
                key = _OTHERS
                full_at = self._full_at.pop(key, now)
        full_at = max(full_at, now)
        is_taken = full_at - now <= self._depth_s
        # Put at the end: what is in front has been quiet for the longest time.
        self._full_at[key] = full_at + self._period_s if is_taken else full_at
        self.refused += not is_taken
        return is_taken

    def wait_s(self, key: Hashable) -> float:
        """Return after how many seconds a key has a token again; 0: it has one."""
        return max(0.0, self._full_at.get(key, 0.0) - self._clock() - self._depth_s)

    def _forget(self, now: float) -> bool:
        """Make room by forgetting full buckets, which are as good as new ones."""
        found = []
        for number, (key, full_at) in enumerate(self._full_at.items()):
            if number >= _LOOKS:
                break
            if full_at <= now:
                found.append(key)
        for key in found:
            del self._full_at[key]
        return bool(found)
