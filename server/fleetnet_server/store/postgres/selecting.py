"""Readings out of PostgreSQL in order of time: store/query.py and store/selection.py for it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet.frame import READINGS
from fleetnet_server.errors import unknown_device
from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.postgres.expanding import as_text
from fleetnet_server.store.postgres.reading import WINDOW_MS, Row, by_windows, snapshot, stream
from fleetnet_server.store.query import decode_value, readings_of
from fleetnet_server.store.selection import FEW_DEVICES, Selection, bounds, matches, named
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

Fits = Callable[[str], bool]

# An answer of so many readings is one statement and needs no cursor.
_FEW = 5_000

# With more series the first window is shorter: one reading a second makes 60,000 rows of it.
_SERIES_A_WINDOW = 1_000

_COLUMNS = "SELECT series, t, epoch, stream, seq, number, value FROM readings"
_BY_TIME = " AND t BETWEEN %s AND %s ORDER BY t, epoch, stream, seq, place"
_OF_SOME = f"{_COLUMNS} WHERE series = ANY(%s::int[]){_BY_TIME}"
_OF_ONE = f"{_COLUMNS} WHERE series = %s{_BY_TIME}"
# Of each series the first behind a time: one seek each, in the first partition that has one.
_FIRST = (
    "SELECT min(f.t) FROM unnest(%s::int[]) AS s(id) CROSS JOIN LATERAL"
    " (SELECT t FROM readings WHERE series = s.id AND t BETWEEN %s AND %s ORDER BY t LIMIT 1) AS f"
)
# A quarantined device's readings are kept back until it is enabled.
_SERIES = (
    "SELECT s.id, d.name, s.channel FROM series AS s JOIN devices AS d ON d.id = s.device"
    " WHERE d.state <> 'quarantined'"
)
_UNDATED = (  # constants of this program only
    "SELECT m.t0, m.epoch, d.name, m.stream, encode(e.epoch, 'hex'), m.seq, m.body, m.id"  # noqa: S608
    " FROM messages AS m JOIN devices AS d ON d.id = m.device JOIN epochs AS e ON e.id = m.epoch"
    " WHERE d.state <> 'quarantined' AND m.t0 IS NULL AND m.problem IS NULL"
    f" AND (m.kind & 127) = {READINGS}"
)


class Series(NamedTuple):
    """One channel of a device; ``place`` orders readings of equal times."""

    device: str
    channel: str
    place: int


def query(
    place: PostgresPlace, device: str | None, channel: str | None, start: int, end: int,
    undated: bool, limit: int | None,
) -> Iterator[Reading]:  # fmt: skip
    """Yield readings as store/query.py does; bounds are unix ms, both included."""
    with snapshot(place) as connection:
        yield from search(connection, device, channel, start, end, undated, limit)


def search(
    connection: "PgReader", device: str | None, channel: str | None, start: int, end: int,
    undated: bool, limit: int | None = None,
) -> Iterator[Reading]:  # fmt: skip
    """Yield readings of a snapshot as ``query`` does."""
    devices = None
    if device is not None:
        devices = [device]
        known = "SELECT 1 FROM devices WHERE name = %s"
        if connection.execute(known, (as_text(device),)).fetchone() is None:
            raise unknown_device(device)

    def fits(name: str) -> bool:
        return channel is None or name == channel

    yield from by_time(connection, find_series(connection, devices, fits), start, end, limit)
    if undated:
        yield from _undated(connection, devices, fits)


def select(place: PostgresPlace, wanted: Selection, limit: int | None) -> Iterator[Reading]:
    """Yield readings as store/selection.py does."""
    with snapshot(place) as connection:
        yield from select_in(connection, wanted, limit)


def select_in(
    connection: "PgReader", wanted: Selection, limit: int | None = None
) -> Iterator[Reading]:
    """Yield readings of a snapshot as ``select`` does."""
    start, end = bounds(wanted)
    devices, found = wanted_series(connection, wanted)
    yield from by_time(connection, found, start, end, limit)
    if wanted.start_ms is None and wanted.end_ms is None:
        yield from _undated(connection, devices, _fitting(wanted))


def device_names(place: PostgresPlace, patterns: tuple[str, ...]) -> list[str]:
    """Return the devices that ``patterns`` name, by name; raises as store/selection.py."""
    with snapshot(place) as connection:
        return _names(connection, patterns)


def wanted_series(
    connection: "PgReader", wanted: Selection
) -> tuple[list[str] | None, dict[int, Series]]:
    """Return the devices that are named, None: all; and the series. Raises StoreError."""
    devices = _names(connection, wanted.devices) if wanted.devices else None
    return devices, find_series(connection, devices, _fitting(wanted))


def find_series(
    connection: "PgReader", devices: list[str] | None, fits: Fits
) -> dict[int, Series]:
    """Return the series of devices (None: of all) with channels that fit, by number."""
    order = {}
    if devices is None:
        rows = connection.execute(f"{_SERIES} ORDER BY s.id")
    else:
        if len(devices) <= FEW_DEVICES:
            order = {name: place for place, name in enumerate(devices)}
        rows = connection.execute(
            f"{_SERIES} AND d.name = ANY(%s::text[]) ORDER BY s.id", (devices,)
        )
    return {
        number: Series(device, channel, order.get(device, 0))
        for number, device, channel in rows
        if fits(channel)
    }


def by_time(
    connection: "PgReader", series: dict[int, Series], start: int, end: int,
    limit: int | None = None,
) -> Iterator[Reading]:  # fmt: skip
    """Yield dated readings of series in order of time; bounds are unix ms, both included."""
    made = _reader(connection, series)
    rows: Iterator[Row]
    if len(series) == 1:
        # The index gives them in order, whatever the time.
        values = (*series, start, end)
        if limit is not None and limit <= _FEW:
            rows = iter(connection.execute(f"{_OF_ONE} LIMIT {limit}", values, binary=True))
        else:
            rows = stream(connection, _OF_ONE, values)
    else:
        rows = _windows(connection, list(series), start, end)
    if len({one.place for one in series.values()}) > 1:
        rows = _devices_in_order(rows, series)
    for row in rows:
        yield made(row)


def first_time(connection: "PgReader", series: Sequence[int], start: int, end: int) -> int | None:
    """Return when the first reading of any of some series is, unix ms."""
    row = connection.execute(_FIRST, (list(series), start, end)).fetchone()
    return None if row is None else row[0]


def _windows(
    connection: "PgReader", numbers: list[int], start: int, end: int
) -> Iterator[Row]:
    return by_windows(
        lambda at, until: stream(connection, _OF_SOME, (numbers, at, until)),
        lambda at: first_time(connection, numbers, at, end),
        start,
        end,
        width_ms=max(1, WINDOW_MS * _SERIES_A_WINDOW // max(_SERIES_A_WINDOW, len(numbers))),
    )


def _devices_in_order(rows: Iterator[Row], series: dict[int, Series]) -> Iterator[Row]:
    """Let readings of equal times follow in the order of their devices."""
    for _time, same in groupby(rows, key=lambda row: row[1]):
        yield from sorted(same, key=lambda row: series[row[0]].place)


def _reader(connection: "PgReader", series: dict[int, Series]) -> Callable[[Row], Reading]:
    """Return what makes a reading of a row."""
    epochs: dict[int, str] = {}

    def made(row: Row) -> Reading:
        number, t, epoch, stream_, seq, decimal, text = row
        name = epochs.get(epoch)
        if name is None:
            found = connection.execute("SELECT epoch FROM epochs WHERE id = %s", (epoch,))
            ((key,),) = found.fetchall()
            name = epochs[epoch] = bytes(key).hex()
        device, channel, _place = series[number]
        return Reading(device, channel, t, value_of(decimal, text), stream_, name, seq)

    return made


def value_of(number: float, text: str | None) -> Any:
    """Return the value of the columns ``number`` and ``value``; see schema_readings.py."""
    if text is not None:
        return decode_value(text)
    return int(number) if number.is_integer() else number


def _undated(
    connection: "PgReader", devices: list[str] | None, fits: Fits
) -> Iterator[Reading]:
    """Yield readings of boots that nobody dated yet, by device in the order of arrival."""
    order = " ORDER BY m.device, m.id"
    searches: list[tuple[str, tuple[Any, ...]]] = [(_UNDATED + order, ())]
    if devices is not None:
        several = [devices] if len(devices) > FEW_DEVICES else [[name] for name in devices]
        text = f"{_UNDATED} AND d.name = ANY(%s::text[]){order}"
        searches = [(text, (names,)) for names in several]
    for sql, values in searches:
        for row in stream(connection, sql, values):
            for _time, _key, reading in readings_of(row, None):
                if fits(reading.channel):
                    yield reading


def _names(connection: "PgReader", patterns: tuple[str, ...]) -> list[str]:
    every = [str(name) for (name,) in connection.execute("SELECT name FROM devices")]
    return named(every, patterns)


def _fitting(wanted: Selection) -> Fits:
    return lambda name: matches(name, wanted.channels)
