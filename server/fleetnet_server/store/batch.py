"""What one commit does to the tables: insert, tell new from known, date.

Called by SqliteStore inside its transaction; nothing here begins or ends one.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import apsw

from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.relay_ports import Relayed

_COLUMNS = "device, epoch, stream, seq, kind, t0, t1, received, body, problem"
# Rows of one INSERT. SQLite's bindings give up the interpreter lock at every step, and a
# busy event loop keeps it for 5 ms: one row a step stored 2,100 rows/s beside such a loop,
# 512 rows a step 50,000 to 60,000. The text of 512 rows (11 KiB) stays below the 16 KiB
# above which apsw does not keep a statement prepared.
_ROWS_A_STEP = (512, 64, 8, 1)
_INSERTS = {
    rows: f"INSERT INTO messages({_COLUMNS}) VALUES"
    + ",".join(["(?,?,?,?,?,?,?,?,?,?)"] * rows)
    + " ON CONFLICT DO NOTHING"
    for rows in _ROWS_A_STEP
}
_device = itemgetter(0)
_first_time = itemgetter(5)

# (epoch of a hub, its stream, sequence up to which all that it carried is stored)
CARRIED = (
    "INSERT INTO carried(epoch, stream, last) VALUES(?, ?, ?)"
    " ON CONFLICT(epoch, stream) DO UPDATE SET last = excluded.last"
    " WHERE excluded.last > carried.last"
)


# What was compacted has no row to conflict with. Of an ordinary message this is one seek
# behind the last entry of its stream, with the row just written still in the cache.
_KNOWN = (
    "SELECT id FROM messages AS m WHERE id > ? AND (SELECT first FROM known AS k"
    " WHERE k.epoch = m.epoch AND k.stream = m.stream AND k.last >= m.seq"
    " ORDER BY k.last LIMIT 1) <= m.seq"
)


# Messages of a device without a date: of one boot as far as SQL can tell (RAW is no JSON), and
# those among the last that were stored. The index is named, as a scan by id reads all bodies.
_WAITING = (
    "SELECT id, kind, body, received FROM messages INDEXED BY messages_undated"
    " WHERE device = ?1 AND t0 IS NULL"
    " AND CASE WHEN typeof(body) = 'text' AND json_valid(body)"
    " THEN json_extract(body, '$[1]') = ?2 ELSE 1 END"
)
_NEW = (
    "SELECT id, kind, body, received FROM messages INDEXED BY messages_undated"
    " WHERE device = ?1 AND t0 IS NULL"
    " AND id >= (SELECT min(id) FROM (SELECT id FROM messages ORDER BY id DESC LIMIT ?2))"
)


def insert(connection: apsw.Connection, batch: Sequence[Message]) -> int:
    """Insert what was never stored, each device's in order; return how many messages that were.

    Device by device: each has a page of its own in two indexes, which is found in the processor's
    cache by the device's next message. As they came it cost up to twice as much.
    """
    batch = sorted(batch, key=_device)
    newest = int(connection.execute("SELECT coalesce(max(id), 0) FROM messages").get)
    before = connection.total_changes()
    at = 0
    for rows in _ROWS_A_STEP:
        while len(batch) - at >= rows:
            values = tuple(chain.from_iterable(batch[at : at + rows]))
            connection.execute(_INSERTS[rows], values)
            at += rows
    stored = connection.total_changes() - before
    known = connection.execute(_KNOWN, (newest,)).fetchall() if stored else []
    if known:
        connection.executemany("DELETE FROM messages WHERE id = ?", known)
    return stored - len(known)


def newly_stored(connection: apsw.Connection, batch: Sequence[Message], stored: int) -> list[int]:
    """Find which messages were stored: row ids grow, so they are the last ``stored`` rows."""
    rows = connection.execute(
        "SELECT epoch, stream, seq FROM messages ORDER BY id DESC LIMIT ?", (stored,)
    )
    keys = set(rows)
    new = []
    for index, message in enumerate(batch):
        key = message[1:4]
        if key in keys:
            keys.remove(key)  # a second copy within the batch is a duplicate
            new.append(index)
    return new


def note_carriers(connection: apsw.Connection, batch: Sequence[Message]) -> None:
    """Move what is durable of hubs' streams over the messages that came in them."""
    marks: dict[tuple[int, int], int] = {}
    for message in batch:
        if type(message) is Relayed:
            epoch, stream, seq = message.carrier
            marks[epoch, stream] = max(seq, marks.get((epoch, stream), 0))
    if marks:
        rows = [(epoch, stream, seq) for (epoch, stream), seq in marks.items()]
        connection.executemany(CARRIED, rows)


def undated_devices(batch: Sequence[Message]) -> set[int]:
    """Return the devices that sent messages whose boot has no offset yet."""
    if None not in map(_first_time, batch):
        return set()
    return {message.device_id for message in batch if message.t0 is None}


def date_messages(
    connection: apsw.Connection,
    offsets: Iterable[tuple[tuple[int, int], int]],
    undated: set[int],
    stored: int,
) -> None:
    """Write the offsets of boots, and date the stored messages that wait for them.

    A boot that is new may date any message that waits, one that is known only those of this
    batch: all others were dated with its first offset. A device may have 100,000 that wait for a
    boot that never comes, and everybody's commit would read them again.

    Args:
        stored: how many messages of this batch are new; ``undated``: the devices that sent
            some without a date.
    """
    for (device_id, boot), offset in offsets:
        is_new = not connection.execute(
            "SELECT 1 FROM boots WHERE device = ? AND boot = ?", (device_id, boot)
        ).fetchall()
        connection.execute(
            "INSERT OR REPLACE INTO boots VALUES(?, ?, ?)", (device_id, boot, offset)
        )
        if is_new:
            _date(connection, {boot: offset}, connection.execute(_WAITING, (device_id, boot)))
    for device_id in undated if stored else ():
        known: dict[int, int] = dict(
            connection.execute("SELECT boot, offset_ms FROM boots WHERE device = ?", (device_id,))
        )
        if known:
            _date(connection, known, connection.execute(_NEW, (device_id, stored)))


def _date(
    connection: apsw.Connection, known: dict[int, int], rows: Iterable[tuple[Any, ...]]
) -> None:
    for row in list(rows):
        number, kind, body, received = _typed(row)
        found = inspect_body(kind, body, known.get, received)
        if found.t0 is not None:
            connection.execute(
                "UPDATE messages SET t0 = ?, t1 = ? WHERE id = ?", (found.t0, found.t1, number)
            )


def _typed(row: tuple[Any, ...]) -> tuple[int, int, bytes, int]:
    number, kind, body, received = row
    return number, kind, body.encode() if isinstance(body, str) else body, received
