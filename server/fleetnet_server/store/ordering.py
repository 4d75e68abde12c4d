"""Readings in order of time, out of messages and chunks that overlap."""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# Readings that overlap in time: a short list is sorted again for each group faster than a heap
# takes its readings; of a device whose clock stands still, all readings overlap.
_LONG = 2048


class Reading(NamedTuple):
    """One reading.

    Attributes:
        unix_ms: None while nobody knows when its device's boot began.
        value: as JSON decodes it; a number beyond Python's reach stays its text.
        epoch: 16 hexadecimal digits; with stream and seq the key of its message.
    """

    device: str
    channel: str
    unix_ms: int | None
    value: Any
    stream: int
    epoch: str
    seq: int


# unix ms (0: undated), order for equal times, reading
Timed = tuple[int, tuple[int, int, int, int], Reading]


def by_order(item: Timed) -> tuple[int, tuple[int, int, int, int]]:
    """Return what readings are sorted by."""
    return item[:2]


def in_order(
    groups: Iterable[tuple[int, list[Timed]]], start: int, end: int
) -> Iterator[Timed]:
    """Yield readings in order of time.

    Groups come in the order of their first time and may overlap: a reading leaves when no
    later group can be before it.
    """
    waiting: list[Timed] = []
    is_heap = False  # else it is sorted
    for first, group in groups:
        if is_heap:
            while waiting and waiting[0][0] < first:
                yield heapq.heappop(waiting)
            is_heap = bool(waiting)
        elif waiting and waiting[0][0] < first:
            cut = bisect_left(waiting, first, key=_time)
            yield from waiting[:cut]
            del waiting[:cut]
        kept = [item for item in group if start <= item[0] <= end]
        if is_heap:
            for item in kept:
                heapq.heappush(waiting, item)
            continue
        waiting += kept
        if len(waiting) > _LONG:
            heapq.heapify(waiting)
            is_heap = True
        else:
            waiting.sort(key=by_order)
    yield from sorted(waiting, key=by_order) if is_heap else waiting


def _time(item: Timed) -> int:
    return item[0]
