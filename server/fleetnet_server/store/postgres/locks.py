"""Locks that fleetnet takes in its database: of a table, and advisory ones (PostgreSQL 13.3.5).

An advisory lock can be taken by everybody who may run its functions: `fleetnet store roles` takes
these from the reader. A table can be locked by whom it is granted to.
"""

# "flnt": other programs in the same database count theirs otherwise.
_OURS = 0x666C6E74 << 16

MIGRATION = _OURS + 1  # of a session: one program at a time changes the layout

# Of a transaction that changes a control table (schema_control.py). They follow one another, as
# SQLite's do: numbers of the audit log, of commands and of the feed are in order of commit, no
# two wait for each other's rows, and what counts the rows that are there counts right. It is the
# first lock that such a transaction takes. The table has no rows; its lock is FEED.
FEED = "feed_lock"
TAKE_FEED = f"LOCK TABLE {FEED} IN SHARE ROW EXCLUSIVE MODE"
# The same, which says whether it has it; the argument is the longest wait in ms, not 0.
TRY_FEED = "SELECT fleetnet_try_feed(%s)"
