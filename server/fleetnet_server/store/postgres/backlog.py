"""Dates what a commit left: messages of boots that had more waiting than it could take.

A page is one short transaction, which moves its place in ``dating`` as well: each message is dated
once, whoever leads. With the offset of the commit that noted it, as if that had dated all.
"""

from typing import TYPE_CHECKING, Any

from fleetnet_server.core.bodies import Message
from fleetnet_server.store.postgres.dating import PAGE, date_page
from fleetnet_server.store.postgres.lazy_connection import LazyConnection
from fleetnet_server.store.postgres.series import SeriesNumbers
from fleetnet_server.store.postgres.storing import expand_all, store_readings
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

# Boots of one step: those of a fleet that starts again have few messages each. Those that are
# least far come first, so that no boot waits for one with a longer backlog.
_BOOTS_A_STEP = 100
_NEXT = (
    "SELECT device, boot, offset_ms, behind FROM dating"  # noqa: S608
    f" ORDER BY behind, device, boot LIMIT {_BOOTS_A_STEP} FOR UPDATE SKIP LOCKED"
)
_MOVE = (
    "UPDATE dating AS d SET behind = w.behind FROM"
    " unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(device, boot, behind)"
    " WHERE d.device = w.device AND d.boot = w.boot"
)
_END = (
    "DELETE FROM dating WHERE (device, boot) IN (SELECT * FROM unnest(%s::bigint[], %s::bigint[]))"
)


class Backlog:
    """Dates what waits in one database, a page a step, on one thread."""

    name = "dating"

    def __init__(self, place: PostgresPlace):
        self._connection = LazyConnection(place)

    def close(self) -> None:
        """End the connection; the next step makes another."""
        self._connection.close()

    def step(self) -> int:
        """Date a page; return the bytes of its bodies and rows, 0: nothing waits.

        Raises:
            StoreUnavailable, StoreError: nothing of this step was changed.
        """
        with self._connection.use("dated") as connection, connection.transaction():
            return _step(connection)


def _step(connection: "PgRawConnection") -> int:
    found = connection.execute(_NEXT).fetchall()
    if not found:
        return 0
    boots = {(device, boot): offset for device, boot, offset, _behind in found}
    behind = {(device, boot): place for device, boot, _offset, place in found}
    page = date_page(connection, boots, behind, lambda dated: _store(connection, dated))
    keys = [[key[0] for key in behind], [key[1] for key in behind]]
    if page.rows < PAGE:
        connection.execute(_END, keys)
    else:
        connection.execute(_MOVE, (*keys, list(behind.values())))
    return page.size + page.rows * 100 + 1


def _store(connection: "PgRawConnection", dated: list[Message]) -> None:
    # Numbers that this transaction makes are gone when it fails: none are remembered.
    series = SeriesNumbers()
    found, _beyond = expand_all(connection, dated, series)
    store_readings(connection, found, series)
