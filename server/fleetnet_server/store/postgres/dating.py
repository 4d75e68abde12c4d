"""Boots get their offsets, and messages that wait for one their date, in the same commit.

As in SQLite (store/batch.py): the first offset of a boot dates what waits, a later one refines
later messages only. What comes in a batch whose boot is known by now is dated before it is stored.

A device may have 100,000 that wait, and everybody's messages are in the same commit. So it dates
some 2,000, and notes boots that have more in ``dating``; the leader's housekeeping dates the rest
with the same offset (backlog.py). Until then they are shown as what has no date.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet_server.core.bodies import Message, inspect_body

# "flnu": the first of two numbers, a space of advisory locks beside that of locks.py.
DATING = 0x666C6E75

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

Boots = dict[tuple[int, int], int]

# Messages that wait are read and dated so many at a time, of 64 KiB each at most.
PAGE = 200
# What one commit dates at most: 70 ms of its time, whatever has piled up.
MOST_DATED = 2000
_MOST_BYTES = 4 << 20

# Two servers may bring messages and the offset of one boot at once, a sensor's hub at one of them:
# whoever is second sees what the first has stored. Few locks, as a server has few for all.
_BUCKETS = 64
_ONE_BY_ONE = (
    f"SELECT pg_advisory_xact_lock({DATING}, bucket)"  # noqa: S608
    " FROM (SELECT unnest(%s::int[]) AS bucket ORDER BY 1) AS buckets"
)
_KNOWN = "SELECT device, boot FROM boots WHERE (device, boot) IN (SELECT * FROM {})"
_WANTED = "unnest(%s::bigint[], %s::bigint[])"
_OFFSETS = "SELECT device, boot, offset_ms FROM boots WHERE device = ANY(%s::bigint[])"
_KEEP = (
    "INSERT INTO boots(device, boot, offset_ms)"
    " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) ORDER BY 1, 2"
    " ON CONFLICT (device, boot) DO UPDATE SET offset_ms = excluded.offset_ms"
)
_WAITING = (
    "SELECT m.* FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(device, boot, behind)"
    " CROSS JOIN LATERAL (SELECT device, epoch, stream, seq, kind, t0, t1, received, body, problem,"
    " id, boot FROM messages WHERE device = w.device AND boot = w.boot AND t0 IS NULL"
    " AND id > w.behind ORDER BY id LIMIT %s) AS m LIMIT %s"
)
_NOTE_REST = (
    "INSERT INTO dating(device, boot, offset_ms, behind) SELECT * FROM"
    " unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])"
    " AS w(device, boot, offset_ms, behind)"
    " WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.device = w.device AND m.boot = w.boot"
    " AND m.t0 IS NULL AND m.id > w.behind) ORDER BY 1, 2 ON CONFLICT (device, boot) DO NOTHING"
)
# The partition is found by `received`.
_DATE = (
    "UPDATE messages AS m SET t0 = d.t0, t1 = d.t1"
    " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],"
    " %s::bigint[]) AS d(device, boot, id, t0, t1, received)"
    " WHERE m.received = d.received AND m.device = d.device AND m.boot = d.boot AND m.id = d.id"
    " AND m.t0 IS NULL"
)


def take_turns(connection: "PgRawConnection", batch: Sequence[Message], offsets: Boots) -> None:
    """Wait for other servers that date messages of the same devices; before all else here."""
    devices = {message.device_id for message in batch if message.t0 is None}
    devices.update(device for device, _boot in offsets)
    if devices:
        buckets = {device % _BUCKETS for device in devices}
        connection.execute(_ONE_BY_ONE, (list(buckets),))


def keep_offsets(connection: "PgRawConnection", offsets: Boots) -> Boots:
    """Write what was told of boots; return those that were unknown until now."""
    keys = sorted(offsets)
    columns = [[one[0] for one in keys], [one[1] for one in keys]]
    sql = _KNOWN.format(_WANTED)  # two constants
    known = set(connection.execute(sql, columns).fetchall())  # nosemgrep: sql-by-text
    connection.execute(_KEEP, (*columns, [offsets[key] for key in keys]))
    return {key: offsets[key] for key in keys if key not in known}


def date_batch(connection: "PgRawConnection", batch: Sequence[Message]) -> Sequence[Message]:
    """Return the messages, those with a date whose boot was told while they were on their way."""
    undated = {message.device_id for message in batch if message.t0 is None}
    if not undated:
        return batch
    known: Boots = {
        (device, boot): offset
        for device, boot, offset in connection.execute(_OFFSETS, (list(undated),))
    }
    return [
        message if message.t0 is not None else _dated(message, known) or message
        for message in batch
    ]


def date_waiting(
    connection: "PgRawConnection", new: Boots, store: Callable[[list[Message]], None]
) -> None:
    """Date stored messages of boots that were unknown, MOST_DATED; the rest is noted.

    Args:
        store: gets what is dated, page by page.
    """
    behind = dict.fromkeys(sorted(new), 0)
    rows = size = 0
    while rows < MOST_DATED and size < _MOST_BYTES:
        page = date_page(connection, new, behind, store)
        rows += page.rows
        size += page.size
        if page.rows < PAGE:
            return
    keys = list(behind)
    offsets = [new[key] for key in keys]
    connection.execute(_NOTE_REST, (*_keys(keys), offsets, list(behind.values())))


class Page(NamedTuple):
    """What ``date_page`` read: ``size`` is the bytes of its bodies."""

    rows: int
    size: int


def date_page(
    connection: "PgRawConnection", boots: Boots, behind: Boots,
    store: Callable[[list[Message]], None],
) -> Page:  # fmt: skip
    """Date some stored messages of boots; fewer than PAGE: these were the last.

    Args:
        behind: boot -> id behind which its messages are not dated yet; moved on.
        store: gets those that are dated.
    """
    values = (*_keys(behind), list(behind.values()), PAGE, PAGE)
    rows = connection.execute(_WAITING, values).fetchall()
    dated = []
    for row in rows:
        key = (row[0], row[11])
        behind[key] = max(behind[key], row[10])
        if (one := _dated(Message(*row[:10]), boots)) is not None:
            dated.append((row[11], row[10], one))
    if dated:
        connection.execute(_DATE, _columns(dated))
        store([one for _boot, _number, one in dated])
    return Page(len(rows), sum(len(row[8]) for row in rows))


def _keys(boots: Iterable[tuple[int, int]]) -> list[list[int]]:
    keys = list(boots)
    return [[device for device, _boot in keys], [boot for _device, boot in keys]]


def _columns(dated: Iterable[tuple[int, int, Message]]) -> list[list[Any]]:
    rows = [
        (one.device_id, boot, number, one.t0, one.t1, one.received) for boot, number, one in dated
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _dated(message: Message, known: Boots) -> Message | None:
    """Return a message with its date, None: its boot is still unknown."""
    body = message.body
    data = body.encode() if isinstance(body, str) else body
    device = message.device_id
    found = inspect_body(
        message.kind, data, lambda boot: known.get((device, boot)), message.received
    )
    if found.t0 is None:
        return None
    return message._replace(t0=found.t0, t1=found.t1, body=found.body)
