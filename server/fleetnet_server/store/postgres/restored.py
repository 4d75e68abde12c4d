"""A database that was restored into another cluster, whose transactions have other numbers.

pg_dump and pg_restore bring ``messages.xid`` along as it was. In a cluster that has counted less,
old messages would be of transactions that are still to come: no reader in order of commit would
see them, and bridges would wait behind what is new. `fleetnet store migrate` gives all of them one
number from before every transaction; their order is then that of their rows.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

# FirstNormalTransactionId (access/transam.h): before whatever a cluster commits.
_FIRST = 3

# What is visible was committed, so it is below this, unless another cluster numbered it.
_IS_FOREIGN = (
    "SELECT EXISTS (SELECT 1 FROM messages WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"
    " OR EXISTS (SELECT 1 FROM dropped WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"
)
# What a bridge lacks it still lacks; it may get something again that was committed out of order.
_BRIDGES = f"""
UPDATE bridges AS b SET xid = {_FIRST}, message = coalesce(
    (SELECT min(id) - 1 FROM messages AS m WHERE (m.xid, m.id) > (b.xid::text::xid8, b.message)),
    (SELECT max(id) FROM messages), 0)
"""  # noqa: S608
_MESSAGES = f"UPDATE messages SET xid = '{_FIRST}' WHERE xid <> '{_FIRST}'"  # noqa: S608
_DROPPED = f"UPDATE dropped SET xid = '{_FIRST}'"  # noqa: S608


def is_from_elsewhere(connection: "psycopg.Connection[Any]") -> bool:
    """Say whether messages are of transactions that this cluster has not had."""
    row = connection.execute(_IS_FOREIGN).fetchone()
    return row is not None and bool(row[0])


def adopt(connection: "psycopg.Connection[Any]") -> None:
    """Give messages and bridges numbers from before; inside a transaction, with no server."""
    for statement in (_BRIDGES, _MESSAGES, _DROPPED):
        connection.execute(statement)
