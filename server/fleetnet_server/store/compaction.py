"""Moves readings out of messages, which lie in order of arrival, into chunks by series and time.

Works in windows of messages, each in steps of one transaction (docs/store.md):

1. Open: messages up to ``last`` are the window.
2. Compact: readings of some devices become chunks; the keys of all their messages in the
   window become ``known``; a message without a date is ``held``. From this commit on, readers
   take these devices' readings from the chunks, and their rows are hidden.
3. Remove: hidden rows are deleted, which changes nothing for anybody.

Each step begins from what is in the file, so a crash repeats at most the one that was not
committed. The newest row is never in a window: SQLite gives its number to no other message.
"""

import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

import apsw
import msgspec

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import decode_readings
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.chunks import Chunk, Place, make_chunks
from fleetnet_server.store.following import Followers
from fleetnet_server.store.known import KnownRanges, merge_known
from fleetnet_server.store.lazy_reader import LazyReader
from fleetnet_server.store.series import Series
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.window import Pace, Window

# Behind every device: all of a window is compacted.
_ALL = (1 << 63) - 1

# Between two looks for messages whose boot was dated since: the search reads all that are held.
_HELD_S = 60.0

_GOOD = f"m.kind & 127 = {READINGS} AND m.problem IS NULL"

# Each answer is one row: the bindings give up the interpreter lock at every step, and a busy
# event loop keeps it for 5 ms each time.
_ROWS = (  # constants of this module only
    "SELECT json_group_array(json_array(m.id, m.device, m.epoch, m.stream, m.seq, m.received,"  # noqa: S608
    f" {_GOOD}, m.t0, CASE WHEN {_GOOD} THEN CAST(m.body AS TEXT) END))"
    " FROM json_each(?1) AS j CROSS JOIN messages AS m ON m.id = j.value"
)
_DATED = (
    "SELECT json_group_array(id) FROM (SELECT h.id FROM held AS h JOIN messages AS m"
    " ON m.id = h.id WHERE m.t0 IS NOT NULL AND h.id <= ?2 ORDER BY h.id LIMIT ?1)"
)
# A bridge reads messages (outbox.py): what it lacks keeps its row, hidden as it may be.
_FLOOR = f"SELECT coalesce(min(message), {_ALL}) FROM bridges WHERE until_ms > ?"  # noqa: S608
_REMOVE = (
    "DELETE FROM messages AS m WHERE m.id > ?1 AND m.id <= ?2 AND"  # noqa: S608
    f" {_GOOD} AND NOT EXISTS (SELECT 1 FROM held AS h WHERE h.id = m.id)"
)
_CHUNK_ROWS = (256, 16, 1)
_CHUNKS = {
    rows: "INSERT INTO chunks(series, epoch, stream, span, t0, seq, place, t1, n, step, times,"
    " vals, runs) VALUES" + ",".join(["(?,?,?,?,?,?,?,?,?,?,?,?,?)"] * rows)
    for rows in _CHUNK_ROWS
}


class _Row(NamedTuple):
    id: int
    device: int
    epoch: int
    stream: int
    seq: int
    received: int
    is_good: int
    t0: int | None
    body: str | None


_decode_rows = msgspec.json.Decoder(
    list[tuple[int, int, int, int, int, int, int, int | None, str | None]]
).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode


