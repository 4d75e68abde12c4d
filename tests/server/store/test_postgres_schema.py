"""The layout in PostgreSQL: made once, never by two at a time; and what its roles may not do."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.postgres import migrations, roles
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.schema_control import CONTROL_TABLES, STREAM_TABLES
from fleetnet_server.store_place import PostgresPlace
from server.cli.running import environment
from server.store.postgres_server import (
    ADMIN,
    OWNER,
    PATIENCE_S,
    READER,
    SERVER,
    PostgresServer,
    skip_without_postgres,
)


@pytest.fixture
def empty(postgres: PostgresServer) -> Iterator[PostgresPlace]:
    """A database without tables, for their owner."""
    made = postgres.database(OWNER, migrated=False)
    yield made
    postgres.drop(made)


def tables(postgres: PostgresServer, own_place: PostgresPlace) -> set[str]:
    with postgres.admin(own_place.database) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p')"
        ).fetchall()
    return {name for (name,) in rows}


# -- migrations ----------------------------------------------------------------------------


def test_two_programs_at_once_make_it_once(empty: PostgresPlace) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from fleetnet_server.store_place import PostgresPlace\n"
        "from fleetnet_server.store.postgres.migrations import migrate\n"
        "sys.stdin.read(1); print(*migrate(PostgresPlace(sys.argv[1], Path(sys.argv[2]))))"
    )
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty.url, str(empty.password_file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
        )
        for _ in range(3)
    ]  # fmt: skip
    said = []
    for program in programs:
        assert program.stdin is not None
        program.stdin.write(b"x")
        program.stdin.flush()
    for program in programs:
        said.append(program.communicate(timeout=PATIENCE_S)[0].decode().strip())
    assert (
        sorted(said)
        == [f"0 {migrations.VERSION}"] + [f"{migrations.VERSION} {migrations.VERSION}"] * 2
    )


def test_a_database_that_is_not_of_this_version_is_refused(
    postgres: PostgresServer, empty: PostgresPlace
) -> None:
    with pytest.raises(StoreError, match="fleetnet store migrate"):
        open_store(empty)
    assert migrations.migrate(empty) == (0, migrations.VERSION)
    served = postgres.place(empty.database, SERVER)
    open_store(served).close()
    with postgres.admin(empty.database) as connection:
        connection.execute("INSERT INTO fleetnet_schema VALUES(99)")
    for act in (lambda: migrations.migrate(empty), lambda: open_store(served)):
        with pytest.raises(StoreError, match="layout 99 of a newer fleetnet"):
            act()
    with postgres.admin(empty.database) as connection:
        connection.execute("DELETE FROM fleetnet_schema")
        connection.execute("INSERT INTO fleetnet_schema VALUES(-1)")
    with pytest.raises(StoreError, match="fleetnet store migrate"):
        open_store(served)


def test_a_step_that_fails_leaves_nothing(
    postgres: PostgresServer, empty: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(postgres, empty)
    steps = ((1, (*migrations.STEPS[0][1], "CREATE TABLE late(a INTEGER); SELECT 1 / 0")),)
    monkeypatch.setattr(migrations, "STEPS", steps)
    with pytest.raises(StoreError, match="division by zero"):
        migrations.migrate(empty)
    assert tables(postgres, empty) == before
    monkeypatch.undo()
    assert migrations.migrate(empty) == (0, migrations.VERSION)


def test_who_does_not_own_the_tables_cannot_migrate(
    postgres: PostgresServer, empty: PostgresPlace
) -> None:
    with pytest.raises(StoreError, match="permission denied"):
        migrations.migrate(postgres.place(empty.database, SERVER))


def test_the_control_tables_are_those_of_sqlite(own_place: PostgresPlace, tmp_path: Path) -> None:
    """The same names and columns: one text of SQL for both."""
    file = schema.open_writable(tmp_path / "fleet.db")
    more = {"bridges": {"xid"}}
    with connect(own_place) as connection:
        for table in (*CONTROL_TABLES, *STREAM_TABLES):
            wanted = {row[1] for row in file.execute(f"PRAGMA table_info({table})")}
            found = connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass"
                " AND attnum > 0 AND NOT attisdropped",
                (table,),
            ).fetchall()
            assert wanted, table
            assert {name for (name,) in found} - more.get(table, set()) == wanted, table
    file.close()


# -- roles ---------------------------------------------------------------------------------


def refusal(place: PostgresPlace, sql: str) -> str:
    with connect(place, writes=False) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(sql)
    return str(caught.value)


def test_what_a_server_may_not_do(postgres: PostgresServer, own_place: PostgresPlace) -> None:
    with connect(own_place) as connection:
        connection.execute("INSERT INTO audit(at_ms, actor, action) VALUES(1, 'a', 'b')")
    for sql in (
        "UPDATE audit SET actor = 'eve'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "TRUNCATE devices CASCADE",
        "UPDATE fleetnet_schema SET version = 7",
        "CREATE TABLE mine(a INTEGER)",
        "CREATE ROLE eve",
        f"SET ROLE {OWNER}",
        "SELECT pg_read_file('/etc/passwd')",
    ):
        assert "permission denied" in refusal(own_place, sql), sql
    assert "must be superuser" in refusal(own_place, "COPY devices TO PROGRAM 'cat'")
    for sql in (
        "DROP TABLE audit",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "ALTER TABLE devices ADD COLUMN x INTEGER",
        "DROP TRIGGER audit_stays ON audit",
        "CREATE OR REPLACE FUNCTION fleetnet_refuse() RETURNS trigger LANGUAGE sql AS ''",
    ):
        said = refusal(own_place, sql)
        assert "must be owner" in said or "permission denied" in said, sql
    with postgres.admin(own_place.database) as connection:
        assert connection.execute("SELECT actor FROM audit").fetchall() == [("a",)]


def test_nobody_changes_the_audit_log(postgres: PostgresServer, own_place: PostgresPlace) -> None:
    """The tables' owner would have to drop the trigger first, and that is seen."""
    with connect(own_place) as connection:
        connection.execute("INSERT INTO audit(at_ms, actor, action) VALUES(1, 'a', 'b')")
    for user in (OWNER, ADMIN):
        for sql in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "TRUNCATE audit"):
            assert "append-only" in refusal(postgres.place(own_place.database, user), sql)


