"""Keeps a copy of the control tables in memory, by following ``changes`` in the database.

A thread listens for notifications, and looks once a second whatever it heard. It goes on behind
the last change that it has, across connections that broke; when those are gone that it lacks, it
loads everything anew. So it does behind a failover: the standby may lack what was here. While the
database is away, reads go on with what was known last.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fleetnet.errors import FleetError
from fleetnet_server.store.postgres.connect import connect, explained, load_psycopg
from fleetnet_server.store.postgres.copied import KEPT_MS, Change, Copied
from fleetnet_server.store.postgres.schema_cluster import (
    CHANGES_CHANNEL,
    LEASES_CHANNEL,
    REPLICATED,
)
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.store")

# A notification comes within milliseconds; this is for those that were lost.
_LOOK_S = 1.0
# How soon the thread hears that it shall end.
_HEED_S = 0.2
# Changes applied at once: the event loop may wait for so many, some 2 ms.
_PAGE = 500
# Rows under way between the database and memory while all is loaded.
_LOADED_AT_ONCE = 5_000
# First and longest pause between attempts while the database is away.
_RETRY_S = (0.1, 2.0)
# A change that this node made is applied in milliseconds. Longer: the follower's connection broke.
_OWN_S = 5.0

# What of a table is of use to a node that begins.
_WANTED = {
    "audit": "id >= {audit}",
    "commands": "ended_ms IS NULL OR ended_ms > {ended}"
    " OR number = (SELECT max(number) FROM commands)",
}
# The last change that a transaction sees: numbers are in order of commit.
_NEWEST = "SELECT greatest((SELECT coalesce(max(id), 0) FROM changes), (SELECT pruned FROM feed))"
_NEWER = f"SELECT id, tbl, op, changed FROM changes WHERE id > %s ORDER BY id LIMIT {_PAGE}"  # noqa: S608
_PRUNED = "SELECT pruned FROM feed"
# Which history of which cluster it is: each standby that is promoted begins one of its own.
_HISTORY = (
    "SELECT (SELECT system_identifier FROM pg_control_system()) || ' ' || CASE"
    " WHEN pg_is_in_recovery() THEN 'standby'"
    " ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
)


def _nothing() -> None:
    """For who does not want to be called."""


class Replica:
    """One node's copy. ``start`` before use, ``close`` at the end; all else for any thread.

    Args:
        on_change: called when changes were applied, on the replica's thread, as all are.
        on_lease: hears (device, fence, node) of each device that moved to another node.
        on_listening: called when notifications are heard (again): some may have been missed.

    Attributes:
        loads: how often everything was loaded.
    """

    def __init__(
        self,
        place: PostgresPlace,
        on_change: Callable[[], None] = _nothing,
        on_lease: Callable[[int, int, str], None] = lambda _device, _fence, _node: None,
        on_listening: Callable[[], None] = _nothing,
    ):
        self.on_change = on_change
        self.on_lease = on_lease
        self.on_listening = on_listening
        self.loads = 0
        self._place = place
        self._copied = Copied()
        self._applied = 0
        self._history = ""
        self._is_doubtful = False
        self._news = threading.Condition()
        self._current_at = time.monotonic()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load everything, then follow. Raises StoreUnavailable, StoreError."""
        with explained(self._place, "read"), connect(self._place) as connection:
            self._load(connection)
        self._thread = threading.Thread(target=self._work, name="fleetnet-replica", daemon=True)
        self._thread.start()

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows of the copied tables. Raises NotCopied: another table."""
        return self._copied.read(sql, values)

    def wait_for(self, change: int, timeout_s: float = _OWN_S) -> bool:
        """Wait until a change is in here (schema_cluster.LAST_CHANGE); False: not in time."""
        with self._news:
            return self._news.wait_for(lambda: self._applied >= change, timeout_s)

    @property
    def lag_s(self) -> float:
        """Seconds since everything that was committed was in here for sure; some 1 at most."""
        return time.monotonic() - self._current_at

    @property
    def revocations(self) -> int:
        """Grows when a certificate was revoked, by whichever node or program."""
        return self._copied.revocations

    @property
    def applied(self) -> int:
        """Number of the newest change that is in here."""
        return self._applied

    def close(self) -> None:
        """End the thread; reads fail from now on."""
        self._end.set()
        if self._thread is not None:
            # One whose database does not answer is left to its connection's time-outs.
            self._thread.join(2 * _LOOK_S)
            if self._thread.is_alive():
                return
        self._copied.close()

    # On the thread

    def _work(self) -> None:
        pause, longest = _RETRY_S
        is_said = False
        while not self._end.is_set():
            try:
                with explained(self._place, "followed"), connect(self._place) as connection:
                    connection.execute(f"LISTEN {CHANGES_CHANNEL}")
                    connection.execute(f"LISTEN {LEASES_CHANNEL}")
                    self._resume(connection)
                    if is_said:
                        _log.warning("the registry is followed again")
                    pause, is_said = _RETRY_S[0], False
                    self.on_listening()
                    self._follow(connection)
            except FleetError as error:
                if not is_said:
                    _log.error("the registry is as it was until it can be followed: %s", error)
                is_said = True
            except Exception:
                # Without this thread no revocation would be seen any more.
                _log.exception("the registry cannot be followed: all of it is loaded anew")
                self._is_doubtful = is_said = True
            else:
                continue
            self._end.wait(pause)
            pause = min(2 * pause, longest)

    def _resume(self, connection: "Connection") -> None:
        """Go on where the last connection ended, or from the beginning."""
        (newest,) = connection.execute(_NEWEST).fetchone() or (0,)
        # The database is another one: of a backup, or a standby that came late.
        is_other = newest < self._applied or self._read_history(connection) != self._history
        if is_other or self._is_doubtful:
            self._load(connection)
        self._catch_up(connection)

    def _follow(self, connection: "Connection") -> None:
        looked = time.monotonic()
        while not self._end.is_set():
            told = list(connection.notifies(timeout=_HEED_S, stop_after=1))
            for one in told:
                if one.channel == LEASES_CHANNEL:
                    self._hear_lease(one.payload)
            if told or time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                self._catch_up(connection)

    def _hear_lease(self, payload: str) -> None:
        try:
            device, fence, node = payload.split(" ", 2)
            lease = int(device), int(fence), node
        except ValueError:  # everybody who is let in can notify
            _log.debug("a notification of a lease is none: %.100r", payload)
            return
        self.on_lease(*lease)

    @staticmethod
    def _read_history(connection: "Connection") -> str:
        psycopg = load_psycopg()
        try:
            row = connection.execute(_HISTORY).fetchone()
        except psycopg.Error as error:
            if connection.closed:
                raise
            # A service that hides its log: a smaller number of the newest change says it there.
            _log.info("failovers of the database are not seen: %s", error)
            return ""
        return "" if row is None else str(row[0])

    def _catch_up(self, connection: "Connection") -> None:
        """Apply what is newer; load everything when something of that is gone."""
        while True:
            began = time.monotonic()
            rows = connection.execute(_NEWER, (self._applied,)).fetchall()
            # Behind the rows: what is pruned meanwhile shows here.
            (pruned,) = connection.execute(_PRUNED).fetchone() or (0,)
            if pruned > self._applied:
                self._load(connection)
                continue
            if rows:
                self._copied.apply(Change(table, op, row) for _, table, op, row in rows)
                self._applies(rows[-1][0])
            if len(rows) < _PAGE:
                self._current_at = began
                return

    def _load(self, connection: "Connection") -> None:
        history = self._read_history(connection)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            (newest,) = connection.execute(_NEWEST).fetchone() or (0,)
            bounds = {
                # The newest row, or every one that whoever looks for news has not seen.
                "audit": self._copied.audit or "(SELECT coalesce(max(id), 0) FROM audit)",
                "ended": time.time_ns() // 1_000_000 - KEPT_MS,
            }
            self._copied.load(
                (table, self._rows(connection, table, bounds)) for table in REPLICATED
            )
        self.loads += 1
        self._history, self._is_doubtful = history, False
        self._applies(newest, is_loaded=True)

    def _rows(
        self, connection: "Connection", table: str, bounds: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        names = ", ".join(self._copied.columns(table))
        wanted = _WANTED.get(table, "true").format(**bounds)
        with connection.cursor(name=f"load_{table}") as cursor:
            cursor.itersize = _LOADED_AT_ONCE
            cursor.execute(f"SELECT {names} FROM {table} WHERE {wanted}")  # noqa: S608
            yield from cursor

    def _applies(self, change: int, is_loaded: bool = False) -> None:
        with self._news:
            self._applied = change if is_loaded else max(change, self._applied)
            self._news.notify_all()
        self.on_change()
