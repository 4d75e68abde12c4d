"""Readings per second into PostgreSQL, beside a bare COPY of the same rows, and beside SQLite.

ours: PostgresStore.commit, as a node does it: leases, watermarks, both tables, fsync. bare: the
same rows, encoded before, by COPY BINARY into the same tables, a transaction for each batch;
nothing is looked up, and nothing is known to be new. The server is one of its own on this machine,
with fsync; they take turns, so that what else the machine does meets each of them.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from payloads import body

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.expanding import (
    COPY_MESSAGES,
    COPY_READINGS,
    expand,
    message_rows,
    reading_rows,
)
from fleetnet_server.store.postgres.partitions import make_partitions
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store_place import PostgresPlace

sys.path.append(str(Path(__file__).resolve().parents[1]))

from server.store.postgres_server import OWNER, PostgresServer, find_programs

_DEVICES = 1000
_COMMIT = 2048
_ROUNDS = 4
# Channels of a message of numbers, as history.py has them.
_CHANNELS = 5

# What a server with 2 GB for its database has; the other settings are PostgreSQL's own.
_SETTINGS = """
fsync = on
full_page_writes = on
autovacuum = on
shared_buffers = 512MB
max_wal_size = 4GB
"""


class Rates(NamedTuple):
    """Readings per second of the clock."""

    ours: float
    bare: float
    sqlite: float


def is_there() -> bool:
    """Say whether PostgreSQL is installed."""
    return find_programs() is not None


def numbers(readings: int, index: int) -> bytes:
    """Return a body of numbers with two digits behind the point, 100 ms apart."""
    names = ",".join(f'"c{number}"' for number in range(_CHANNELS))
    items = ",".join(
        f"[{number % _CHANNELS},{100 * number},{20 + (index * 7 + number * 13) % 997 / 100}]"
        for number in range(readings)
    )
    return f"[{1_700_000_000_000 + index},0,[{names}],[{items}]]".encode()


@contextmanager
def _server() -> Iterator[PostgresServer]:
    programs = find_programs()
    assert programs is not None
    server = PostgresServer(programs)
    try:
        server.stop()
        with (server.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        server.start()
        yield server
    finally:
        server.close()


def measure(seconds: float, readings: int, style: str) -> Rates:
    """Commit batches of 2,048 messages of 1,000 devices.

    Args:
        seconds: of each of the three. style: "numbers", or "text": values of 100 B.
    """
    make = numbers if style == "numbers" else body
    now = time.time_ns() // 1_000_000
    bodies = [make(readings, index) for index in range(500)]
    found = [inspect_body(READINGS, each, lambda boot: None, now) for each in bodies]

    def batches(epochs: list[tuple[int, int]]) -> Iterator[list[Message]]:
        for at in count(0, _COMMIT):
            batch = []
            for index in range(at, at + _COMMIT):
                device, epoch = epochs[index % _DEVICES]
                t0, t1, _problem, text = found[index % len(found)]
                seq = 1 + index // _DEVICES
                batch.append(Message(device, epoch, 1, seq, READINGS, t0, t1, now, text, None))
            yield batch

    with _server() as server, tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        place, bare = server.database(), server.database()
        for database in (place, bare):
            _partitions(server, database, now)
        with (
            PostgresStore(place, node="bench") as store,
            PostgresStore(bare, node="bench") as known,
            SqliteStore(Path(name) / "bench.db") as file,
        ):
            ours = batches(_begin(store))
            theirs = batches(_begin(known))
            sqlite = batches([(one, file.epoch_id(one, b"epoch-01")) for one in _add(file)])
            known.commit(next(theirs))  # makes the series
            with connect(bare) as connection:
                copy = _Copy(connection)
                spent = {"ours": [0.0, 0], "bare": [0.0, 0], "sqlite": [0.0, 0]}
                for _ in range(_ROUNDS):
                    _run(spent["ours"], store.commit, ours, seconds / _ROUNDS)
                    _run(spent["bare"], copy.commit, map(copy.encode, theirs), seconds / _ROUNDS)
                    _run(spent["sqlite"], file.commit, sqlite, seconds / _ROUNDS)
    return Rates(*(spent[key][1] * readings / spent[key][0] for key in Rates._fields))


def _begin(store: PostgresStore) -> list[tuple[int, int]]:
    return [(one, store.begin_now(one, b"epoch-01").epoch_id) for one in _add(store)]


def _add(store: PostgresStore | SqliteStore) -> list[int]:
    rows = [(f"bench-{number:04d}", 1) for number in range(_DEVICES)]
    store.transact(
        lambda connection: connection.executemany(
            "INSERT INTO devices(name, created_ms) VALUES(?, ?)", rows
        )
    )
    return [device.id for device in store.devices()]


def _partitions(server: PostgresServer, place: PostgresPlace, now: int) -> None:
    with connect(server.place(place.database, OWNER)) as connection:
        make_partitions(connection, "messages", now, now)
        make_partitions(connection, "readings", 1_700_000_000_000, 1_700_000_000_000)


def _run(spent: list[float], commit: Callable, source: Iterator, seconds: float) -> None:  # type: ignore[type-arg]
    """Commit for some seconds; what makes the batches is not counted."""
    until = spent[0] + seconds
    while spent[0] < until:
        batch = next(source)
        started = time.perf_counter()
        commit(batch)
        spent[0] += time.perf_counter() - started
        spent[1] += _COMMIT


class _Copy:
    """The bare COPY."""

    def __init__(self, connection):  # type: ignore[no-untyped-def]
        self._connection = connection
        rows = connection.execute("SELECT device, channel, id FROM series").fetchall()
        self._series = {(device, channel): number for device, channel, number in rows}

    def encode(self, batch: list[Message]) -> tuple[bytes, bytes]:
        expanded = [one for message in batch if (one := expand(message))]
        return message_rows(batch), reading_rows(expanded, self._series)

    def commit(self, rows: tuple[bytes, bytes]) -> None:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            for sql, data in zip((COPY_MESSAGES, COPY_READINGS), rows, strict=True):
                with cursor.copy(sql) as copy:
                    copy.write(data)
