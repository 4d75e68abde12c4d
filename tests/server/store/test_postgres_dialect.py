"""The tables' SQL on PostgreSQL, and what its errors become."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet_server.errors import ConfigError, StoreError, StoreUnavailable
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.dialect import PgConnection, translate
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S, PostgresServer


@pytest.mark.parametrize(
    "sql, text, numbers",
    [
        ("SELECT ?, ?", "SELECT %s, %s", None),
        ("SELECT 1", "SELECT 1", None),
        ("SELECT ?2, ?1, ?2", "SELECT %(v2)s, %(v1)s, %(v2)s", (1, 2)),
        ("SELECT ?, ?1", "SELECT %(v1)s, %(v1)s", (1,)),
        ("SELECT ?2, ?", "SELECT %(v2)s, %(v3)s", (1, 2, 3)),
        (
            "SELECT '?', '%', 'it''s ?', \"a?b\", ?",
            "SELECT '?', '%%', 'it''s ?', \"a?b\", %s",
            None,
        ),
        ("SELECT ? -- is it?\n, 7 % 3 /* ? */", "SELECT %s -- is it?\n, 7 %% 3 /* ? */", None),
        ("SELECT ?1, ?2, ?3", "SELECT %s, %s, %s", None),
    ],
)
def test_places_of_values(sql: str, text: str, numbers: tuple[int, ...] | None) -> None:
    assert translate(sql) == (text, numbers)


@pytest.fixture
def connection(own_place: PostgresPlace) -> Iterator[PgConnection]:
    with connect(own_place) as raw:
        raw.execute("CREATE TEMPORARY TABLE kept(a BIGINT, b TEXT, c BYTEA, d DOUBLE PRECISION)")
        yield PgConnection(raw)


def test_values_come_back_as_they_went(connection: PgConnection) -> None:
    rows: list[tuple[Any, ...]] = [
        (2**62, "ä '\\ %s ?", b"\0\xff%", 1e300), (-5, "", b"", -0.5), (None, None, None, None),
    ]  # fmt: skip
    connection.executemany("INSERT INTO kept VALUES(?, ?, ?, ?)", rows)
    assert connection.changes() == 3
    found = connection.execute("SELECT * FROM kept ORDER BY a DESC NULLS LAST")
    assert next(found) == rows[0]
    assert list(found) == rows[1:]
    assert found.fetchone() is None
    assert connection.execute("INSERT INTO kept(a) VALUES(?)", (True,)).fetchall() == []
    assert connection.execute("SELECT a FROM kept WHERE a = 1").get == 1
    assert connection.execute("SELECT a, b FROM kept WHERE a = ?1 OR a = ?1", (1,)).get == (1, None)
    assert connection.execute("SELECT a FROM kept WHERE a = 77").get is None
    total = connection.execute("SELECT sum(a) FROM kept WHERE a < 100").get
    assert (total, type(total)) == (-4, int), "SQLite's sum of integers is an integer"
    assert connection.execute("SELECT coalesce(?1, b), ?2 + 1 FROM kept", (None, 2**40)).fetchone()
    connection.execute("UPDATE kept SET b = 'x' WHERE a > ?", (0,))
    assert connection.changes() == 2


def test_what_no_text_of_postgresql_has_stops_nobody(connection: PgConnection) -> None:
    """A device may fail its identity with any reason, and a certificate may have any name."""
    connection.execute("INSERT INTO kept(b, c) VALUES(?, ?)", ("a\0b", b"\0"))
    assert connection.execute("SELECT b, c FROM kept WHERE b = ?1 OR b = ?1", ("a\0b",)).get == (
        "a\u2400b", b"\0",
    )  # fmt: skip


def refused(place: PostgresPlace, sql: str) -> StoreError | StoreUnavailable:
    with pytest.raises((StoreError, StoreUnavailable)) as caught:
        with connect(place) as raw, explained(place, "read"):
            raw.execute(sql)
    return caught.value


def test_errors_say_what_helps(postgres: PostgresServer, own_place: PostgresPlace) -> None:
    def fails(place: PostgresPlace, sql: str, kind: type[Exception], words: str) -> None:
        error = refused(place, sql)
        assert type(error) is kind, error
        assert words in str(error)
        assert postgres.password not in str(error)

    fails(own_place, "SELECT * FROM nothing", StoreError, "fleetnet store migrate")
    fails(own_place, "CREATE TABLE public.x(a INTEGER)", StoreError, "fleetnet store roles")
    fails(postgres.place("no_such"), "SELECT 1", StoreError, "createdb")
    fails(own_place._replace(password_file=None), "SELECT 1", StoreError, "postgres.password")
    fails(own_place.as_user("nobody_here"), "SELECT 1", StoreError, "postgres.password")
    fails(
        own_place, "BEGIN READ ONLY; INSERT INTO renewals VALUES(1, 2)",
        StoreUnavailable, "standby",
    )  # fmt: skip
    fails(own_place, "SET statement_timeout = 1; SELECT pg_sleep(5)", StoreUnavailable, "too long")
    away = PostgresPlace("postgresql://x@/f?host=/nowhere")
    fails(away, "SELECT 1", StoreUnavailable, "is the database server up")
    with postgres.admin() as admin:
        admin.execute(f"ALTER DATABASE {own_place.database} CONNECTION LIMIT 0")
    error = refused(own_place, "SELECT 1")
    assert isinstance(error, StoreUnavailable), error
    with postgres.admin() as admin:
        admin.execute(f"ALTER DATABASE {own_place.database} SET default_transaction_read_only = on")
        admin.execute(f"ALTER DATABASE {own_place.database} CONNECTION LIMIT -1")
    error = refused(own_place, "SELECT 1")
    assert isinstance(error, StoreUnavailable), error
    assert "standby" in str(error)


def test_a_password_is_its_owners_alone(own_place: PostgresPlace, tmp_path: Path) -> None:
    file = tmp_path / "postgres.password"
    file.write_text("x\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        connect(own_place._replace(password_file=file))
    file.chmod(0o600)
    assert "password" in str(refused(own_place._replace(password_file=file), "SELECT 1"))
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        connect(own_place._replace(password_file=file))


def test_a_database_comes_back_by_itself(
    postgres: PostgresServer, own_place: PostgresPlace
) -> None:
    with PostgresDatabase(own_place) as database:
        database.transact(
            lambda c: c.execute("INSERT INTO devices(name, created_ms) VALUES('a', 1)")
        )
        postgres.kill()
        with pytest.raises(StoreUnavailable):
            database.read("SELECT name FROM devices")
        with pytest.raises(StoreUnavailable):
            database.transact(lambda c: c.execute("DELETE FROM devices"))
        postgres.start()
        assert database.read("SELECT name FROM devices") == [("a",)]
        postgres.restart()  # the connection broke, and nobody noticed
        database.transact(lambda c: c.execute("UPDATE devices SET state = 'disabled'"))
        postgres.restart()
        assert database.read("SELECT name, state FROM devices") == [("a", "disabled")]


def test_a_commit_of_which_nobody_knows_is_not_tried_again(
    postgres: PostgresServer, own_place: PostgresPlace
) -> None:
    with postgres.admin(own_place.database) as admin, PostgresDatabase(own_place) as database:
        admin.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(300); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON devices DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        runs: list[int] = []

        def work(connection: Any) -> None:
            runs.append(1)
            connection.execute("INSERT INTO devices(name, created_ms) VALUES('a', 1)")

        def kill_in_commit() -> None:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            until = time.monotonic() + PATIENCE_S
            while admin.execute(asked).fetchone() == (0,) and time.monotonic() < until:
                time.sleep(0.02)
            postgres.kill()

        killer = threading.Thread(target=kill_in_commit)
        killer.start()
        with pytest.raises(StoreUnavailable, match="see whether it is there"):
            database.transact(work)
        killer.join()
        postgres.start()
        assert len(runs) == 1
        assert database.read("SELECT name FROM devices") == []


def test_transactions_follow_one_another(own_place: PostgresPlace) -> None:
    """Who counts and adds one loses no number, on however many connections."""
    with PostgresDatabase(own_place) as database:
        database.transact(
            lambda c: c.execute("INSERT INTO devices(id, name, created_ms) VALUES(1, 'a', 1)")
        )

    def work(connection: Any) -> None:
        edit = connection.execute("SELECT coalesce(max(edit), 0) FROM configs").get
        connection.execute(
            "INSERT INTO configs(device, edit, version, document, set_ms) VALUES(1, ?, 1, '', 0)"
            " ON CONFLICT(device) DO UPDATE SET edit = ?1, version = configs.version + 1",
            (edit + 1,),
        )

    def many() -> None:
        with PostgresDatabase(own_place) as database:
            for _ in range(10):
                database.transact(work)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with PostgresDatabase(own_place) as database:
        assert database.read("SELECT edit, version FROM configs") == [(40, 40)]


def test_a_transaction_that_was_in_the_way_is_run_again(own_place: PostgresPlace) -> None:
    with PostgresDatabase(own_place) as database:
        runs: list[int] = []

        def work(connection: Any) -> int:
            runs.append(1)
            if len(runs) < 3:
                connection.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")
            return len(runs)

        assert database.transact(work) == 3
        assert database.read("SELECT 1") == [(1,)]
