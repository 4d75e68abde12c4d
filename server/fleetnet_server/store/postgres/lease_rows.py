"""What leases.py asks the database, and how its rows become the begin of a session."""

from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet_server.core.ports import SessionStart

if TYPE_CHECKING:
    import psycopg

# Offsets of boots that are read with a session. A message of another boot is dated by its commit.
_BOOTS = 16
# Who is left out, and has a row nevertheless, is in the hands of another transaction.
_LOCK_FREE = (
    "SELECT device FROM leases WHERE device = ANY(%s::bigint[]) ORDER BY device"
    " FOR NO KEY UPDATE SKIP LOCKED"
)
_THERE = "SELECT device FROM leases WHERE device = ANY(%s::bigint[])"
TAKE = (
    "INSERT INTO leases(device, fence, node, since_ms, link, address, software)"
    " SELECT device, 1, %s, %s, link, address, software"
    " FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])"
    " AS wanted(device, link, address, software) ORDER BY device"
    " ON CONFLICT (device) DO UPDATE SET fence = leases.fence + 1, node = excluded.node,"
    " since_ms = excluded.since_ms, link = excluded.link, address = excluded.address,"
    " software = excluded.software RETURNING device, fence"
)
# The row stays: a fence is never given twice.
GIVE_BACK = (
    "WITH given AS (SELECT l.device FROM leases AS l"
    " JOIN unnest(%s::bigint[], %s::bigint[]) AS ended(device, fence)"
    " ON l.device = ended.device AND l.fence = ended.fence ORDER BY 1"
    " FOR NO KEY UPDATE OF l SKIP LOCKED)"
    " UPDATE leases SET node = '' WHERE device IN (SELECT device FROM given)"
)
NOT_GIVEN = (
    "SELECT l.device, l.fence FROM leases AS l"
    " JOIN unnest(%s::bigint[], %s::bigint[]) AS ended(device, fence)"
    " ON l.device = ended.device AND l.fence = ended.fence WHERE l.node <> ''"
)
NUMBER = (
    "INSERT INTO epochs(device, epoch) SELECT device, epoch"
    " FROM unnest(%s::bigint[], %s::bytea[]) AS wanted(device, epoch) ORDER BY 1, 2"
    " ON CONFLICT (device, epoch) DO NOTHING"
)
NUMBERS = (
    "SELECT e.device, e.id FROM epochs AS e"
    " JOIN unnest(%s::bigint[], %s::bytea[]) AS wanted(device, epoch)"
    " ON e.device = wanted.device AND e.epoch = wanted.epoch"
)
MARKS = (
    "SELECT epoch, stream::bigint, last FROM streams WHERE epoch = ANY(%s::bigint[]) AND last > 0"
    " UNION ALL SELECT epoch, stream, last FROM carried WHERE epoch = ANY(%s::bigint[])"
)
BOOTS_OF = (
    "SELECT wanted.device, b.boot, b.offset_ms FROM unnest(%s::bigint[]) AS wanted(device)"  # noqa: S608
    " CROSS JOIN LATERAL (SELECT boot, offset_ms FROM boots WHERE device = wanted.device"
    f" LIMIT {_BOOTS}) AS b"
)
WHO = "SELECT device, fence, node FROM leases WHERE device = ANY(%s::bigint[])"
FENCES = (
    "SELECT device, fence, node FROM leases WHERE device = ANY(%s::bigint[])"
    " ORDER BY device FOR SHARE"
)


class Begun(NamedTuple):
    """What begins a session; ``boots`` are boot -> offset in ms."""

    start: SessionStart
    boots: dict[int, int]


def find_held(connection: "psycopg.Connection[tuple[Any, ...]]", devices: list[int]) -> set[int]:
    """Lock leases; return the devices whose lease another transaction has locked."""
    locked = connection.execute(_LOCK_FREE, (devices,))
    there = connection.execute(_THERE, (devices,)).fetchall()
    return {device for (device,) in there} - {device for (device,) in locked.fetchall()}


def as_begun(
    ids: list[int], numbers: dict[int, int], marks: list[tuple[Any, ...]],
    offsets: list[tuple[Any, ...]],
) -> dict[int, Begun]:  # fmt: skip
    """Return what each device begins with: of its epoch's number, marks and boots."""
    streams: dict[int, dict[int, int]] = {}
    for epoch, stream, last in marks:
        found = streams.setdefault(epoch, {})
        found[stream] = max(last, found.get(stream, 0))
    boots: dict[int, dict[int, int]] = {}
    for device, boot, offset in offsets:
        boots.setdefault(device, {})[boot] = offset
    return {
        one: Begun(SessionStart(numbers[one], streams.get(numbers[one], {})), boots.get(one, {}))
        for one in ids
    }
