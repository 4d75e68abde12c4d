"""What is the newest of each stream, without reading every row.

max() over the unique index is one seek a stream; GROUP BY would read all messages of the epoch.
What was compacted has no row, but a range in ``known``.
"""

from fleetnet_server.store.ports import Readable

# (stream, highest sequence) of epoch ?1; a stream may come more than once.
WATERMARKS = (
    "WITH RECURSIVE streams(n) AS ("
    " SELECT min(stream) FROM messages WHERE epoch = ?1"
    " UNION ALL SELECT (SELECT min(stream) FROM messages WHERE epoch = ?1 AND stream > n)"
    " FROM streams WHERE n IS NOT NULL)"
    " SELECT n, (SELECT max(seq) FROM messages WHERE epoch = ?1 AND stream = n)"
    " FROM streams WHERE n IS NOT NULL"
    " UNION ALL SELECT stream, max(last) FROM gaps WHERE epoch = ?1 GROUP BY stream"
    " UNION ALL SELECT stream, max(last) FROM known WHERE epoch = ?1 GROUP BY stream"
    " UNION ALL SELECT stream, last FROM carried WHERE epoch = ?1"
)

# When the newest message of the newest epoch of device ?1 came, unix ms.
LAST_RECEIVED = (
    "WITH RECURSIVE epoch(id) AS (SELECT max(id) FROM epochs WHERE device = ?1),"
    " streams(n) AS (SELECT min(stream) FROM messages, epoch WHERE epoch = epoch.id"
    " UNION ALL SELECT (SELECT min(stream) FROM messages, epoch"
    " WHERE epoch = epoch.id AND stream > n) FROM streams WHERE n IS NOT NULL)"
    " SELECT max(at) FROM (SELECT max((SELECT received FROM messages"
    " WHERE epoch = epoch.id AND stream = n ORDER BY seq DESC LIMIT 1)) AS at"
    " FROM streams, epoch WHERE n IS NOT NULL UNION ALL"
    " SELECT max(received) FROM known WHERE epoch = (SELECT id FROM epoch))"
)


def last_received(store: Readable, device_id: int) -> int | None:
    """See Database.last_received; of a store file."""
    ((found,),) = store.read(LAST_RECEIVED, (device_id,))
    return None if found is None else int(found)
