"""Places in the messages of PostgreSQL, in an order in which nothing comes later before them.

Numbers of rows are given when a row is written, not when it is committed: whoever reads behind
the highest number misses what commits late. So a place is (transaction, row), and readers take
only transactions below the oldest that is under way: pg_snapshot_xmin (PostgreSQL, 9.27.11).

In this program a place is one int, as that of SQLite is; larger is later.
"""

# Of a row: its number is a bigint, and never negative.
_BITS = 63

# As text: there is no cast between xid8 and bigint.
OLDEST = "pg_snapshot_xmin(pg_current_snapshot())"


def pack(transaction: int, row: int) -> int:
    """Make one int of a place."""
    return transaction << _BITS | row


def unpack(place: int) -> tuple[int, int]:
    """Return (transaction, row) of a place."""
    return place >> _BITS, place & (1 << _BITS) - 1
