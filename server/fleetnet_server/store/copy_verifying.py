"""Reads both sides of a copy once more, and says where they differ."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from fleetnet_server.errors import StoreError
from fleetnet_server.store.copy_steps import TABLES, Advance, Store, Target, as_kept, digest

# Differences in one message.
_SHOWN = 3

_BRIDGES = "SELECT name, moved_ms, until_ms, sent, dropped FROM bridges"
_LAST_SERIES = "SELECT coalesce(max(id), 0) FROM series"


class Verified(NamedTuple):
    """What both sides have, the same.

    Attributes:
        rows: of each table that is compared row by row. streams: watermarks.
        series, readings: compared by number and sums.
    """

    rows: dict[str, int]
    streams: int
    series: int
    readings: int
    seconds: float


def verify(source: Store, target: Target, advance: Advance) -> Verified:
    """Compare all of both sides. Raises StoreError: they differ; says where."""
    began = time.monotonic()
    target.freeze()
    try:
        rows = _compare_rows(source, target, advance)
        streams = _compare_streams(source, target)
        advance(0.5, "verifying readings")
        series, readings = _compare_readings(source, target, advance)
    finally:
        target.thaw()
    return Verified(rows, streams, series, readings, time.monotonic() - began)


def _compare_rows(source: Store, target: Store, advance: Advance) -> dict[str, int]:
    counts = {}
    for number, table in enumerate(TABLES):
        advance(0.4 * number / len(TABLES), f"verifying {table.name}")
        found = digest(source.rows(table.select))
        # Series that only rows of messages had so far are new in the target.
        last = next(source.rows(_LAST_SERIES))[0] if table.name == "series" else None
        limit = "" if last is None else f" WHERE id <= {last}"
        _refuse(table.name, found, digest(target.rows(table.select + limit)))
        counts[table.name] = found[0]
    advance(0.4, "verifying messages")
    found = digest(source.messages())
    _refuse("messages", found, digest(target.messages()))
    counts["messages"] = found[0]
    found = digest(source.rows(_BRIDGES))
    _refuse("bridges", found, digest(target.rows(_BRIDGES)))
    counts["bridges"] = found[0]
    return counts


def _refuse(name: str, wanted: tuple[int, int], found: tuple[int, int]) -> None:
    if wanted != found:
        counts = f"{wanted[0]} rows in the source, {found[0]} in the target"
        raise _difference([f"{name}: {counts if wanted[0] != found[0] else 'other contents'}"])


def _compare_streams(source: Store, target: Store) -> int:
    wanted, found = (
        digest((epoch, stream, mark.last, *mark.holes) for epoch, stream, mark in side.marks())
        for side in (source, target)
    )
    _refuse("watermarks of streams", wanted, found)
    return wanted[0]


def _compare_readings(source: Store, target: Store, advance: Advance) -> tuple[int, int]:
    wanted = {
        (name, as_kept(channel)): one
        for (name, channel), one in source.sums(
            lambda done: advance(0.5, f"verifying readings: {done:,}")
        ).items()
    }
    advance(0.8, "verifying readings")
    found = {
        (name, as_kept(channel)): one
        for (name, channel), one in target.sums(
            lambda done: advance(0.8, f"verifying readings: {done:,}")
        ).items()
    }
    differ = sorted(
        f"{name} {channel}: {wanted[key].n if key in wanted else 0} readings in the source, "
        f"{found[key].n if key in found else 0} in the target"
        for key in wanted.keys() | found.keys()
        for name, channel in [key]
        if key not in wanted or key not in found or not wanted[key].is_same(found[key])
    )
    if differ:
        raise _difference(differ)
    return len(wanted), sum(one.n for one in wanted.values())


def _difference(found: Iterable[str]) -> StoreError:
    every = list(found)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return StoreError(
        f"the copy differs from its source: {'; '.join(every[:_SHOWN])}{more}: do not serve it; "
        "empty the target and copy again"
    )
