"""Copies between SQLite and PostgreSQL: everything is there once, whatever ended the program."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import ConfigError, StoreError, StoreUnavailable
from fleetnet_server.store import copying
from fleetnet_server.store.compaction import Compactor, Pace
from fleetnet_server.store.copy_steps import TABLES
from fleetnet_server.store.copying import copy_store
from fleetnet_server.store.outbox import open_outbox
from fleetnet_server.store.query import query
from fleetnet_server.store.registry import PROGRAM
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store_place import PostgresPlace, StorePlace
from server.store.copied_fleet import EPOCH, NOW, make_fleet

pytest.importorskip("psycopg", reason="psycopg is not installed")

from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.store import PostgresStore

if TYPE_CHECKING:
    from server.store.postgres_server import PostgresServer

READINGS_OF_ALL = 50_000
PATIENCE_S = 120
# Each small table has one page, and is done with another; then come streams, readings, messages.
_SMALL_PAGES = 2 * (len(TABLES) + 1)
OWNER = "fleetnet_owner"
_CHILD = Path(__file__).with_name("copying_child.py")

# What no copy brings over: SQLite's way to keep readings, PostgreSQL's nodes and its feed.
_OTHER_IN_SQLITE = {
    "chunks", "known", "held", "compacting", "messages", "bridges", "copying", "sqlite_sequence",
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "fleet.db"
    make_fleet(path, READINGS_OF_ALL)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "fleet.db"
    make_fleet(path, 2_000, seed=2)
    return path


def readings(place: StorePlace) -> list[tuple[object, ...]]:
    """Everything that `query` answers; PostgreSQL has a symbol in the place of NUL."""
    return [
        (one.device, one.channel.replace("\0", "\u2400"), one.unix_ms, type(one.value),
         repr(one.value), one.stream, one.epoch, one.seq)
        for one in query(place)
    ]  # fmt: skip


def killed(source: StorePlace, target: StorePlace, pages: int, where: str) -> bool:
    """Copy in a child that dies at a page; say whether it did not come so far."""
    password = next(one for one in (source, target) if isinstance(one, PostgresPlace)).password_file
    done = subprocess.run(
        [sys.executable, str(_CHILD), str(source), str(target), str(password), str(pages), where],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def interrupted(source: StorePlace, target: StorePlace, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    pages = _SMALL_PAGES
    for where in ("inside", "claiming", "behind")[:kills]:
        assert not killed(source, target, pages + rng.randrange(2, 7), where)
        pages = 0
    copied = copy_store(source, target)
    assert copied.resumed and copied.verified is not None
    assert copied.verified.readings > READINGS_OF_ALL * 4 // 5


def test_to_postgres_and_back_killed_on_the_way(
    fleet: Path, postgres: "PostgresServer", tmp_path: Path
) -> None:
    place = postgres.database(OWNER)
    interrupted(fleet, place, seed=7, kills=3)
    expected = readings(fleet)
    assert len(expected) > READINGS_OF_ALL * 4 // 5
    assert readings(place) == expected
    back = tmp_path / "back.db"
    interrupted(place, back, seed=8, kills=2)
    assert readings(back) == expected


def test_a_second_run_changes_nothing(small: Path, postgres: "PostgresServer") -> None:
    place = postgres.database(OWNER)
    assert copy_store(small, place).copied
    before = readings(place)
    again = copy_store(small, place)
    assert not again.copied and again.verified is None
    assert readings(place) == before
    with connect(place) as connection:
        rows = connection.execute("SELECT actor, detail FROM audit WHERE action = 'store-copied'")
        ((actor, detail),) = rows.fetchall()
    assert actor == PROGRAM and str(small) in detail and "password" not in detail


def test_every_table_is_copied_or_known_not_to_be(small: Path) -> None:
    connection = open_readable(small)
    found = {str(row[0]) for row in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table'")}  # fmt: skip
    columns = {
        table.name: {str(row[1]) for row in connection.execute(f"PRAGMA table_info({table.name})")}
        for table in TABLES
    }
    counts = {
        table.name: connection.execute(f"SELECT count(*) FROM {table.name}").get for table in TABLES
    }
    connection.close()
    assert found == {table.name for table in TABLES} | _OTHER_IN_SQLITE - {"copying"}
    # How wide the chunks of a series are is SQLite's own.
    columns["series"].discard("spans")
    assert columns == {table.name: set(table.columns) for table in TABLES}
    assert all(counts.values()), counts


def devices_go_on(store: "SqliteStore | PostgresStore") -> None:
    """What comes again is a duplicate; what is new, or was missing, is stored once."""

    def send(device: int, stream: int, seq: int) -> list[int]:
        epoch = store.read("SELECT id FROM epochs WHERE device = ?", (device,))[0][0]
        body = f'[{NOW},0,["temp"],[[0,0,4.5]]]'
        message = Message(device, epoch, stream, seq, READINGS, NOW, NOW, NOW, body)
        return list(store.commit([message]))

    for seq in (1, 4, 12, 13):
        assert send(1, 1, seq) == [], seq
    for seq in (1, 3, 5, 7, 11, 12, 14):  # 5 was given up by the device
        assert send(2, 3, seq) == [], seq
    for seq in (8, 10, 13, 15):  # a hub had all but the last still
        assert send(2, 3, seq) == [0], seq
        assert send(2, 3, seq) == [], seq
    newest = store.read("SELECT count(*) FROM audit")[0][0]
    device = store.add_device("cam-99")
    assert device.id == 9 and store.read("SELECT count(*) FROM audit")[0][0] == newest + 1


def test_devices_go_on_in_postgres(small: Path, postgres: "PostgresServer") -> None:
    place = postgres.database(OWNER)
    copy_store(small, place)
    served = postgres.place(place.database)
    with PostgresStore(served) as store:
        if hasattr(store, "watermarks"):
            assert store.watermarks(1, EPOCH)[1] >= 13
        holes = store.read(
            "SELECT DISTINCT e.device FROM holes AS h JOIN epochs AS e ON e.id = h.epoch"
        )
        assert holes == [(2,)], "only of a device with a hub something comes late"
        devices_go_on(store)
        # A boot that nobody had dated is dated now, readings that waited among them.
        before = len([one for one in query(served) if one.unix_ms is None])
        store.set_boot(5, 4, NOW)
        store.commit([])
        assert len([one for one in query(served) if one.unix_ms is None]) < before


def test_devices_go_on_in_a_file(small: Path, postgres: "PostgresServer", tmp_path: Path) -> None:
    place, path = postgres.database(OWNER), tmp_path / "back.db"
    copy_store(small, place)
    with connect(place) as connection:  # as one that a gap left, which was noted ahead
        connection.execute(
            "INSERT INTO holes SELECT s.epoch, s.stream, 5, 6 FROM streams AS s"
            " JOIN epochs AS e ON e.id = s.epoch WHERE e.device = 3 AND s.stream = 5"
        )
    copy_store(place, path)
    expected = readings(path)
    with SqliteStore(path) as store:
        assert store.watermarks(1, EPOCH)[1] >= 13
        # What is hidden is removed, and nothing that is seen changes.
        rows = store.read("SELECT count(*) FROM messages")[0][0]
        compactor = Compactor(store, Pace(delay_ms=0, wait_ms=0), lambda: NOW + (1 << 51))
        while compactor.step():
            pass
        compactor.close()
        assert store.read("SELECT count(*) FROM messages")[0][0] < rows
        assert readings(path) == expected
        devices_go_on(store)


def behind_the_bridge(store: "SqliteStore | PostgresStore") -> list[tuple[object, ...]]:
    outbox = open_outbox(store, "mqtt")
    try:
        place, _lost = outbox.start(1 << 50)
        rows: list[tuple[object, ...]] = []
        while True:
            before, (place, found) = place, outbox.read(place, 500)
            if place == before:
                break
            rows += [(one.device, one.kind, one.epoch, one.stream, one.seq, one.body)
                     for one in found]  # fmt: skip
        return rows
    finally:
        outbox.close()


def test_a_bridge_goes_on_where_it_was(
    small: Path, postgres: "PostgresServer", tmp_path: Path
) -> None:
    with SqliteStore(small) as store:
        expected = behind_the_bridge(store)
    place = postgres.database(OWNER)
    copy_store(small, place)
    with SqliteStore(small) as store:
        total = store.read("SELECT count(*) FROM messages")[0][0]
    assert 0 < len(expected) < total
    path = tmp_path / "back.db"
    copy_store(place, path)
    with PostgresStore(postgres.place(place.database)) as served:
        assert behind_the_bridge(served) == expected
    with SqliteStore(path) as store:
        assert behind_the_bridge(store) == expected


def test_half_a_copy_is_not_served(small: Path, postgres: "PostgresServer", tmp_path: Path) -> None:
    place, path = postgres.database(OWNER), tmp_path / "back.db"
    assert not killed(small, place, 5, "behind")
    with pytest.raises(StoreError, match="not complete: run `fleetnet store copy` again"):
        PostgresStore(postgres.place(place.database))
    copy_store(small, place)
    PostgresStore(postgres.place(place.database)).close()
    assert not killed(place, path, 5, "behind")
    with pytest.raises(StoreError, match="not complete: run `fleetnet store copy` again"):
        SqliteStore(path)
    copy_store(place, path)
    SqliteStore(path).close()


def test_a_source_that_changed_is_refused(
    small: Path, postgres: "PostgresServer", tmp_path: Path
) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(small.read_bytes())
    place = postgres.database(OWNER)
    assert not killed(path, place, 5, "inside")
    with SqliteStore(path) as store:
        store.add_device("cam-99")
    with pytest.raises(StoreError, match="changed since it was begun: copy into a new database"):
        copy_store(path, place)


def test_a_database_that_goes_away(
    small: Path, postgres: "PostgresServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.database(OWNER)
    shares: list[float] = []

    def advance(share: float, _note: str) -> None:
        shares.append(share)
        if len(shares) == 12:
            postgres.kill()

    monkeypatch.setattr(copying, "_PAGE_CHUNKS", 20)
    try:
        with pytest.raises(StoreUnavailable):
            copy_store(small, place, advance)
    finally:
        postgres.start()
    copied = copy_store(small, place)
    assert copied.resumed and copied.verified is not None
    assert readings(place) == readings(small)


def test_a_target_with_a_fleet_is_left_alone(
    small: Path, postgres: "PostgresServer", tmp_path: Path
) -> None:
    place, path = postgres.database(OWNER), tmp_path / "other.db"
    with SqliteStore(path) as store:
        store.add_device("cam-1")
    with connect(place) as connection:
        connection.execute("INSERT INTO devices(name, created_ms) VALUES('cam-1', 1)")
    with pytest.raises(StoreError, match="holds a fleet"):
        copy_store(small, place)
    with pytest.raises(StoreError, match="holds a fleet"):
        copy_store(place, path)


def test_a_database_that_is_served_is_left_alone(small: Path, postgres: "PostgresServer") -> None:
    place = postgres.database(OWNER)
    with connect(place) as connection:
        connection.execute(
            "INSERT INTO nodes VALUES('node-1', 'r', 0,"
            " (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT, '1', 0)"
        )
    with pytest.raises(StoreError, match="is served by node-1: stop it"):
        copy_store(small, place)


def test_a_difference_is_found(
    small: Path, postgres: "PostgresServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the copy itself does not notice: rows that something else changed meanwhile."""
    place = postgres.database(OWNER)
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        patched.setattr(copying, "verify", _interrupt)
        copy_store(small, place)
    # In the opposite order of the comparison: each is found before the ones above it.
    for change, text in (
        ("UPDATE readings SET number = number + 1 WHERE number BETWEEN 0 AND 0.5", "readings in"),
        ("DELETE FROM readings WHERE ctid = (SELECT min(ctid) FROM readings)", "readings in the"),
        ("UPDATE streams SET last = last + 1 WHERE epoch = 1", "of streams: other contents"),
        ("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)", "messages: .* rows"),
        ("UPDATE devices SET grp = 'other' WHERE id = 1", "devices: other contents"),
    ):
        with connect(place) as connection:
            assert connection.execute(change).rowcount >= 1, change
        with pytest.raises(StoreError, match=text):
            copy_store(small, place)


def _interrupt(*_sides: object) -> None:
    raise InterruptedError


def test_two_files_are_not_copied(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store backup"):
        copy_store(small, tmp_path / "other.db")
