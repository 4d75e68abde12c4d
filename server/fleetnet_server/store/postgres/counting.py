"""What a database of PostgreSQL has, and how large it is: store/inventory.py for it."""

from typing import TYPE_CHECKING, Any

from fleetnet.frame import READINGS
from fleetnet_server.store.backup import Advance
from fleetnet_server.store.lifetimes import Lifetimes
from fleetnet_server.store.postgres.reading import open_reader, reading
from fleetnet_server.store.retention import HOUR_MS, MINUTE_MS
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

# Counting reads a whole table: some 10 s for 100 million rows that are not in memory.
_STATEMENT_S = 600
# Larger tables are not counted: PostgreSQL's own statistics say how many rows they have.
_LARGE_BYTES = 1 << 30

_SIZE = (
    "SELECT sum(pg_relation_size(c.oid)), sum(greatest(0, c.reltuples))::bigint"
    " FROM pg_partition_tree(%s::regclass) AS t JOIN pg_class AS c ON c.oid = t.relid"
    " WHERE t.isleaf"
)
_ROWS = {
    "messages": "SELECT count(*) FROM messages",
    "readings": "SELECT count(*) FROM readings",
}
_ONE = (  # constants of this program only
    "SELECT pg_database_size(current_database()),"  # noqa: S608
    " (SELECT count(*) FROM devices WHERE state <> 'removed'),"
    " (SELECT count(*) FROM messages WHERE t0 IS NULL AND problem IS NULL"
    f" AND (kind & 127) = {READINGS}), (SELECT count(*) FROM streams),"
    " (SELECT count(*) FROM series),"
    " (SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT sha256, size FROM blobs) AS contents),"
    f" (SELECT count(*) FROM rollups WHERE step = {MINUTE_MS}),"
    f" (SELECT count(*) FROM rollups WHERE step = {HOUR_MS}),"
    " (SELECT max(backup_ms) FROM restores), (SELECT max(at_ms) FROM restores)"
)
_BLOBS = (
    "SELECT d.grp, count(*), sum(b.size) FROM blobs AS b JOIN devices AS d ON d.id = b.device"
    " GROUP BY d.id, d.grp"
)
_SERIES = "SELECT s.id, d.grp, s.channel FROM series AS s JOIN devices AS d ON d.id = s.device"
_ENDING = "SELECT count(*) FROM readings WHERE series = ANY(%s::int[]) AND t < %s"


def count(
    place: PostgresPlace, lifetimes: Lifetimes, now_ms: int, advance: Advance
) -> dict[str, Any]:
    """Return what Inventory has, by name, without what it says of retention.toml itself.

    Raises: StoreUnavailable, StoreError.
    """
    connection = open_reader(place, _STATEMENT_S)
    try:
        with reading(place):
            return _count(connection, lifetimes, now_ms, advance)
    finally:
        connection.close()


def _count(
    connection: "PgReader", lifetimes: Lifetimes, now_ms: int, advance: Advance
) -> dict[str, Any]:
    ((size, devices, held, streams, series, content, minutes, hours, backup_ms, restored_ms),) = (
        connection.execute(_ONE).fetchall()
    )
    advance(0.2, "messages")
    messages = _rows_of(connection, "messages")
    advance(0.4, "readings")
    readings = _rows_of(connection, "readings")
    advance(0.9, "what ends")
    blobs, surplus = _blobs(connection, lifetimes)
    return {
        "file_bytes": size, "log_bytes": 0, "devices": devices, "messages": messages,
        "held": held, "known": streams, "series": series, "chunks": 0,
        "chunk_readings": readings, "minutes": minutes, "hours": hours, "blobs": blobs,
        "blob_bytes": content, "ending_readings": _ending(connection, lifetimes, now_ms),
        "ending_blob_bytes": surplus, "restored_ms": restored_ms, "backup_ms": backup_ms,
    }  # fmt: skip


def _rows_of(connection: "PgReader", table: str) -> int:
    ((size, estimated),) = connection.execute(_SIZE, (table,)).fetchall()
    if size > _LARGE_BYTES and estimated:
        return int(estimated)
    return int(connection.execute(_ROWS[table]).fetchall()[0][0])


def _ending(connection: "PgReader", lifetimes: Lifetimes, now_ms: int) -> int:
    """Count the readings that are older than their rule keeps them as such."""
    wanted: dict[int, list[int]] = {}
    for number, group, channel in connection.execute(_SERIES).fetchall():
        rule = lifetimes.rule(group, channel)
        if rule is not None:
            wanted.setdefault(rule.raw_ms, []).append(number)
    return sum(
        connection.execute(_ENDING, (numbers, now_ms - raw_ms)).fetchall()[0][0]
        for raw_ms, numbers in wanted.items()
    )


def _blobs(connection: "PgReader", lifetimes: Lifetimes) -> tuple[int, int]:
    """Return how many blobs there are, and how many bytes are above the quotas of devices."""
    blobs = surplus = 0
    for group, count_, size in connection.execute(_BLOBS).fetchall():
        blobs += count_
        most = lifetimes.blob_rule(group).device_bytes
        surplus += 0 if most is None else max(0, size - most)
    return blobs, surplus
