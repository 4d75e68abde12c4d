"""The copy of the control tables that a node reads: always what the database has, soon."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from fleetnet_server.errors import StoreError
from fleetnet_server.store.postgres import nodes, schema_cluster
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.copied import NotCopied
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.replica import Replica
from fleetnet_server.store.postgres.schema_cluster import LAST_CHANGE, REPLICATED
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S, PostgresServer, wait_until
from server.store.postgres_world import cut

Write = Callable[[Any, random.Random], None]

# What the replica asks: LIKE, of its connection alone.
FEED = "%FROM feed%"


@pytest.fixture
def replica(own_place: PostgresPlace) -> Iterator[Replica]:
    made = Replica(own_place)
    made.start()
    yield made
    made.close()


def write(database: PostgresDatabase, sql: str, values: tuple[Any, ...] = ()) -> int:
    """Change something; return the number of the change."""

    def work(connection: Any) -> int:
        connection.execute(sql, values)
        return int(connection.execute(LAST_CHANGE).get)

    return database.transact(work)


def add_device(database: PostgresDatabase, name: str) -> int:
    return write(database, "INSERT INTO devices(name, created_ms) VALUES(?, 1)", (name,))


# -- random changes ----------------------------------------------------------------------------


def _device(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO devices(name, created_ms, grp, labels) VALUES(?, ?, ?, ?)",
        (f"cam-{r.getrandbits(40)}", r.getrandbits(41), r.choice(("a", "ü\n\\x")), '{"a": "%?"}'),
    )


def _of_one(c: Any, r: random.Random) -> int:
    ids = [row[0] for row in c.execute("SELECT id FROM devices ORDER BY id")]
    return int(r.choice(ids))


def _change(c: Any, r: random.Random) -> None:
    c.execute(
        "UPDATE devices SET state = ?, grp = ? WHERE id % 3 = ?",
        (r.choice(("enabled", "disabled")), f"g{r.random()}", r.randrange(3)),
    )


def _certificate(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO certificates(serial, device, issued_ms, not_after_ms) VALUES(?, ?, ?, ?)",
        (f"{r.getrandbits(128):x}", _of_one(c, r), 1, 2**53 + 1),
    )


def _key(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO psks(identity, device, key, created_ms) VALUES(?, ?, ?, 1)",
        (f"p{r.getrandbits(40)}", _of_one(c, r), r.randbytes(r.randrange(40))),
    )


def _command(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO commands(id, device, name, args, created_ms, expires_ms)"
        " VALUES(?, ?, 'blink', '[]', 1, 2)",
        (f"{r.getrandbits(60):x}", _of_one(c, r)),
    )


def _hub(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO hubs(device, hub, assigned_ms) VALUES(?, ?, 1) ON CONFLICT DO NOTHING",
        (_of_one(c, r), _of_one(c, r)),
    )


def _less(c: Any, r: random.Random) -> None:
    table = r.choice(("psks", "hubs", "certificates"))
    c.execute(f"DELETE FROM {table} WHERE device % 4 = ?", (r.randrange(4),))


def _audit(c: Any, r: random.Random) -> None:
    c.execute(
        "INSERT INTO audit(at_ms, actor, action, device) VALUES(1, 'test', 'device-x', ?)",
        (r.choice((None, "cam")),),
    )


WRITES: tuple[Write, ...] = (_device, _change, _certificate, _key, _command, _hub, _less, _audit)


def write_randomly(place: PostgresPlace, seed: int, count: int) -> None:
    """Make transactions of a few changes each; some of them are rolled back."""
    r = random.Random(seed)
    with PostgresDatabase(place) as database:
        for _ in range(count):
            chosen = r.choices(WRITES, k=r.randrange(1, 5))
            fails = r.random() < 0.2

            def work(c: Any, chosen: Any = chosen, fails: bool = fails) -> None:
                for one in chosen:
                    one(c, r)
                if fails:
                    raise StoreError("rolled back")

            try:
                database.transact(work)
            except StoreError as error:
                assert str(error) == "rolled back"


def test_the_copy_equals_the_tables_after_random_writes_of_three_programs(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    """It begins in the middle of them, and its connection is cut again and again."""
    write(database, "INSERT INTO devices(name, created_ms) VALUES('first', 1)")
    writers = [
        threading.Thread(target=write_randomly, args=(own_place, seed, 60)) for seed in (1, 2, 3)
    ]
    for one in writers:
        one.start()
    replica = Replica(own_place)
    replica.start()
    try:
        while any(one.is_alive() for one in writers):
            cut(database, FEED)
            time.sleep(0.1)
        for one in writers:
            one.join()
        # Of the audit log it has what is newer than its beginning.
        first = replica.read("SELECT min(id) FROM audit")[0][0]
        ((newest,),) = database.read("SELECT max(id) FROM changes")
        assert replica.wait_for(newest, PATIENCE_S)
        for table in REPLICATED:
            columns = ", ".join(replica._copied.columns(table))
            sql = f"SELECT {columns} FROM {table}"
            if table == "audit":
                sql += f" WHERE id >= {first}"
            assert sorted(map(repr, database.read(sql))) == sorted(map(repr, replica.read(sql))), (
                table
            )
        assert replica.loads == 1
    finally:
        replica.close()


# -- one thing at a time -----------------------------------------------------------------------


def test_what_this_node_wrote_it_reads(database: PostgresDatabase, replica: Replica) -> None:
    for number in range(20):
        change = add_device(database, f"cam-{number}")
        assert replica.wait_for(change, PATIENCE_S)
        assert replica.read("SELECT count(*) FROM devices") == [(number + 1,)]
    assert write(database, "UPDATE devices SET grp = 'x' WHERE id = -1") == 0, "nothing to wait for"
    assert replica.lag_s < PATIENCE_S


def test_what_is_not_copied_is_not_read_as_empty(
    own_place: PostgresPlace, replica: Replica
) -> None:
    for table in ("messages", "epochs", "blobs", "readings", "restores"):
        with pytest.raises(NotCopied):
            replica.read(f"SELECT 1 FROM {table}")


def test_it_goes_on_behind_a_cut_and_says_that_it_listens_again(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    heard: list[str] = []
    replica = Replica(
        own_place,
        on_change=lambda: heard.append("change"),
        on_listening=lambda: heard.append("listening"),
    )
    replica.start()
    try:
        wait_until(lambda: "listening" in heard, "listening")
        heard.clear()
        cut(database, FEED)
        wait_until(lambda: heard.count("listening") == 1, "listening again")
        heard.clear()
        assert replica.wait_for(add_device(database, "cam"), PATIENCE_S)
        wait_until(lambda: heard == ["change"], "one change")
        assert replica.loads == 1
    finally:
        replica.close()


def test_reads_go_on_while_the_database_is_away(
    postgres: PostgresServer, own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    add_device(database, "cam-1")
    replica = Replica(own_place)
    replica.start()
    try:
        postgres.kill()
        assert replica.read("SELECT name FROM devices") == [("cam-1",)]
        wait_until(lambda: replica.lag_s > 1.5, "it knows that it is late")
        assert not replica.wait_for(replica.applied + 1, 0.01)
        postgres.start()
        assert replica.wait_for(add_device(database, "cam-2"), PATIENCE_S)
        assert replica.read("SELECT count(*) FROM devices") == [(2,)]
    finally:
        if postgres._process is None:
            postgres.start()
        replica.close()


def test_a_node_that_was_away_for_too_long_loads_everything(
    own_place: PostgresPlace, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes that it lacks are gone; of the audit log it still misses nothing."""
    replica = Replica(own_place)
    replica.start()
    try:
        audit = "INSERT INTO audit(at_ms, actor, action) VALUES(1, 'test', ?)"
        assert replica.wait_for(write(database, audit, ("one",)), PATIENCE_S)
        blocked = threading.Event()
        replica.on_change = lambda: blocked.wait(PATIENCE_S) and None
        replica.wait_for(write(database, audit, ("two",)), PATIENCE_S)
        for name in ("three", "four"):
            write(database, audit, (name,))
        add_device(database, "cam")
        write(database, "UPDATE changes SET at_ms = 0")
        with connect(own_place) as connection:
            nodes.prune(connection)
        assert database.read("SELECT count(*) FROM changes") == [(0,)]
        blocked.set()
        wait_until(lambda: replica.loads >= 2, "a load")
        assert replica.read("SELECT name FROM devices") == [("cam",)]
        rows = replica.read("SELECT action FROM audit WHERE id > 2 ORDER BY id")
        assert rows == [("three",), ("four",)]
        assert replica.wait_for(add_device(database, "cam-2"), PATIENCE_S)
    finally:
        replica.close()


