"""Readings of the devices and channels that patterns name, in order of time.

    for reading in select(path, Selection(("cam-*",), ("temp", "hum*"), start_ms, end_ms)):

A pattern is a name, or a shell's (*, ?, [abc]). It streams as store/query.py does.
"""

import heapq
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import apsw

from fleetnet_server.errors import StoreError, unknown_device
from fleetnet_server.store.query import (
    FAR_FUTURE,
    FAR_PAST,
    Reading,
    search,
    snapshot,
)
from fleetnet_server.store_place import PostgresPlace, StorePlace

# So many devices are searched one by one; of more, all are read and most let go.
FEW_DEVICES = 32

# Behind every date.
_UNDATED = 1 << 62


class Selection(NamedTuple):
    """Which readings.

    Attributes:
        devices, channels: patterns; () is all.
        start_ms: unix ms, included; end_ms: unix ms, not included, so that two ranges that
            meet have every reading once. Without both, undated readings come last.
    """

    devices: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    start_ms: int | None = None
    end_ms: int | None = None


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a name is one of ``patterns`` or fits one; () fits every name."""
    return not patterns or any(one == name or fnmatchcase(name, one) for one in patterns)


def bounds(wanted: Selection) -> tuple[int, int]:
    """Return the first and the last unix ms, both included, as integers that SQLite takes."""
    start = FAR_PAST if wanted.start_ms is None else wanted.start_ms
    end = FAR_FUTURE if wanted.end_ms is None else wanted.end_ms - 1
    return max(FAR_PAST, min(FAR_FUTURE, start)), max(FAR_PAST, min(FAR_FUTURE, end))


def is_pattern(text: str) -> bool:
    """Say whether a text may name more than one thing."""
    return any(character in text for character in "*?[")


def select(
    place: StorePlace | str, wanted: Selection, limit: int | None = None
) -> Iterator[Reading]:
    """Yield readings in order of time, the undated last; ``limit``: at most so many.

    Raises:
        StoreError: no store there; a name, or every pattern, fits no device.
        StoreUnavailable: it cannot be read.
    """
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import selecting

        found = selecting.select(place, wanted, limit)
    else:
        found = _select(Path(place), wanted)
    return found if limit is None else islice(found, limit)


def _select(path: Path, wanted: Selection) -> Iterator[Reading]:
    with snapshot(path) as connection:
        yield from select_in(connection, wanted)


def device_names(place: StorePlace | str, patterns: tuple[str, ...]) -> list[str]:
    """Return the devices that ``patterns`` name, by name. Raises StoreError as ``select``."""
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import selecting

        return selecting.device_names(place, patterns)
    with snapshot(place) as connection:
        return _device_names(connection, patterns)


def _device_names(connection: apsw.Connection, patterns: tuple[str, ...]) -> list[str]:
    return named([str(row[0]) for row in connection.execute("SELECT name FROM devices")], patterns)


def named(every: list[str], patterns: tuple[str, ...]) -> list[str]:
    """Return which devices of ``every`` the patterns name, by name. Raises as ``select``."""
    known = set(every)
    for one in patterns:
        if not is_pattern(one) and one not in known:
            raise unknown_device(one)
    found = sorted(name for name in every if matches(name, patterns))
    if patterns and not found:
        raise StoreError(f"no device fits {', '.join(patterns)}: see `fleetnet device list`")
    return found


def select_in(connection: apsw.Connection, wanted: Selection) -> Iterator[Reading]:
    """Yield readings of a snapshot (store/query.py) as ``select`` does."""
    channel = None
    if len(wanted.channels) == 1 and not is_pattern(wanted.channels[0]):
        channel = wanted.channels[0]
    names: list[str | None] = [None]
    is_filtered = bool(wanted.devices)
    if wanted.devices:
        found = _device_names(connection, wanted.devices)
        if len(found) <= FEW_DEVICES:
            names, is_filtered = list(found), False
    start, end = bounds(wanted)
    is_undated = wanted.start_ms is None and wanted.end_ms is None
    series = [search(connection, name, channel, start, end, is_undated) for name in names]
    for reading in series[0] if len(series) == 1 else heapq.merge(*series, key=_by_time):
        if channel is None and not matches(reading.channel, wanted.channels):
            continue
        if not is_filtered or matches(reading.device, wanted.devices):
            yield reading


def _by_time(reading: Reading) -> int:
    return _UNDATED if reading.unix_ms is None else reading.unix_ms