def test_what_a_reader_sees(postgres: PostgresServer, own_place: PostgresPlace) -> None:
    reader = postgres.place(own_place.database, READER)
    hidden = (
        "psks", "tokens", "claims", "commands", "configs", "audit", "identities", "messages",
        "blobs", "leases", "readings",
    )  # fmt: skip
    for table in hidden:
        assert "permission denied" in refusal(reader, f"SELECT * FROM {table}"), table
    with connect(reader, writes=False) as connection:
        for table in roles.READABLE:
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
    for sql in ("INSERT INTO devices(name, created_ms) VALUES('x', 1)", "DELETE FROM devices"):
        assert "permission denied" in refusal(reader, f"BEGIN READ WRITE; {sql}")
    with connect(reader, writes=False) as connection:
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("on",)


def test_what_a_reader_reads(postgres: PostgresServer, own_place: PostgresPlace) -> None:
    rows = [(1000, 3.0, ""), (2000, 1.5, None), (3000, 9e18, "9000000000000000001"),
            (4000, None, '"open"'), (5000, -0.0, "-0.0")]  # fmt: skip
    with connect(own_place) as connection:
        connection.execute("INSERT INTO devices(id, name, created_ms) VALUES(1, 'cam-1', 1)")
        connection.execute("INSERT INTO epochs(id, device, epoch) VALUES(1, 1, '\\xab')")
        connection.execute("INSERT INTO series(id, device, channel) VALUES(1, 1, 'temp')")
        for row in rows:
            connection.execute(
                "INSERT INTO readings(series, epoch, stream, seq, place, t, number, value)"
                " VALUES(1, 1, 1, 1, 0, %s, %s, %s)",
                row,
            )
    asked = (
        "SELECT device, channel, unix_ms, number, value, epoch FROM device_readings"
        " WHERE device = 'cam-1' ORDER BY at"
    )
    reader = postgres.place(own_place.database, READER)
    with connect(reader, writes=False) as connection:
        found = connection.execute(asked).fetchall()
    texts = ["3", "1.5", "9000000000000000001", '"open"', "-0.0"]
    assert found == [
        ("cam-1", "temp", t, number, text, "ab")
        for (t, number, _value), text in zip(rows, texts, strict=True)
    ]
    with connect(own_place) as connection:
        connection.execute("UPDATE devices SET state = 'quarantined'")
    with connect(reader, writes=False) as connection:
        assert connection.execute(asked).fetchall() == []


def test_a_server_can_do_what_it_needs(own_place: PostgresPlace) -> None:
    with connect(own_place) as connection:
        for table in (*CONTROL_TABLES, *STREAM_TABLES, "messages", "readings", "series"):
            connection.execute(f"SELECT * FROM {table}")
            lacks = connection.execute(
                "SELECT has_table_privilege(%s, 'INSERT')", (table,)
            ).fetchone()
            assert lacks == (True,), table


def test_roles_are_made_twice_and_passwords_once(tmp_path: Path) -> None:
    """On a server of its own, as roles are of all its databases."""
    server = PostgresServer(skip_without_postgres())
    try:
        with server.admin() as connection:
            connection.execute('CREATE DATABASE "a Fleet"')
        admin = server.place("a%20Fleet", ADMIN)
        written = roles.apply(admin, tmp_path)
        assert [path.name for path in written] == [
            "postgres.fleetnet_owner.password", "postgres.password",
            "postgres.fleetnet_reader.password",
        ]  # fmt: skip
        assert {stat.S_IMODE(os.stat(path).st_mode) for path in written} == {0o600}
        assert roles.apply(admin, tmp_path) == []
        owner = admin.as_user(OWNER, tmp_path)
        assert migrations.migrate(owner) == (0, migrations.VERSION)
        served = admin.as_user(SERVER)._replace(password_file=tmp_path / "postgres.password")
        with open_store(served) as store:
            store.add_device("cam-1")
        with server.admin() as connection:
            ((verifier,),) = connection.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (SERVER,)
            ).fetchall()
        assert verifier.startswith("SCRAM-SHA-256$")
        for path in written:
            assert path.read_text().strip() not in server.log()
    finally:
        server.close()


# -- order ---------------------------------------------------------------------------------


def test_numbers_are_in_order_of_commit(own_place: PostgresPlace) -> None:
    """Who looks for news behind the newest number misses none, also of plain statements."""
    numbers: list[int] = []
    with connect(own_place) as first, connect(own_place) as second:

        def write(connection: Any) -> None:
            row = connection.execute(
                "INSERT INTO audit(at_ms, actor, action) VALUES(1, 'a', 'b') RETURNING id"
            ).fetchone()
            numbers.append(row[0])

        first.execute("BEGIN")
        write(first)
        other = threading.Thread(target=write, args=(second,))
        other.start()
        with connect(own_place) as third:
            wait = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
            while third.execute(wait).fetchone() == (0,):
                assert other.is_alive(), "it did not wait for the commit of the first"
        first.execute("COMMIT")
        other.join(PATIENCE_S)
    assert numbers == sorted(numbers)
    assert len(numbers) == 2
