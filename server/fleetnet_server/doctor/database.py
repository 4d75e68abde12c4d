"""How the database is, where the store is PostgreSQL: can a server work with it, and be trusted?"""

from fleetnet.errors import FleetError
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres import health, migrations
from fleetnet_server.store_place import PostgresPlace

# A commit has some eight round trips: 25 ms each, and four commits a second are all there is.
_SLOW_MS = 25.0
# Each node has up to six connections; one more node shall always find room.
_SPARE_CONNECTIONS = 8

_MIGRATE = "stop the servers, then `fleetnet store migrate` as the tables' owner"
_ROLES = "`fleetnet store roles --apply --user postgres`, and serve as fleetnet_server"


def examine(place: PostgresPlace) -> list[Finding]:
    """Look at a database; nothing is changed."""
    try:
        found = health.examine(place)
    except FleetError as error:
        return [_of_failure(place, error)]
    findings = [_of_layout(place, found)]
    if found.layout == migrations.VERSION:
        findings += _of_rights(found)
    return findings + _of_server(found)


def _of_failure(place: PostgresPlace, error: FleetError) -> Finding:
    mark = "; " if isinstance(error, StoreUnavailable) else ": "
    text, _, remedy = str(error).rpartition(mark)
    if not text:
        return Finding("store", BAD, str(error), f"correct `store`, which says {place}")
    return Finding("store", BAD, text, remedy)


def _of_layout(place: PostgresPlace, found: health.Health) -> Finding:
    server = f"PostgreSQL {found.server // 10000}.{found.server % 10000}"
    if found.server < migrations.LEAST_SERVER:
        remedy = f"upgrade it to {migrations.LEAST_SERVER // 10000} or later"
        return Finding("store", BAD, f"{place} is {server}", remedy)
    if not found.layout:
        return Finding("store", BAD, f"{place} ({server}) has no tables of fleetnet", _MIGRATE)
    if found.layout < migrations.VERSION:
        text = f"{place} has layout {found.layout}, this program needs {migrations.VERSION}"
        return Finding("store", BAD, text, _MIGRATE)
    if found.layout > migrations.VERSION:
        text = f"{place} has layout {found.layout} of a newer fleetnet"
        return Finding("store", BAD, text, "install the newer program here")
    text = f"{place}: {server}, layout {found.layout}, {found.bytes >> 20} MiB"
    return Finding("store", OK, f"{text}, {found.round_trip_ms:.1f} ms a round trip")


def _of_rights(found: health.Health) -> list[Finding]:
    if found.lacks:
        text = f"{found.user} lacks rights on {', '.join(found.lacks)}"
        return [Finding("database", BAD, text, _ROLES)]
    if found.is_super or found.owns:
        what = "is a superuser" if found.is_super else "owns the tables"
        text = f"{found.user} {what}: a server that is broken into could change the audit log"
        return [Finding("database", WARN, text, _ROLES)]
    return [Finding("database", OK, f"{found.user} has the rights of a server, and no more")]


def _of_server(found: health.Health) -> list[Finding]:
    findings = []
    for name, value in (("fsync", found.fsync), ("synchronous_commit", found.synchronous_commit)):
        if value == "off":
            text = f"{name} is off there: what was acknowledged is lost in a power cut"
            findings.append(Finding("database", WARN, text, f"`{name} = on` in postgresql.conf"))
    if not found.is_encrypted:
        remedy = "`?sslmode=verify-full` in `store`, with `ssl = on` there"
        findings.append(Finding("database", WARN, "the way to it is not encrypted", remedy))
    if found.round_trip_ms > _SLOW_MS:
        text = f"a round trip takes {found.round_trip_ms:.0f} ms: commits are slow"
        findings.append(Finding("database", WARN, text, "run the servers near the database"))
    left = found.most_connections - found.connections
    if left < _SPARE_CONNECTIONS:
        text = f"{found.connections} of {found.most_connections} connections are in use"
        remedy = "raise max_connections there, or run fewer nodes"
        findings.append(Finding("database", WARN, text, remedy))
    return findings