def test_another_database_in_its_place_is_loaded_anew(
    own_place: PostgresPlace, database: PostgresDatabase, replica: Replica
) -> None:
    """As after the restore of a backup: the numbers of the changes are smaller."""
    for number in range(3):
        replica.wait_for(add_device(database, f"cam-{number}"), PATIENCE_S)
    write(database, "DELETE FROM devices WHERE name = 'cam-0'")
    write(database, "DELETE FROM changes")
    cut(database, FEED)
    # One more when it looked between the two deletions.
    wait_until(lambda: replica.loads >= 2, "a load")
    assert replica.read("SELECT count(*) FROM devices") == [(2,)]


def test_a_lease_that_moves_is_told(own_place: PostgresPlace, database: PostgresDatabase) -> None:
    told: list[tuple[int, int, str]] = []
    listening = threading.Event()
    replica = Replica(
        own_place, on_lease=lambda *lease: told.append(lease), on_listening=listening.set
    )
    replica.start()
    try:
        assert listening.wait(PATIENCE_S)
        take = (
            "INSERT INTO leases(device, fence, node, since_ms) VALUES(?, 1, ?, 0) ON CONFLICT"
            " (device) DO UPDATE SET fence = leases.fence + 1, node = excluded.node"
        )
        write(database, take, (7, "node a"))
        write(database, take, (7, "node a"))  # a new session at the same node
        write(database, take, (7, "node b"))
        wait_until(lambda: told, "a notice")
        write(database, "UPDATE leases SET node = ''")  # it left
        write(database, take, (7, "node a"))
        write(database, take, (8, "node b"))
        write(database, take, (7, "node b"))
        wait_until(lambda: len(told) == 2, "the second notice")
        assert told == [(7, 3, "node b"), (7, 5, "node b")]
    finally:
        replica.close()


