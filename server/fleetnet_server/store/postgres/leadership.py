"""Work that one node does for all: who holds a lock in the database does it.

The lock is of a session (PostgreSQL 13.3.5), on a connection of its own: it ends with its node, and
the next one has it within seconds. A leader whose database does not answer stops being one by its
own clock, before another can have been told that it is.
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from fleetnet.errors import FleetError
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from typing import Any

    import psycopg

_log = logging.getLogger("fleetnet.nodes")

# "flnt": of the keys that have two numbers; those with one are in locks.py.
_CLASS = 0x666C6E74
# How often a follower tries, and the leader looks whether it still is one.
_LOOK_S = 1.0
# Without an answer of the database for so long nobody leads.
_SURE_S = 5.0
# First and longest pause between attempts while the database is away.
_RETRY_S = (0.2, 2.0)


def lock_key(name: str) -> tuple[int, int]:
    """Return the two numbers of a name's advisory lock."""
    number = zlib.crc32(name.encode())
    return _CLASS, number - (1 << 32) if number >= 1 << 31 else number


class Leadership:
    """One kind of work. ``start`` before use, ``close`` at the end.

    Args:
        name: of the work, equal on all nodes.
        on_change: hears on a thread of its own whether this node leads now.
    """

    def __init__(
        self,
        place: PostgresPlace,
        name: str,
        on_change: Callable[[bool], None] = lambda _leads: None,
    ):
        self.name = name
        self.on_change = on_change
        self._place = place
        self._key = lock_key(f"lead {name}")
        self._holds = False
        self._sure_at = 0.0
        self._resigned_until = 0.0
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._work, name=f"fleetnet-lead-{name}", daemon=True
        )

    @property
    def is_leader(self) -> bool:
        """Whether this node has the work."""
        return self._holds and time.monotonic() - self._sure_at < _SURE_S

    def start(self) -> None:
        """Begin to try."""
        self._thread.start()

    def resign(self, pause_s: float) -> None:
        """Let another node have the work, and do not try again for so long."""
        self._resigned_until = time.monotonic() + pause_s
        self._wake.set()

    def close(self) -> None:
        """Give the work up."""
        self._is_closed = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(2 * _LOOK_S)

    # On the thread

    def _work(self) -> None:
        pause, longest = _RETRY_S
        while not self._is_closed:
            try:
                with explained(self._place, "asked"), connect(self._place) as connection:
                    pause = _RETRY_S[0]
                    while not self._is_closed:
                        self._look(connection)
                        self._wait(_LOOK_S)
            except FleetError as error:
                _log.info("who does the work %s is not known: %s", self.name, error)
                self._is(False)
                self._wait(pause)
                pause = min(2 * pause, longest)
        self._is(False)

    def _look(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        asked_at = time.monotonic()
        if self._holds and asked_at < self._resigned_until:
            self._is(False)
            connection.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", self._key)
        elif self._holds:
            connection.execute("SELECT 1")
            self._sure_at = asked_at
        elif asked_at >= self._resigned_until:
            row = connection.execute(
                "SELECT pg_try_advisory_lock(%s::int, %s::int)", self._key
            ).fetchone()
            if row is not None and row[0]:
                self._sure_at = asked_at
                self._is(True)

    def _is(self, holds: bool) -> None:
        if holds != self._holds:
            self._holds = holds
            _log.info("%s the work %s", "this node does" if holds else "no longer here:", self.name)
            self.on_change(holds)

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()
