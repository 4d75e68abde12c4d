"""Connections that nobody uses at the moment: a page of a dashboard would rather not make one.

Making one takes PostgreSQL a process and several round trips, some ms of a core.
"""

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

# The threads of the HTTP API, and one more. Those of PostgreSQL are few: 100, unless it is told.
_MOST = 4
# One that rested for longer may have been forgotten by what is between here and there.
_AGE_S = 60.0


class _Resting(NamedTuple):
    place: PostgresPlace
    since: float
    process: int
    connection: "PgReader"


class Idle:
    """Keeps connections that are outside a transaction; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resting: list[_Resting] = []

    def take(self, place: PostgresPlace) -> "PgReader | None":
        """Return a connection to ``place``, which may have broken since; None: there is none."""
        now = time.monotonic()
        with self._lock:
            old = [one for one in self._resting if now - one.since > _AGE_S]
            self._resting = [one for one in self._resting if one not in old]
            found = next(
                (one for one in reversed(self._resting)
                 if one.place == place and one.process == os.getpid()), None
            )  # fmt: skip
            if found is not None:
                self._resting.remove(found)
        _close(old)
        return None if found is None else found.connection

    def put(self, place: PostgresPlace, connection: "PgReader") -> None:
        """Keep a connection, or close it or another one."""
        with self._lock:
            self._resting.append(_Resting(place, time.monotonic(), os.getpid(), connection))
            surplus, self._resting = self._resting[:-_MOST], self._resting[-_MOST:]
        _close(surplus)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            resting, self._resting = self._resting, []
        _close(resting)


def _close(several: list[_Resting]) -> None:
    for one in several:
        # A child of fork() shares the parent's: it is not its own to end.
        if one.process == os.getpid():
            one.connection.close()


idle = Idle()
atexit.register(idle.close)
