"""Programs at the database that stand still, die or say what is not so: nobody else stops."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

import psycopg

import fleetnet_server.node as node_module
from fleetnet.frame import RESULT
from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet_server.config import Settings
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.ports import SessionAbout
from fleetnet_server.core.shared_presence import SharedPresence
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.leadership import Leadership, lock_key
from fleetnet_server.store.postgres.locks import TAKE_FEED
from fleetnet_server.store.postgres.replica import Replica
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import (
    PATIENCE_S,
    READER,
    PostgresServer,
    wait_until,
)
from server.store.postgres_world import NOW, Node, opened, rows


@pytest.fixture
def reader(postgres: PostgresServer, own_place: PostgresPlace) -> Iterator[Any]:
    """A connection of who may only read."""
    with connect(postgres.place(own_place.database, READER), writes=False) as connection:
        yield connection


async def happens(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


# -- a machine without power ---------------------------------------------------------------


def test_the_server_asks_whether_its_client_is_there(own_place: PostgresPlace) -> None:
    """Else the locks of a machine without power stay for two hours (tests run without TCP)."""
    asked = "SELECT name, reset_val FROM pg_settings WHERE name LIKE 'tcp_%%'"
    assert dict(rows(own_place, asked)) == {
        "tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3", "tcp_user_timeout": "15000",
    }  # fmt: skip


# -- notifications -------------------------------------------------------------------------


def test_a_senseless_notification_does_not_stop_the_replica(
    own_place: PostgresPlace, reader: Any
) -> None:
    listening = threading.Event()
    with (
        Following(own_place, on_listening=listening.set) as replica,
        PostgresStore(own_place) as store,
    ):
        assert listening.wait(PATIENCE_S)
        for text in ("", "boom", "1 two three", "1 2"):
            reader.execute("SELECT pg_notify('fleetnet_leases', %s)", (text,))
        store.add_device("late")
        wait_until(lambda: replica.read("SELECT 1 FROM devices"), "the device")
        assert replica.loads == 1


def test_the_replica_survives_whatever_its_listener_does(own_place: PostgresPlace) -> None:
    failing = [ZeroDivisionError("once")]

    def on_change() -> None:
        if threading.current_thread().name == "fleetnet-replica" and failing:
            raise failing.pop()

    with Following(own_place, on_change=on_change) as replica, PostgresStore(own_place) as store:
        store.add_device("cam-1")
        wait_until(lambda: replica.loads >= 2, "all is loaded anew")
        store.add_device("cam-2")
        wait_until(lambda: len(replica.read("SELECT 1 FROM devices")) == 2, "both")


class Following(Replica):
    """A Replica as a context manager."""

    def __init__(self, place: PostgresPlace, **hears: Callable[..., None]):
        super().__init__(place, **hears)

    def __enter__(self) -> "Following":
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


async def test_a_forged_lease_sends_no_device_away(own_place: PostgresPlace, reader: Any) -> None:
    lost: list[int] = []
    with PostgresStore(own_place, node="one", replica=True) as one:
        one.on_lost = lost.append
        await asyncio.to_thread(one.add_device, "cam-1")
        await one.begin(1, b"epoch-01", SessionAbout("tls", "192.0.2.1"))
        for fence in (2, 1 << 80):
            reader.execute("SELECT pg_notify('fleetnet_leases', %s)", (f"1 {fence} thief",))
        seen = await asyncio.to_thread(one.add_device, "cam-2")
        assert one.lookup(seen.name)
        two = await asyncio.to_thread(Node, own_place, "two")
        await asyncio.to_thread(two.begin)
        await happens(lambda: lost)
        await asyncio.to_thread(two.close)
    assert lost == [1]


# -- one server ----------------------------------------------------------------------------


@pytest.fixture
def store(own_place: PostgresPlace) -> Iterator[PostgresStore]:
    with PostgresStore(own_place, node="one", replica=True) as made:
        yield made


def make_node(store: PostgresStore) -> node_module.Node:
    return node_module.Node(
        store, Settings.model_validate({}), SharedPresence("one"), lambda: 0, lambda: 0.0
    )


async def test_a_node_with_an_old_registry_is_away(store: PostgresStore) -> None:
    """Its heartbeat is well; but a device that was revoked would stay."""
    node = make_node(store)
    replica = store.replica
    assert replica is not None and replica._thread is not None
    assert node.away_s() < 30
    replica._end.set()
    await asyncio.to_thread(replica._thread.join)
    replica._current_at -= 60
    node._heart._beaten_at = time.monotonic()
    assert node.away_s() > 30
    await node.stop()


async def test_a_bridge_that_fails_anyhow_is_another_nodes(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_BRIDGE_LOOK_S", 0.05)
    monkeypatch.setattr(node_module, "_RESIGNED_S", 2 * PATIENCE_S)
    node, other = make_node(store), Leadership(store.place, node_module.BRIDGE)
    backend: Any = SimpleNamespace(bridge=None)
    made: list[Any] = [SimpleNamespace(is_connected=True), ZeroDivisionError("a bug")]

    async def make() -> Any:
        found = made.pop()
        if isinstance(found, Exception):
            raise found
        return found

    node.lead_bridge(backend, make)
    await happens(lambda: len(made) == 1)
    other.start()
    await happens(lambda: other.is_leader)
    await asyncio.to_thread(other.close)
    node._works[node_module.BRIDGE]._resigned_until = 0.0
    await happens(lambda: backend.bridge is not None)
    backend.bridge = None
    await node.stop()


# -- who stands still ----------------------------------------------------------------------


def test_a_reader_cannot_take_what_servers_wait_for(own_place: PostgresPlace, reader: Any) -> None:
    bridge = lock_key("lead bridge")
    for sql in (
        f"SELECT pg_advisory_lock({bridge[0]}, {bridge[1]})",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        f"BEGIN; {TAKE_FEED}",
        "BEGIN; LOCK TABLE feed_lock IN ACCESS SHARE MODE",
        "SELECT fleetnet_try_feed(1::bigint)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(sql)
        reader.rollback()
    found = [reader.execute(f"SHOW {name}").fetchone()[0] for name in (
        "statement_timeout", "idle_in_transaction_session_timeout",
    )]  # fmt: skip
    assert found == ["1min", "1min"]


def test_who_stands_still_with_the_feed_holds_up_no_readings(own_place: PostgresPlace) -> None:
    node = Node(own_place)
    with opened(node), connect(own_place) as stuck:
        node.store.add_device("cam-1")
        node.begin()
        row = (NOW, "test", "looked", None, "{}")
        kept = "SELECT count(*) FROM audit WHERE action = 'looked'"
        stuck.execute("BEGIN")
        stuck.execute(TAKE_FEED)
        node.store.defer_audit(row)
        assert node.commit([node.reading(1), node.reading(2)]) == [0, 1]
        node.store.defer_audit(row)
        node.commit([])
        assert node.store.has_deferred
        assert rows(own_place, kept) == [(0,)]
        result = node.make(3, b'["an id", "ok", 1]', kind=RESULT)
        with pytest.raises(StoreUnavailable, match="lock"):
            node.store.commit([result])
        stuck.execute("ROLLBACK")
        assert node.commit([result, node.reading(4)]) == [0, 1]
        assert not node.store.has_deferred
        assert rows(own_place, kept) == [(2,)]


def test_the_last_rows_of_the_audit_log_wait_for_who_stands_still(own_place: PostgresPlace) -> None:
    node = Node(own_place)
    with connect(own_place) as stuck:
        stuck.execute("BEGIN")
        stuck.execute(TAKE_FEED)
        node.store.defer_audit((NOW, "test", "looked", None, "{}"))
        node.commit([])
        closing = threading.Thread(target=node.close)
        closing.start()
        wait_until(lambda: rows(own_place, _WAITS_FOR_FEED) == [(1,)], "it waits")
        stuck.execute("ROLLBACK")
        closing.join(PATIENCE_S)
    assert rows(own_place, "SELECT action FROM audit") == [("looked",)]


_WAITS_FOR_FEED = (
    "SELECT count(*) FROM pg_locks WHERE relation = 'feed_lock'::regclass AND NOT granted"
)


def test_a_program_that_stands_still_in_a_transaction_is_ended(own_place: PostgresPlace) -> None:
    with PostgresDatabase(own_place) as database:
        asked = "SELECT current_setting('idle_in_transaction_session_timeout')"
        assert database.transact(lambda c: c.execute(asked).fetchall()) == [("5s",)]

        def stands_still(connection: Any) -> None:
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            wait_until(lambda: not rows(own_place, _IS_IN_TRANSACTION), "its end")
            connection.execute("SELECT 1")

        with pytest.raises(StoreUnavailable, match="stood still"):
            database.transact(stands_still)
        assert database.read("SELECT 1") == [(1,)]


_IS_IN_TRANSACTION = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND state = 'idle in transaction'"
)


# -- the replica is late -------------------------------------------------------------------


async def test_an_answer_is_told_though_the_replica_is_late(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    async def is_elsewhere(_device: int) -> bool:
        return False

    peer: Any = SimpleNamespace(
        device_id=1, name="cam-1", rules=None, capabilities=CAN_COMMAND, send=lambda *_: True
    )
    node = await asyncio.to_thread(Node, store.place, "two")
    await asyncio.to_thread(store.add_device, "cam-1")
    await asyncio.to_thread(node.begin)
    commands = Commands(CommandTable(store))
    commands.elsewhere = is_elsewhere
    commands.tell = lambda *event: told.append(event)
    commands.opened(peer, Hello())
    command_id = await commands.queue("cam-1", "blink")
    replica = store.replica
    assert replica is not None
    is_late, may_go_on, catch_up = threading.Event(), threading.Event(), replica._catch_up

    def late(connection: Any) -> None:
        is_late.set()
        may_go_on.wait(PATIENCE_S)
        catch_up(connection)

    monkeypatch.setattr(replica, "_catch_up", late)
    await happens(is_late.is_set)
    answer = node.make(1, b'["%s", "ok", 1]' % command_id.encode(), kind=RESULT)
    await asyncio.to_thread(node.commit, [answer])
    commands.durable(peer, answer)
    commands.look()
    assert not told
    may_go_on.set()

    def look() -> list[Any]:
        commands.look()
        return told

    await happens(look)
    look()
    assert [event[0] for event in told] == ["command-ended"]
    assert commands.ended == Counter(ok=1)
    assert not commands._unseen
    await commands.stop()
    await asyncio.to_thread(node.close)