def test_bulk_changes_come_in_pieces(database: PostgresDatabase, replica: Replica) -> None:
    change = write(
        database,
        "INSERT INTO devices(name, created_ms)"
        " SELECT 'cam-' || n, n FROM generate_series(1, 3000) n",
    )
    assert replica.wait_for(change, PATIENCE_S)
    assert replica.read("SELECT count(*), sum(created_ms) FROM devices") == [(3000, 4501500)]


def test_ended_commands_of_long_ago_are_not_kept(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    add_device(database, "cam")
    now = time.time_ns() // 1_000_000
    for number, ended in enumerate((1, None, now, 1), 1):
        write(
            database,
            "INSERT INTO commands(id, device, name, args, created_ms, expires_ms, ended_ms)"
            " VALUES(?, 1, 'x', '[]', 1, 1, ?)",
            (str(number), ended),
        )
    replica = Replica(own_place)
    replica.start()
    try:
        numbers = [row[0] for row in replica.read("SELECT number FROM commands ORDER BY number")]
        assert numbers == [2, 3, 4], "the newest says up to where whoever looks has seen"
    finally:
        replica.close()


def test_every_table_of_the_copy_is_fed() -> None:
    for table in REPLICATED:
        assert f"ON {table}\n" in schema_cluster.CLUSTER
