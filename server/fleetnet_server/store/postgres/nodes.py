"""The servers at one database: each has a row that says that it runs, and since when not.

Times are the database's clock: those of the nodes may differ. Which device is where is in
``leases``; a lease of a node that was not seen for ALIVE_MS is nobody's.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet.errors import FleetError
from fleetnet_server.errors import ConfigError
from fleetnet_server.store.ports import Readable
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.leadership import lock_key
from fleetnet_server.store.postgres.schema_cluster import NOW_MS
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.nodes")

# One small write of each node: ten nodes are five a second.
BEAT_S = 2.0
# Five beats: a node that is busy, or whose database was slow, is not gone.
ALIVE_MS = 10_000
# A node that was not seen for a day is not coming back under its name.
_FORGOTTEN_MS = 86_400_000
# Changes are kept so long for nodes that are cut off; one that was away longer loads everything.
CHANGES_KEPT_MS = 3_600_000
_PRUNE_EVERY_S = 60.0
# First and longest pause between attempts while the database is away.
_RETRY_S = (0.2, 2.0)
# Devices in one question.
_ASKED_AT_ONCE = 500

_ALIVE = f"seen_ms > {NOW_MS} - {ALIVE_MS}"
_IS_ALIVE = f"SELECT 1 FROM nodes WHERE name = %s AND {_ALIVE}"  # noqa: S608
_BEAT = (
    "INSERT INTO nodes(name, run, started_ms, seen_ms, version, sessions, url)"
    f" VALUES(%s, %s, {NOW_MS}, {NOW_MS}, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET"
    " started_ms = CASE WHEN nodes.run = excluded.run THEN nodes.started_ms"
    " ELSE excluded.started_ms END, run = excluded.run, seen_ms = excluded.seen_ms,"
    " version = excluded.version, sessions = excluded.sessions, url = excluded.url"
)
_PRUNE = (
    "WITH gone AS (DELETE FROM changes WHERE id <= (SELECT max(id) FROM changes"  # noqa: S608
    f" WHERE at_ms < {NOW_MS} - {CHANGES_KEPT_MS}) RETURNING id)"
    " UPDATE feed SET pruned = greatest(pruned, (SELECT max(id) FROM gone))"
    " WHERE EXISTS (SELECT 1 FROM gone)"
)


class NodeRow(NamedTuple):
    """One server; times are unix ms by the database's clock. ``url``: of its HTTP API, or ""."""

    name: str
    started_ms: int
    seen_ms: int
    version: str
    sessions: int
    url: str
    is_alive: bool


class Where(NamedTuple):
    """The session of a device, wherever it is; ``since_ms`` is unix ms."""

    node: str
    since_ms: int
    link: str
    address: str
    software: str


