"""Comparing what the devices say with what the store has: nothing lost, nothing twice."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fleetnet_server.errors import StoreError
from fleetnet_server.store.query import FAR_FUTURE, Reading, search, snapshot
from fleetnet_server.store_place import PostgresPlace, StorePlace

_Find = Callable[[str, int], Iterator[Reading]]

# Devices without a date are dated by the server; theirs may be off by what a reboot takes.
_MARGIN_MS = 3_600_000


class Comparison(NamedTuple):
    """Readings over all devices.

    Attributes:
        stored: numbers that the store has, each counted once. lost: that it lacks though the
            devices neither gave them up nor have them still. twice: that it has more than once,
            so often.
        kept: numbers in RAM at a loss of power that had arrived nevertheless.
    """

    stored: int
    lost: int
    twice: int
    kept: int


def compare(store: StorePlace, accounts: Iterable[list[Any]], since_ms: int) -> Comparison:
    """Compare accounts (Unit.account) with the readings of channel "count" since ``since_ms``.

    Raises:
        StoreError, StoreUnavailable.
    """
    total = Comparison(0, 0, 0, 0)
    with _searching(store) as find:
        # One device after another: a search over all of them opens them all at once.
        for account in accounts:
            one = _of_device(account, _numbers(find, account[0], since_ms - _MARGIN_MS))
            total = Comparison(*(a + b for a, b in zip(total, one, strict=True)))
    return total


@contextmanager
def _searching(store: StorePlace) -> Iterator[_Find]:
    """Give a search by device and first time, of one moment of the store."""
    if isinstance(store, PostgresPlace):
        from fleetnet_server.store.postgres import reading, selecting

        with reading.snapshot(store) as reader:
            yield lambda device, start_ms: selecting.search(
                reader, device, "count", start_ms, FAR_FUTURE, False
            )
        return
    with snapshot(store) as connection:
        yield lambda device, start_ms: search(connection, device, "count", start_ms)


def _numbers(find: _Find, device: str, start_ms: int) -> Counter[int]:
    try:
        found = find(device, start_ms)
        return Counter(each.value for each in found if isinstance(each.value, int))
    except StoreError:
        return Counter()  # not registered: the store has nothing of it


def _of_device(account: list[Any], found: Counter[int]) -> Comparison:
    _name, first, behind, erased, dropped, waiting = account
    counts = {n: times for n, times in found.items() if first <= n < behind}
    maybe = {number for start, end in erased for number in range(start, end)}
    # What a device still has when the run ends, it would send later: the newest numbers.
    sent = range(first, max(first, behind - waiting))
    missing = sum(n not in counts and n not in maybe for n in sent)
    return Comparison(
        stored=len(counts),
        lost=max(0, missing - dropped),
        twice=sum(counts.values()) - len(counts),
        kept=sum(number in counts for number in maybe),
    )
