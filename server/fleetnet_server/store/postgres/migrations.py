"""The layout of the database: its version, and the steps that bring an older one to this.

    fleetnet store migrate

Each step is one transaction, made by one program at a time. A step is never edited once it was
released. Only the tables' owner can do it; a server that finds another version does not start.
"""

from typing import TYPE_CHECKING, Any

from fleetnet_server.errors import StoreError
from fleetnet_server.store.postgres import restored, roles
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.locks import MIGRATION
from fleetnet_server.store.postgres.schema_cluster import CLUSTER
from fleetnet_server.store.postgres.schema_control import CONTROL
from fleetnet_server.store.postgres.schema_messages import MESSAGES
from fleetnet_server.store.postgres.schema_readings import READINGS
from fleetnet_server.store.postgres.schema_views import VIEWS
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

STEPS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (1, (CONTROL, MESSAGES, READINGS, CLUSTER, VIEWS)),
)
VERSION = STEPS[-1][0]

# Partitioning by hash or range with defaults, and pg_current_xact_id(), need 13; 15 is what every
# supported Debian has, and what the tests run on.
LEAST_SERVER = 150000

# Another program's step may rewrite large tables.
_LOCK_TIMEOUT = "SET lock_timeout = '1h'"

# store/copy_steps.py; the table is there when the database was the target of a copy.
_HAS_COPYING = "SELECT to_regclass('copying') IS NOT NULL"
_IS_HALF = "SELECT EXISTS (SELECT 1 FROM copying WHERE step = '' AND done = 0)"

_MIGRATE = "run `fleetnet store migrate` as the tables' owner"


def migrate(place: PostgresPlace) -> tuple[int, int]:
    """Bring a database to this version; return the version that it had (0: none) and has now.

    Two programs at once are one after another: the second finds nothing to do.

    Raises:
        StoreError: it is of a newer version, the user may not, or the server is too old.
        StoreUnavailable: no server; no step was half done.
    """
    with explained(place, "migrated"), connect(place) as connection:
        check_server(connection, place)
        connection.execute(_LOCK_TIMEOUT)
        connection.execute(f"SELECT pg_advisory_lock({MIGRATION})")
        before = read_version(connection)
        _refuse_newer(before, place)
        for version, texts in STEPS:
            if version > before:
                with connection.transaction():
                    _make_step(connection, version, texts)
        with connection.transaction():
            if restored.is_from_elsewhere(connection):
                restored.adopt(connection)
            roles.grant_if_there(connection)
        return before, VERSION


def _make_step(connection: Any, version: int, texts: tuple[str, ...]) -> None:
    for text in texts:
        connection.execute(text)
    connection.execute("CREATE TABLE IF NOT EXISTS fleetnet_schema(version BIGINT PRIMARY KEY)")
    connection.execute("INSERT INTO fleetnet_schema VALUES(%s)", (version,))


def read_version(connection: "psycopg.Connection[tuple[Any, ...]]") -> int:
    """Return the version of a database's layout, 0: it has none."""
    row = connection.execute("SELECT to_regclass('fleetnet_schema') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return 0
    found = connection.execute("SELECT coalesce(max(version), 0) FROM fleetnet_schema").fetchone()
    return int(found[0]) if found else 0


def check(connection: "psycopg.Connection[tuple[Any, ...]]", place: PostgresPlace) -> None:
    """Refuse a database whose layout is not of this version, half a copy, or one just restored.

    Raises:
        StoreError: it has none, an older or a newer one, or the server is too old.
    """
    check_layout(connection, place)
    if restored.is_from_elsewhere(connection):
        raise StoreError(f"{place} was restored from another cluster of PostgreSQL: {_MIGRATE}")
    if connection.execute(_HAS_COPYING).fetchone() == (True,):
        row = connection.execute(_IS_HALF).fetchone()
        if row is not None and row[0]:
            raise StoreError(
                f"{place} is a copy that is not complete: run `fleetnet store copy` again"
            )


def check_layout(connection: "psycopg.Connection[tuple[Any, ...]]", place: PostgresPlace) -> None:
    """Refuse a database whose layout is not of this version. Raises as ``check``."""
    check_server(connection, place)
    version = read_version(connection)
    _refuse_newer(version, place)
    if not version:
        raise StoreError(f"{place} has no tables of fleetnet: {_MIGRATE}")
    if version < VERSION:
        raise StoreError(
            f"{place} has layout {version}, this program needs {VERSION}: stop the servers, "
            f"then {_MIGRATE}"
        )


def check_server(connection: "psycopg.Connection[Any]", place: PostgresPlace) -> None:
    """Refuse a server that is too old. Raises StoreError."""
    found = connection.info.server_version
    if found < LEAST_SERVER:
        raise StoreError(
            f"{place} is PostgreSQL {found // 10000}: fleetnet needs {LEAST_SERVER // 10000}"
        )


def _refuse_newer(version: int, place: PostgresPlace) -> None:
    if version > VERSION:
        raise StoreError(
            f"{place} has layout {version} of a newer fleetnet, this one knows {VERSION}: "
            "install the newer program here"
        )