class Heartbeat:
    """Says that this node runs. ``start`` before use, ``close`` at the end.

    Args:
        name: of the node. version: of the program. url: of its HTTP API, "" for none.
        sessions: returns how many it has, on the heartbeat's thread.
    """

    def __init__(
        self, place: PostgresPlace, name: str, version: str, url: str, sessions: Callable[[], int]
    ):
        self.name = name
        self._place = place
        self._run = secrets.token_hex(8)
        self._about = (version, url)
        self._sessions = sessions
        self._beaten_at = time.monotonic()
        self._pruned_at = self._beaten_at
        self._end = threading.Event()
        self._first: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="fleetnet-node", daemon=True)

    @property
    def silence_s(self) -> float:
        """Seconds since the database took the last beat."""
        return max(0.0, time.monotonic() - self._beaten_at)

    def start(self) -> None:
        """Say it the first time.

        Raises:
            ConfigError: another server that runs has this name. StoreUnavailable, StoreError.
        """
        with explained(self._place, "written"):
            connection: Connection = connect(self._place)
            try:
                if not self._has_name(connection) and self._is_anothers(connection):
                    raise ConfigError(
                        f"node: another server at this database is {self.name!r}: "
                        "give each of them its own name, or none"
                    )
                self._beat(connection)
            except BaseException:
                connection.close()
                raise
        self._first = connection
        self._thread.start()

    def close(self) -> None:
        """Say that it runs no longer."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(BEAT_S)

    # On the thread

    def _work(self) -> None:
        pause, longest = _RETRY_S
        while not self._end.is_set():
            try:
                with explained(self._place, "written"), self._connect() as connection:
                    while not self._end.is_set():
                        self._beat(connection)
                        pause = _RETRY_S[0]
                        self._prune(connection)
                        self._end.wait(BEAT_S)
                    connection.execute(
                        "DELETE FROM nodes WHERE name = %s AND run = %s", (self.name, self._run)
                    )
            except FleetError as error:
                _log.info("the other nodes do not hear of this one: %s", error)
                self._end.wait(pause)
                pause = min(2 * pause, longest)

    def _connect(self) -> "Connection":
        """Return a connection that holds the name, if it can be had."""
        first, self._first = self._first, None
        if first is not None:
            return first
        connection: Connection = connect(self._place)
        self._has_name(connection)
        return connection

    def _beat(self, connection: "Connection") -> None:
        version, url = self._about
        connection.execute(_BEAT, (self.name, self._run, version, self._sessions(), url))
        self._beaten_at = time.monotonic()

    def _prune(self, connection: "Connection") -> None:
        if time.monotonic() - self._pruned_at >= _PRUNE_EVERY_S:
            self._pruned_at = time.monotonic()
            prune(connection)

    def _has_name(self, connection: "Connection") -> bool:
        """Hold the name for as long as this connection is open; a node that died gives it free."""
        row = connection.execute(
            "SELECT pg_try_advisory_lock(%s::int, %s::int)", lock_key(f"node {self.name}")
        ).fetchone()
        return bool(row is not None and row[0])

    def _is_anothers(self, connection: "Connection") -> bool:
        # The connection of a machine that lost its power stays open at the database for hours.
        row = connection.execute(_IS_ALIVE, (self.name,)).fetchone()
        return row is not None


def prune(connection: "Connection") -> None:
    """Remove what nobody needs any more: changes of long ago, nodes that are gone."""
    connection.execute(_PRUNE)
    connection.execute(f"DELETE FROM nodes WHERE seen_ms < {NOW_MS} - {_FORGOTTEN_MS}")  # noqa: S608


def nodes(database: Readable) -> list[NodeRow]:
    """Return all nodes that were seen lately, by name. Raises StoreUnavailable, StoreError."""
    rows = database.read(
        f"SELECT name, started_ms, seen_ms, version, sessions, url, ({_ALIVE})::INT::BIGINT"  # noqa: S608
        " FROM nodes ORDER BY name"
    )
    return [NodeRow._make((*row[:6], bool(row[6]))) for row in rows]


def sessions_elsewhere(database: Readable, node: str) -> dict[str, Where]:
    """Return the sessions at all other nodes, by device name. Raises as ``whereabouts``."""
    rows = database.read(
        "SELECT d.name, l.node, l.since_ms, l.link, l.address, l.software FROM leases AS l"  # noqa: S608
        " JOIN nodes AS n ON n.name = l.node JOIN devices AS d ON d.id = l.device"
        f" WHERE n.{_ALIVE} AND l.node <> ?",
        (node,),
    )
    return {row[0]: Where(*row[1:]) for row in rows}


def whereabouts(database: Readable, devices: Iterable[int] | None = None) -> dict[int, Where]:
    """Return where devices have their sessions now; None: every device that has one.

    Raises:
        StoreUnavailable, StoreError.
    """
    sql = (
        "SELECT l.device, l.node, l.since_ms, l.link, l.address, l.software FROM leases AS l"  # noqa: S608
        f" JOIN nodes AS n ON n.name = l.node WHERE n.{_ALIVE}"
    )
    if devices is None:
        return {row[0]: Where(*row[1:]) for row in database.read(sql)}
    wanted = sorted(set(devices))
    found: dict[int, Where] = {}
    for start in range(0, len(wanted), _ASKED_AT_ONCE):
        some = tuple(wanted[start : start + _ASKED_AT_ONCE])
        marks = ", ".join("?" * len(some))
        rows = database.read(f"{sql} AND l.device IN ({marks})", some)
        found.update((row[0], Where(*row[1:])) for row in rows)
    return found
