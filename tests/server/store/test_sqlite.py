"""SqliteStore: registry, epochs, duplicate suppression, watermarks, dating."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from fleetnet.frame import EVENT, RAW, READINGS
from fleetnet.raw import encode_raw
from fleetnet.readings import encode_event
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.errors import IdentityError, StoreError, StoreUnavailable
from fleetnet_server.store import schema
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
EPOCH = b"epoch-01"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "fleet.db") as opened:
        opened.add_device("cam-1")
        yield opened


def make(
    store: SqliteStore, seq: int, body: bytes, kind: int = READINGS, stream: int = 3
) -> Message:
    found = inspect_body(kind, body, lambda boot: store.boot_offset(1, boot), NOW)
    epoch = store.epoch_id(1, EPOCH)
    return Message(1, epoch, stream, seq, kind, found.t0, found.t1, NOW, found.body, found.problem)


def reading(store: SqliteStore, seq: int, stream: int = 3) -> Message:
    return make(store, seq, b'[%d,0,["t"],[[0,0,%d]]]' % (NOW + seq, seq), stream=stream)


def rows(store: SqliteStore, sql: str) -> list[tuple[object, ...]]:
    """Ask the file. The standard library's sqlite3 would break apsw's locks in one process."""
    connection = open_readable(store.path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def rows_for_anybody(store: SqliteStore, sql: str) -> list[list[object]]:
    """Ask the file from another process, through the standard library's SQLite."""
    program = (
        "import json, sqlite3, sys; "
        "print(json.dumps(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(store.path), sql],
        capture_output=True,
        check=True,
        timeout=60,
    )
    found: list[list[object]] = json.loads(answer.stdout)
    return found


def test_a_store_that_this_user_may_not_open_names_file_and_remedy(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise apsw.ReadOnlyError("attempt to write a readonly database")

    monkeypatch.setattr(schema, "_check", refuse)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_readable(store.path)
    with pytest.raises(StoreUnavailable, match="run this as the user"):
        SqliteStore(store.path)


def test_registry(store: SqliteStore) -> None:
    assert store.lookup("nobody") is None
    device = store.lookup("cam-1")
    assert device is not None and device.is_enabled and device.id == 1
    store.set_enabled("cam-1", False)
    assert [(one.name, one.state) for one in store.devices()] == [("cam-1", "disabled")]
    with pytest.raises(StoreError, match="already registered"):
        store.add_device("cam-1")
    with pytest.raises(IdentityError):
        store.add_device("Cam 1")
    with pytest.raises(StoreError, match="not registered"):
        store.set_enabled("nobody", True)
    serial = (1 << 158) + 5
    store.add_certificate(1, serial, NOW)
    store.revoke_certificate(serial)
    revoked = store.lookup("cam-1")
    assert revoked is not None and revoked.revoked == {serial}
    with pytest.raises(StoreError, match="was not issued here"):
        store.revoke_certificate(6)


def test_epochs_are_small_numbers_that_stay(store: SqliteStore, tmp_path: Path) -> None:
    first = store.epoch_id(1, EPOCH)
    assert store.epoch_id(1, EPOCH) == first
    second = store.epoch_id(1, b"epoch-02")
    assert second != first
    store.commit([reading(store, 1)])
    assert store.epoch_id(1, EPOCH) == first
    store.close()
    with SqliteStore(tmp_path / "fleet.db") as again:
        assert again.epoch_id(1, EPOCH) == first
        assert again.epoch_id(1, b"epoch-03") not in (first, second)


def test_commit_tells_new_from_known(store: SqliteStore) -> None:
    assert list(store.commit([reading(store, seq) for seq in (1, 2, 3)])) == [0, 1, 2]
    mixed = [reading(store, seq) for seq in (3, 4, 2, 5, 4)]
    assert list(store.commit(mixed)) == [1, 3]
    assert list(store.commit(mixed)) == []
    assert rows(store, "SELECT seq FROM messages ORDER BY id") == [(n,) for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 577, 1200])
def test_batches_of_every_size_are_whole(store: SqliteStore, count: int) -> None:
    batch = [reading(store, seq) for seq in range(1, count + 1)]
    assert list(store.commit(batch)) == list(range(count))
    assert rows(store, "SELECT count(*), coalesce(max(seq), 0) FROM messages") == [(count, count)]


def test_a_failing_commit_stores_nothing(store: SqliteStore) -> None:
    good = reading(store, 1)
    with pytest.raises(OverflowError):
        store.commit([good, reading(store, 2)._replace(seq=1 << 70)])
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]
    assert list(store.commit([good])) == [0]


def test_watermarks_are_durable_and_count_gaps(store: SqliteStore) -> None:
    assert store.watermarks(1, EPOCH) == {}
    epoch = store.epoch_id(1, EPOCH)
    store.commit([reading(store, 1), reading(store, 9), reading(store, 4, stream=2)])
    assert store.watermarks(1, EPOCH) == {2: 4, 3: 9}
    store.note_gap(1, epoch, 3, 10, 12)
    store.note_gap(1, epoch, 5, 1, 2)
    assert store.has_deferred
    store.commit([])
    assert store.watermarks(1, EPOCH) == {2: 4, 3: 12, 5: 2}
    assert store.watermarks(1, b"epoch-02") == {}


def test_bodies_are_kept_as_received(store: SqliteStore) -> None:
    text = b'[1700000000000, 0, ["t"], [[0, 0, 1.50]]]'
    raw = encode_raw("cam", b"\x00\xff\x00", NOW)
    bad = b'[1,0,["t"],[[5,0,"\xff"]]]'
    store.commit([make(store, 1, text), make(store, 2, raw, RAW), make(store, 3, bad)])
    kept = rows(store, "SELECT body, problem IS NULL FROM messages ORDER BY seq")
    assert kept == [(text.decode(), 1), (raw, 1), (bad, 0)]


