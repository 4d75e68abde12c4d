"""Roles of the database: who owns the tables, who serves, who only reads.

    fleetnet store roles            # prints the SQL
    fleetnet store roles --apply --user postgres

What PostgreSQL refuses no error of the server can do: it cannot drop or alter a table, cannot
change or delete a row of the audit log, and makes partitions only through functions of the owner.
"""

import secrets
from pathlib import Path
from typing import Any

from fleetnet_server.identity.files import write_new_file
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store_place import PASSWORD_FILE, PostgresPlace

OWNER, SERVER, READER = ROLES = ("fleetnet_owner", "fleetnet_server", "fleetnet_reader")

# What is no secret: no keys, no tokens, no arguments of commands, no audit log.
READABLE = (
    "devices", "certificates", "epochs", "boots", "gaps", "series", "rollups", "device_readings",
)  # fmt: skip
# The version of the layout is the owner's to change, a row of the audit log nobody's.
_NOT_WRITTEN = ("fleetnet_schema",)
_ADDED_TO = ("audit",)

# Advisory locks are everybody's in a database. Who leads, who has a node's name and who dates what
# comes is said by them (locks.py): the reader could take them, and nobody would.
_LOCKING = ", ".join(
    f"pg_catalog.pg_{word}advisory_{kind}lock{shared}({keys})"
    for word in ("", "try_")
    for kind in ("", "xact_")
    for shared in ("", "_shared")
    for keys in ("bigint", "int, int")
)
# Whoever owns the database may serve from it as well.
_LOCKING_BY_OWNER = (
    "DO $$ BEGIN EXECUTE (SELECT format("  # noqa: S608
    f"'GRANT EXECUTE ON FUNCTION {_LOCKING} TO %I', pg_get_userbyid(datdba))"
    " FROM pg_database WHERE datname = current_database()); END $$"
)
# A reader's statement, and a transaction that he leaves open, hold back new partitions, and every
# program that reads messages in order of commit.
_READER_SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "'60s'",
    "idle_in_transaction_session_timeout": "'60s'",
}

# Nobody guesses 192 bits, and no tool has to quote these characters.
_PASSWORD_BYTES = 24

_TABLES = (
    "SELECT relname, relkind = 'v' FROM pg_class"
    " WHERE relnamespace = current_schema()::regnamespace"
    " AND relkind IN ('r', 'p', 'v') AND NOT relispartition"
    " AND pg_has_role(current_user, relowner, 'USAGE') ORDER BY relname"
)
_FUNCTIONS = (
    "SELECT oid::regprocedure::TEXT FROM pg_proc"
    " WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'fleetnet%%'"
    " AND prokind <> 'a' AND pg_has_role(current_user, proowner, 'USAGE') ORDER BY 1"
)


def creating(database: str) -> list[str]:
    """Return the statements that make the roles; for a superuser or one with CREATEROLE.

    Idempotent. The roles have no password yet: nobody comes in by one. Advisory locks are a
    superuser's to take away; for another the database says that nothing was revoked.
    """
    name = quoted(database)
    make = [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{role}')"  # noqa: S608
        f" THEN CREATE ROLE {role} LOGIN; END IF; END $$"
        for role in ROLES
    ]
    return [
        *make,
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {', '.join(ROLES)}",
        f"GRANT TEMPORARY ON DATABASE {name} TO {OWNER}, {SERVER}",
        f"GRANT USAGE ON SCHEMA public TO {SERVER}, {READER}",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}",
        f"REVOKE EXECUTE ON FUNCTION {_LOCKING} FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION {_LOCKING} TO {OWNER}, {SERVER}",
        _LOCKING_BY_OWNER,
        *(
            f"ALTER ROLE {READER} IN DATABASE {name} SET {key} = {value}"
            for key, value in _READER_SETTINGS.items()
        ),
    ]


def granting(connection: Any) -> list[str]:
    """Return the statements that give the roles their rights on the tables that are there.

    For the tables' owner; those of a role that does not exist are left out.
    """
    roles = _known_roles(connection)
    found = connection.execute(_TABLES).fetchall()
    functions = [name for (name,) in connection.execute(_FUNCTIONS).fetchall()]
    statements: list[str] = []
    if SERVER in roles:
        for table, is_view in found:
            rights = _server_rights(table, is_view)
            statements.append(f"REVOKE ALL ON {quoted(table)} FROM {SERVER}")
            statements.append(f"GRANT {rights} ON {quoted(table)} TO {SERVER}")
        statements += [f"GRANT EXECUTE ON FUNCTION {name} TO {SERVER}" for name in functions]
    if READER in roles:
        known = {table for table, _is_view in found}
        statements += [
            f"GRANT SELECT ON {quoted(table)} TO {READER}" for table in READABLE if table in known
        ]
    return statements


def _server_rights(table: str, is_view: bool) -> str:
    if is_view or table in _NOT_WRITTEN:
        return "SELECT"
    return "SELECT, INSERT" if table in _ADDED_TO else "SELECT, INSERT, UPDATE, DELETE"


def grant_if_there(connection: Any) -> None:
    """Give the roles their rights, inside a transaction of the caller's."""
    for statement in granting(connection):
        connection.execute(statement)


def apply(place: PostgresPlace, folder: Path | None = None) -> list[Path]:
    """Make the roles in a database, and give them their rights where there are tables.

    Args:
        place: whose user may make roles.
        folder: a role that is new gets a password, in FOLDER/postgres.password (the server's)
            or FOLDER/postgres.ROLE.password; None: no passwords are made. Roles are of the whole
            database server: one that is there may serve another fleet, and keeps its password.

    Returns:
        The files that were written.

    Raises:
        StoreError: the user may not. StoreUnavailable. FolderError: a file is there already.
    """
    written = []
    with explained(place, "given roles"), connect(place) as connection:
        known = _known_roles(connection)
        with connection.transaction():
            for statement in creating(connection.info.dbname):
                connection.execute(statement)
            grant_if_there(connection)
            for role in ROLES:
                if folder is not None and role not in known:
                    path = password_path(folder, role)
                    write_new_file(path, _new_password(connection, role))
                    written.append(path)
    return written


def _known_roles(connection: Any) -> set[str]:
    return {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}


def _new_password(connection: Any, role: str) -> bytes:
    """Give a role another password; the server, and its log, see its SCRAM verifier alone."""
    password = secrets.token_urlsafe(_PASSWORD_BYTES).encode()
    verifier = connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256")
    connection.execute(f"ALTER ROLE {role} PASSWORD '{verifier.decode()}'")
    return password + b"\n"


def password_path(folder: Path, role: str) -> Path:
    """Return where a role's password is kept."""
    name = PASSWORD_FILE if role == SERVER else f"postgres.{role}.password"
    return folder / name


def quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'