class Compactor:
    """Compacts one store, on one thread. Close it before the store.

    Args:
        followers: whose rows are left alone until they have them.

    Attributes:
        messages, readings, chunks: counters of what was compacted.
        seconds: time spent in steps; commit_seconds: of that, while commits had to wait.
    """

    name = "compaction"

    def __init__(
        self, store: SqliteStore, pace: Pace | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        followers: Followers | None = None,
    ):  # fmt: skip
        self._store = store
        self._followers = followers or Followers()
        self._pace = pace or Pace()
        self._clock_ms = clock_ms
        self._reader = LazyReader(store.path)
        self._series = Series()
        self._window = Window(0)
        self._held_due = 0.0
        self.messages = self.readings = self.chunks = 0
        self.seconds = self.commit_seconds = 0.0

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def step(self) -> int:
        """Do one bounded piece of work; return how many bytes it moved, 0 when none is due.

        Raises:
            StoreUnavailable: nothing was changed; call again later.
        """
        started = time.perf_counter()
        try:
            return self._step(self._reader.open())
        except apsw.Error as error:
            self._forget()
            raise StoreUnavailable(f"{self._store.path} cannot be compacted: {error}") from error
        except BaseException:
            self._forget()
            raise
        finally:
            self.seconds += time.perf_counter() - started

    def _forget(self) -> None:
        """What is remembered may be of a transaction that was not committed."""
        self._series = Series()
        self._window = Window(0)

    def _step(self, reader: apsw.Connection) -> int:
        before, last, device, removed = next(
            reader.execute("SELECT before, last, device, removed FROM compacting")
        )
        if device < _ALL and last > before:
            return self._compact_devices(reader, before, last, device)
        floor = int(reader.execute(_FLOOR, (self._clock_ms(),)).get)
        if removed < min(last, floor):
            return self._remove(removed, min(last, floor))
        return self._compact_held(reader, floor) or self._open(reader, last)

    def _open(self, reader: apsw.Connection, before: int) -> int:
        """Begin a window when it is full, or its oldest message old enough."""
        window, pace, now = self._window, self._pace, self._clock_ms()
        if window.before != before:
            window = self._window = Window(before)
        newest = int(reader.execute("SELECT coalesce(max(id), 0) FROM messages").get)
        is_full = window.scan(reader, pace, now, self._followers.last_free(newest))
        if window.last == before:
            return 0
        if not is_full and window.oldest_ms > now - pace.wait_ms:
            return 0
        last = window.last
        self._commit(
            lambda connection: connection.execute(
                "UPDATE compacting SET before = last, last = ?, device = 0", (last,)
            )
        )
        return 1

    def _compact_devices(
        self, reader: apsw.Connection, before: int, last: int, device: int
    ) -> int:
        window = self._window
        if window.before != before or window.last != last:
            window = self._window = Window(before)  # a window from before a restart
            window.scan_to(reader, last)
        ids, devices, is_end = window.take(device, self._pace)
        done = _ALL if is_end else devices
        built = self._build(reader, ids)

        def work(connection: apsw.Connection) -> None:
            self._write(connection, built)
            connection.executemany("INSERT INTO held VALUES(?)", [(one,) for one in built.held])
            connection.execute("UPDATE compacting SET device = ?", (done,))

        self._commit(work)
        self._count(len(ids), built)
        if is_end:
            self._window = Window(last)
        return built.size + 1

    def _remove(self, removed: int, last: int) -> int:
        end = min(last, removed + self._pace.step_rows)

        def work(connection: apsw.Connection) -> None:
            connection.execute(_REMOVE, (removed, end))
            connection.execute("UPDATE compacting SET removed = ?", (end,))

        self._commit(work)
        return (end - removed) * 100  # the rows of the indexes, about

    def _compact_held(self, reader: apsw.Connection, floor: int) -> int:
        """Compact messages whose boots were dated since their window."""
        now = time.monotonic()
        if now < self._held_due:
            return 0
        text = reader.execute(_DATED, (self._pace.step_rows, floor)).get
        ids = _decode_ids(text)
        if not ids:
            self._held_due = now + _HELD_S
            return 0
        built = self._build(reader, ids)

        def work(connection: apsw.Connection) -> None:
            self._write(connection, built)
            for table in ("held", "messages"):
                connection.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
                    (text,),
                )

        self._commit(work)
        self._count(len(ids), built)
        return built.size + 1

    def _build(self, reader: apsw.Connection, ids: Iterable[int]) -> "_Built":
        text = reader.execute(_ROWS, (msgspec.json.encode(list(ids)).decode(),)).get
        rows = [_Row._make(row) for row in _decode_rows(text)]
        rows.sort(key=lambda row: (row.device, row.epoch, row.stream, row.seq))
        built = _Built()
        built.known = merge_known(reader, rows)
        self._series.load(reader, {row.device for row in rows})
        series: dict[tuple[int, str, int, int], list[Place]] = {}
        for row in rows:
            if not row.is_good:
                continue
            if row.t0 is None:
                built.held.append(row.id)
                continue
            assert row.body is not None
            built.size += len(row.body)
            _add_readings(series, row, row.body, row.t0)
        for (device, channel, epoch, stream), places in series.items():
            built.readings += len(places)
            for chunk in make_chunks(places):
                number = self._series.number(device, channel, chunk.span)
                built.chunks.append((number, epoch, stream, chunk))
        # Neighbours in the file are written after one another.
        built.chunks.sort(key=lambda one: (one[0], one[3].span, one[3].t0))
        return built

    def _write(self, connection: apsw.Connection, built: "_Built") -> None:
        self._series.write(connection)
        built.known.write(connection)
        at = 0
        for rows in _CHUNK_ROWS:
            while len(built.chunks) - at >= rows:
                values = chain.from_iterable(
                    (number, epoch, stream, *chunk)
                    for number, epoch, stream, chunk in built.chunks[at : at + rows]
                )
                connection.execute(_CHUNKS[rows], tuple(values))
                at += rows

    def _commit(self, work: Callable[[apsw.Connection], Any]) -> None:
        started = time.perf_counter()
        self._store.transact(work)
        self.commit_seconds += time.perf_counter() - started
        self._series.committed()

    def _count(self, messages: int, built: "_Built") -> None:
        self.messages += messages
        self.readings += built.readings
        self.chunks += len(built.chunks)


class _Built:
    """What one step writes."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, int, int, Chunk]] = []  # series, epoch, stream
        self.held: list[int] = []
        self.known = KnownRanges()
        self.readings = self.size = 0


def _add_readings(
    series: dict[tuple[int, str, int, int], list[Place]], row: _Row, body: str, t0: int
) -> None:
    base_ms, boot, channels, items = decode_readings(body)
    if boot:
        # The offset that this message was dated with; see store/query.py.
        base_ms = t0 - min((item[1] for item in items), default=0)
    lists: list[Callable[[Place], None] | None] = [None] * len(channels)
    seq = row.seq
    for place, (index, dt_ms, raw) in enumerate(items):
        append = lists[index]
        if append is None:
            key = (row.device, channels[index], row.epoch, row.stream)
            append = lists[index] = series.setdefault(key, []).append
        append(Place(seq, place, base_ms + dt_ms, bytes(raw)))
