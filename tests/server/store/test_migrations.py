"""A store of an older layout is opened and brought to this one, whole or not at all."""

import sqlite3
from pathlib import Path

import apsw
import pytest

from fleetnet_server.errors import StoreError
from fleetnet_server.store import migrations, schema
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.query import query
from fleetnet_server.store.sqlite import SqliteStore

VERSION_1 = Path(__file__).with_name("version_1.sql").read_text(encoding="utf-8")
BODY = '[1700000000000,0,["t"],[[0,0,21.5]]]'


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 1 with a device, a reading, and an undated one."""
    path = tmp_path / "fleet.db"
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.execute("INSERT INTO devices VALUES(7, 'cam-1', 'enabled', 1)")
    database.execute("INSERT INTO epochs VALUES(3, 7, ?)", (b"epoch-01",))
    row = "INSERT INTO messages VALUES(?, 7, 3, 3, ?, 16, ?, ?, 5, NULL, ?)"
    database.execute(row, (1, 1, 1_700_000_000_000, 1_700_000_000_000, BODY))
    database.execute(row, (2, 2, None, None, '[5,9,["t"],[[0,0,1]]]'))
    database.commit()
    database.close()
    return path


def layout(path: Path) -> list[tuple[object, ...]]:
    connection = schema.open_readable(path)
    try:
        found = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        return [*found, (connection.pragma("user_version"),)]
    finally:
        connection.close()


def test_an_old_store_is_upgraded_with_what_is_in_it(old: Path, tmp_path: Path) -> None:
    with SqliteStore(old) as store:
        device = store.lookup("cam-1")
        assert device is not None
        assert store.watermarks(7, b"epoch-01") == {3: 2}
        table = CommandTable(store)
        command_id = table.add(7, "blink", [1], 2_000_000_000_000)
        assert [command.id for command in table.unsent(7, 0, 9)] == [command_id]
        assert table.set_config(7, {"rate": 5}) == 1
    assert [reading.value for reading in query(old)] == [21.5, 1]
    SqliteStore(tmp_path / "new.db").close()
    assert layout(old) == layout(tmp_path / "new.db")


def test_an_old_store_can_be_read_without_being_upgraded(old: Path) -> None:
    assert [reading.value for reading in query(old)] == [21.5, 1]
    assert layout(old)[-1] == (1,)


def test_a_step_that_fails_leaves_the_old_store(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = layout(old)
    broken = (*migrations.STEPS, (99, "CREATE TABLE extra(a); CREATE TABLE devices(a)"))
    monkeypatch.setattr(schema, "STEPS", broken)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 99)
    with pytest.raises(apsw.SQLError, match="devices"):
        SqliteStore(old)
    assert layout(old) == before


def test_steps_are_numbered_without_holes() -> None:
    numbers = [number for number, _ in migrations.STEPS]
    assert numbers == list(range(2, 2 + len(numbers)))
    assert schema.SCHEMA_VERSION == numbers[-1]


def test_a_newer_store_is_refused(old: Path) -> None:
    database = sqlite3.connect(old)
    database.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StoreError, match="install the newer fleetnet"):
        SqliteStore(old)