def test_the_view_shows_readings(store: SqliteStore) -> None:
    store.set_boot(1, 7, 1_000)
    store.commit([])
    store.commit(
        [
            make(store, 1, b'[5000,0,["t","h"],[[0,0,1.5],[1,10,"x"]]]'),
            make(store, 2, b'[100,7,["t"],[[0,30,null],[0,20,3]]]'),
            make(store, 3, b"no JSON"),
            make(store, 4, encode_event("door", True, NOW), EVENT, stream=2),
        ]
    )
    # The offset is refined: what was dated keeps its date.
    store.set_boot(1, 7, 999_000)
    store.commit([])
    sql = "SELECT device, channel, unix_ms, value, seq, stream, epoch FROM readings"
    epoch = EPOCH.hex()
    assert rows_for_anybody(store, sql) == [
        ["cam-1", "t", 5_000, 1.5, 1, 3, epoch],
        ["cam-1", "h", 5_010, "x", 1, 3, epoch],
        ["cam-1", "t", 1_130, None, 2, 3, epoch],
        ["cam-1", "t", 1_120, 3, 2, 3, epoch],
    ]


def test_set_boot_dates_what_waits(store: SqliteStore) -> None:
    waiting = make(store, 1, b'[100,7,["t"],[[0,30,1],[0,20,2]]]')
    picture = make(store, 2, encode_raw("cam", b"x", 50, boot=7), RAW)
    other = make(store, 3, b'[100,8,["t"],[[0,30,1]]]')
    assert waiting.t0 is None
    store.commit([waiting, picture])
    store.set_boot(1, 7, 1_000)
    assert store.boot_offset(1, 7) == 1_000
    assert store.boot_offset(1, 8) is None
    store.commit([other])
    dated = "SELECT t0, t1 FROM messages ORDER BY seq"
    assert rows(store, dated) == [(1_120, 1_130), (1_050, 1_050), (None, None)]
    # Inspected before the offset was known, committed after it.
    late = waiting._replace(seq=4)
    store.commit([late])
    assert rows(store, dated)[3] == (1_120, 1_130)


def test_deferred_writes_survive_close(store: SqliteStore, tmp_path: Path) -> None:
    store.set_boot(1, 7, 1_000)
    store.close()
    with SqliteStore(tmp_path / "fleet.db") as again:
        assert again.boot_offset(1, 7) == 1_000


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    database = sqlite3.connect(foreign)
    database.execute("CREATE TABLE t(a)")
    database.close()
    with pytest.raises(StoreError, match="another program"):
        SqliteStore(foreign)
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="no SQLite file"):
        SqliteStore(text)
    newer = tmp_path / "newer.db"
    SqliteStore(newer).close()
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StoreError, match="install the newer fleetnet"):
        SqliteStore(newer)


def test_commits_are_fully_synchronous(store: SqliteStore) -> None:
    writable = store._writable
    assert writable is not None
    assert writable.pragma("synchronous") == 2
    assert writable.pragma("journal_mode") == "wal"


def test_what_waits_for_a_boot_that_never_comes_is_not_read_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with 20,000 of them made every commit of the fleet 170 ms longer."""
    looked = []

    def inspect(*values: object) -> object:
        looked.append(values)
        return inspect_body(*values)  # type: ignore[arg-type]

    store.set_boot(1, 7, 1_000)
    store.commit([])
    waiting = [make(store, seq, b'[5,99,["t"],[[0,0,1]]]') for seq in range(1, 301)]
    store.commit(waiting)
    monkeypatch.setattr("fleetnet_server.store.batch.inspect_body", inspect)
    store.commit([make(store, 301, b'[5,99,["t"],[[0,0,1]]]')])
    store.commit(waiting[:50])
    assert len(looked) == 1
    store.set_boot(1, 7, 2_000)  # refined
    store.set_boot(1, 8, 2_000)  # another one
    store.commit([reading(store, 302)])
    assert len(looked) == 1
    store.set_boot(1, 99, 4_000)
    store.commit([])
    assert len(looked) == 302
    assert rows(store, "SELECT DISTINCT t0 FROM messages WHERE seq < 302") == [(4_005,)]


def test_a_message_whose_boot_was_dated_on_its_way_gets_its_date(store: SqliteStore) -> None:
    late = make(store, 2, b'[5,7,["t"],[[0,0,1]]]')
    raw = make(store, 3, encode_raw("t", b"\xff", 5, 7), RAW)
    assert late.t0 is raw.t0 is None
    store.set_boot(1, 7, 1_000)
    store.commit([reading(store, 1)])
    store.commit([reading(store, 1), late, raw])
    assert rows(store, "SELECT t0 FROM messages WHERE seq > 1") == [(1_005,), (1_005,)]


def test_nothing_is_stored_where_nobody_finds_it_again(store: SqliteStore, tmp_path: Path) -> None:
    """A file that was removed can still be written, until its last user closes it."""
    store.commit([reading(store, 1)])
    away = tmp_path / "away.db"
    store.path.rename(away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"was removed or replaced .*: put it back"):
            store.commit([reading(store, 2)])
    assert not store.path.exists(), "an empty store would hide that the old one is lost"
    store.path.touch()
    with pytest.raises(StoreUnavailable, match=r"was removed or replaced"):
        store.commit([reading(store, 2)])
    away.rename(store.path)
    store.commit([reading(store, 2)])
    assert rows(store, "SELECT seq FROM messages ORDER BY seq") == [(1,), (2,)]
