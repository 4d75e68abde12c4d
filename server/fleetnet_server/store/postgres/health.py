"""What `fleetnet check` and `fleetnet doctor` want to know of a database of PostgreSQL."""

import time
from typing import Any, NamedTuple

from fleetnet_server.store.postgres import migrations
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.schema_control import CONTROL_TABLES, STREAM_TABLES
from fleetnet_server.store_place import PostgresPlace

# A commit is a few round trips; a check must not report one that met a busy moment.
_ROUND_TRIPS = 5

_FACTS = (
    "SELECT current_user,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
    " current_setting('fsync'), current_setting('synchronous_commit'),"
    " current_setting('max_connections')::INTEGER,"
    " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
    " pg_database_size(current_database())"
)
_OWNS = (
    "SELECT EXISTS(SELECT 1 FROM pg_class WHERE oid = to_regclass('audit')"
    " AND pg_has_role(current_user, relowner, 'USAGE'))"
)
_LACKS = (
    "SELECT t FROM unnest(%s::TEXT[]) AS t WHERE to_regclass(t) IS NULL"
    " OR NOT has_table_privilege(current_user, to_regclass(t), 'SELECT')"
    " OR NOT has_table_privilege(current_user, to_regclass(t), 'INSERT')"
)


class Health(NamedTuple):
    """A database as it answered just now.

    Attributes:
        server: version of PostgreSQL, 150018. layout: version of the tables, 0: none.
        user: whom we are there. is_super, owns: he may do what a server should not.
        lacks: tables that he may not read and add to.
        is_encrypted: TLS; also True where nothing leaves the machine.
        fsync, synchronous_commit: whether what is acknowledged is on its disk.
        connections, most_connections: in use, and how many there may be.
        bytes: of the database. round_trip_ms: the shortest of a few.
    """

    server: int
    layout: int
    user: str
    is_super: bool
    owns: bool
    lacks: list[str]
    is_encrypted: bool
    fsync: str
    synchronous_commit: str
    connections: int
    most_connections: int
    bytes: int
    round_trip_ms: float


def examine(place: PostgresPlace) -> Health:
    """Ask a database how it is; nothing is changed.

    Raises:
        StoreUnavailable: no server. StoreError: it does not let us in. ConfigError: no psycopg.
    """
    with connect(place) as connection, explained(place, "examined"):
        user, is_super, fsync, synchronous, most, used, size = _row(connection, _FACTS)
        layout = migrations.read_version(connection)
        tables = [*CONTROL_TABLES, *STREAM_TABLES] if layout else []
        lacks = [name for (name,) in connection.execute(_LACKS, (tables,)).fetchall()]
        local = not connection.info.host or connection.info.host.startswith(("/", "127.", "::1"))
        return Health(
            connection.info.server_version, layout, user, bool(is_super),
            bool(_row(connection, _OWNS)[0]), lacks,
            bool(local or connection.pgconn.ssl_in_use), fsync, synchronous, used, most, size,
            _round_trip_ms(connection),
        )  # fmt: skip


def _row(connection: Any, sql: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = connection.execute(sql).fetchone()
    return found


def _round_trip_ms(connection: Any) -> float:
    times = []
    for _ in range(_ROUND_TRIPS):
        begun = time.perf_counter()
        connection.execute("SELECT 1")
        times.append(time.perf_counter() - begun)
    return min(times) * 1000
