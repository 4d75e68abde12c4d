"""What tells a new message from a copy: the watermark of each stream, and the holes below it.

A stream is (epoch, stream). All of it is read and written in the transaction that stores the
messages, with the rows of ``streams`` locked in order, so that two servers wait for each other
and never both take the same message (schema_messages.py).

A message above the next number leaves a hole, which what is still at a hub may fill. Of a device
without a hub nothing comes late: there it is the numbers of fragments, each message of which has
but one row. Such a hole is not kept: they would be for ever.
"""

from bisect import bisect_right
from collections.abc import Iterable

Stream = tuple[int, int]

# In order of the key, so that no two servers lock in a circle. A stream that is new gets its row
# first: without one there is nothing to lock.
NEW_STREAMS = (
    "INSERT INTO streams(epoch, stream, last) SELECT epoch, stream, 0"
    " FROM unnest(%s::bigint[], %s::int[]) AS wanted(epoch, stream) ORDER BY 1, 2"
    " ON CONFLICT (epoch, stream) DO NOTHING"
)
LOCK_STREAMS = (
    "SELECT s.epoch, s.stream, s.last FROM streams AS s"
    " JOIN unnest(%s::bigint[], %s::int[]) AS wanted(epoch, stream)"
    " ON s.epoch = wanted.epoch AND s.stream = wanted.stream"
    " ORDER BY 1, 2 FOR UPDATE OF s"
)
HOLES = (
    "SELECT h.epoch, h.stream, h.first, h.last FROM holes AS h"
    " JOIN unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[])"
    " AS wanted(epoch, stream, low, high) ON h.epoch = wanted.epoch"
    " AND h.stream = wanted.stream AND h.first <= wanted.high AND h.last >= wanted.low"
    " ORDER BY 1, 2, 3"
)
MOVE_STREAMS = (
    "UPDATE streams AS s SET last = moved.last, received = greatest(s.received, moved.received)"
    " FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[])"
    " AS moved(epoch, stream, last, received)"
    " WHERE s.epoch = moved.epoch AND s.stream = moved.stream"
)
FILL_HOLES = (
    "DELETE FROM holes AS h USING unnest(%s::bigint[], %s::int[], %s::bigint[])"
    " AS filled(epoch, stream, first) WHERE h.epoch = filled.epoch"
    " AND h.stream = filled.stream AND h.first = filled.first"
)
DIG_HOLES = (
    "INSERT INTO holes(epoch, stream, first, last)"
    " SELECT * FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[])"
)
DIG_HOLES_OF_HUBS = (
    "INSERT INTO holes(epoch, stream, first, last) SELECT d.*"
    " FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[])"
    " AS d(epoch, stream, first, last) WHERE EXISTS (SELECT 1 FROM epochs AS e"
    " JOIN hubs AS h ON h.device = e.device WHERE e.id = d.epoch)"
)


class Marks:
    """The streams of one transaction.

    Args:
        last: the watermark of each stream, as it was locked.

    Attributes:
        moved: streams that changed, with when their newest message came, unix ms.
    """

    def __init__(self, last: dict[Stream, int]):
        self.last = last
        self.moved: dict[Stream, int] = {}
        self._stored: dict[Stream, dict[int, int]] = {}  # first -> last, as in the table
        self._holes: dict[Stream, list[tuple[int, int]]] = {}
        self._leapt: set[tuple[int, ...]] = set()  # by a message; whole since then

    def load(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Take holes from the table, in their order."""
        for epoch, stream, first, last in rows:
            self._stored.setdefault((epoch, stream), {})[first] = last
            self._holes.setdefault((epoch, stream), []).append((first, last))

    def take(self, stream: Stream, seq: int, received: int) -> bool:
        """Say whether a message is new, and remember it."""
        last = self.last[stream]
        if seq > last:
            if seq > last + 1:
                self._leapt.add((*stream, last + 1, seq - 1))
            self._raise(stream, seq, seq)
        elif not self._fill(stream, seq, seq):
            return False
        self.moved[stream] = max(received, self.moved.get(stream, 0))
        return True

    def give_up(self, stream: Stream, first: int, last: int) -> None:
        """Messages ``first`` to ``last`` will never come: none of them is missing."""
        self._fill(stream, first, last)
        if last > self.last[stream]:
            self._raise(stream, first, last)
        self.moved.setdefault(stream, 0)

    def _raise(self, stream: Stream, first: int, last: int) -> None:
        before = self.last[stream]
        if first > before + 1:
            self._holes.setdefault(stream, []).append((before + 1, first - 1))
        self.last[stream] = last

    def _fill(self, stream: Stream, first: int, last: int) -> bool:
        holes = self._holes.get(stream)
        if not holes:
            return False
        at = max(0, bisect_right(holes, first, key=_first) - 1)
        found = False
        while at < len(holes) and holes[at][0] <= last:
            low, high = holes[at]
            if high < first:
                at += 1
                continue
            found = True
            left = [(low, first - 1)] if low < first else []
            right = [(last + 1, high)] if high > last else []
            holes[at : at + 1] = left + right
            at += len(left) + len(right)
        return found

    def changed_holes(
        self,
    ) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Return (epoch, stream, first) that go and (epoch, stream, first, last) that come.

        The last list are those that come where a hub may still bring what is missing.
        """
        gone: list[tuple[int, ...]] = []
        new: list[tuple[int, ...]] = []
        for stream, holes in self._holes.items():
            before, after = self._stored.get(stream, {}), dict(holes)
            gone += [(*stream, low) for low, high in before.items() if after.get(low) != high]
            new += [(*stream, low, high) for low, high in holes if before.get(low) != high]
        return (
            gone,
            [hole for hole in new if hole not in self._leapt],
            [hole for hole in new if hole in self._leapt],
        )


def columns(rows: Iterable[tuple[int, ...]]) -> tuple[list[int], ...]:
    """Turn rows into the arrays that unnest() takes; there is at least one row."""
    return tuple(list(column) for column in zip(*rows, strict=True))


def _first(hole: tuple[int, int]) -> int:
    return hole[0]
