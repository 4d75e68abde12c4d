"""Connections to PostgreSQL, and what its errors mean for whoever runs the server.

Every connection notices within half a minute that its server is gone, whatever the network says,
and no statement waits for a lock longer than LOCK_S.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fleetnet_server.errors import ConfigError, StoreError, StoreUnavailable
from fleetnet_server.store.postgres.passwords import read_password
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

# To reach the server and be let in: three round trips, and a server that is busy with a herd.
CONNECT_S = 5
# A lock that is held longer is somebody's open transaction, not ours.
LOCK_S = 10
# Silence after which the kernel asks, between questions, and how many stay without an answer.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
# What was sent and is not acknowledged for so long: the server, or the way to it, is gone.
_UNACKNOWLEDGED_MS = 15_000
# The same at the server: the lock of a leader whose machine lost its power is free in half a minute
# and not in two hours, the kernel's usual. Sockets of one machine (Unix) ignore it.
_SERVER_KEEPALIVE = {f"tcp_{key}": value for key, value in _KEEPALIVE.items()}
# A program that stopped inside a transaction must not hold everybody's locks.
_IDLE_IN_TRANSACTION_S = 60

_INSTALL = "pip install 'fleetnet[postgres]'"

# SQLSTATE by its beginning (PostgreSQL, appendix A): what the same call may meet no more later.
_PASSING = (
    ("53100", "free the disk of the database server"),
    ("53300", "raise max_connections there, or run fewer nodes"),
    ("53", "the database server lacks memory or disk"),
    ("25006", "this server only reads, it is a standby: name the primary, or promote it"),
    ("57P", "the database server stops or starts: wait, or see its log"),
    ("57014", "the statement took too long: see what else the database server does"),
    ("25P03", "the program stood still inside a transaction: try again"),
    ("55P03", "another program holds a lock: see pg_stat_activity there"),
    ("40", "it was in the way of another program: try again"),
    ("08", "is the database server up, and the network to it? See its log"),
    ("58", "the database server's disk fails: see its log"),
    ("XX", "the database is damaged: see the database server's log, restore a backup"),
)
_LASTING = (
    ("42501", "grant the rights: `fleetnet store roles`"),
    ("42P01", "make the tables: `fleetnet store migrate`"),
    ("42703", "bring the tables to this version: `fleetnet store migrate`"),
    ("3D000", "make it there (`createdb`), or correct `store` in fleetnet.toml"),
    ("28", "correct the user in `store`, or its password in FOLDER/postgres.password"),
)
# libpq gives no SQLSTATE for a connection that failed; the texts are the server's and libpq's.
_REFUSED = (
    ("does not exist", "make it there (`createdb`, `createuser`), or correct `store`"),
    ("password", "write the user's password to FOLDER/postgres.password (mode 0600) or ~/.pgpass"),
    ("authentication", "correct the user in `store`, or what pg_hba.conf there says of it"),
    ("pg_hba.conf", "allow this user, database and address in pg_hba.conf there"),
    ("root certificate", "name the CA's file: `?sslmode=verify-full&sslrootcert=FILE` in `store`"),
    ("certificate verify failed", "name its CA's file: `?sslrootcert=FILE` in `store`"),
    ("server certificate for", "`store` has to name the server as its certificate does"),
    ("does not support SSL", "switch TLS on there (`ssl = on`), or say `?sslmode=` in `store`"),
    ("role", "correct the user in `store`"),
)


def load_psycopg() -> Any:
    """Import psycopg. Raises ConfigError when it is not installed."""
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(f"the store is PostgreSQL and psycopg is missing: {_INSTALL}") from error
    return psycopg


def connect(place: PostgresPlace, *, writes: bool = True, timeout_s: int = CONNECT_S) -> Any:
    """Open a connection in autocommit mode, with the types of dialect.py.

    Args:
        writes: of several hosts, take the one that can be written.

    Raises:
        ConfigError: psycopg is missing, or the password's file is readable by others.
        StoreUnavailable: no server, or one that only reads. StoreError: it does not let us in.
    """
    psycopg = load_psycopg()
    from fleetnet_server.store.postgres.dialect import register_types

    with explained(place, "opened"):
        connection: PgRawConnection = psycopg.connect(
            place.url, autocommit=True, **_options(place, writes, timeout_s)
        )
    register_types(connection)
    return connection


def _options(place: PostgresPlace, writes: bool, timeout_s: int) -> dict[str, Any]:
    settings = {
        "lock_timeout": f"{LOCK_S}s",
        "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_S}s",
        "tcp_user_timeout": _UNACKNOWLEDGED_MS,
        **_SERVER_KEEPALIVE,
    }
    options: dict[str, Any] = {
        "application_name": "fleetnet",
        "connect_timeout": timeout_s,
        "tcp_user_timeout": _UNACKNOWLEDGED_MS,
        "options": " ".join(f"-c {key}={value}" for key, value in settings.items()),
        **_KEEPALIVE,
    }
    if writes:
        options["target_session_attrs"] = "read-write"
    if place.password_file is not None:
        options["password"] = read_password(place.password_file)
    return options


@contextmanager
def explained(place: PostgresPlace, done: str) -> Iterator[None]:
    """Raise StoreUnavailable or StoreError for what psycopg raises inside; ``done``: "read"."""
    psycopg = load_psycopg()
    try:
        yield
    except psycopg.Error as error:
        raise explain(place, done, error) from error


def explain(place: PostgresPlace, done: str, error: Any) -> StoreUnavailable | StoreError:
    """Make the error that says what happened to the database, and what to do."""
    state = getattr(error, "sqlstate", None) or ""
    said = " ".join(str(error).split()) or type(error).__name__
    text = f"{place} cannot be {done}: {said}"
    for start, remedy in _LASTING:
        if state.startswith(start):
            return StoreError(f"{text}: {remedy}")
    for start, remedy in _PASSING:
        if state.startswith(start):
            return StoreUnavailable(f"{text}; {remedy}")
    if state:
        return StoreError(text)
    if "read-only" in said or "session is read" in said:
        return StoreUnavailable(f"{text}; {_PASSING[3][1]}")
    for words, remedy in _REFUSED:
        if words in said and "Connection refused" not in said and "shutting down" not in said:
            return StoreError(f"{text}: {remedy}")
    return StoreUnavailable(f"{text}; is the database server up, and the network to it?")
