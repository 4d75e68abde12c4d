"""`fleetnet store`, `query --every`, and what `check` says of retention.toml."""

import fcntl
import json
from pathlib import Path

import pytest

from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.store.blobs import _insert, content_path
from fleetnet_server.store.chunks import MAX_READINGS
from fleetnet_server.store.compaction import Compactor
from fleetnet_server.store.inventory import take_inventory
from fleetnet_server.store.retention import Retention
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.window import Pace
from server.cli.conftest import Fleets
from server.cli.running import NOW, fleetnet, on_a_terminal, put

HOUR = 3_600_000


@pytest.fixture
def folder(fleets: Fleets, tmp_path: Path) -> Path:
    """A fleet with two hours of a channel, most of them in chunks."""
    folder = fleets(tmp_path / "fleet", device="cam-1")
    put(folder, "cam-1", *[("temp", second * 1000, second % 10) for second in range(7200)])
    with SqliteStore(folder / "fleet.db") as store:
        compactor = Compactor(store, Pace(delay_ms=0, wait_ms=0), lambda: NOW + 1)
        while compactor.step():
            pass
        compactor.close()
    return folder


def test_query_by_the_hour(folder: Path) -> None:
    done = fleetnet("-C", folder, "query", "--channel", "temp", "--every", "1h")
    assert done.stdout.splitlines() == [
        "2027-01-15T08:00:00.000Z\tcam-1\ttemp\t3600\t0\t4.5\t9",
        "2027-01-15T09:00:00.000Z\tcam-1\ttemp\t3600\t0\t4.5\t9",
    ]
    done = fleetnet("-C", folder, "query", "--every", "30m", "--limit", "3", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["unix_ms"] - NOW for row in rows] == [0, HOUR // 2, HOUR]
    assert rows[0] == {
        "unix_ms": NOW, "device": "cam-1", "channel": "temp", "count": 1800, "low": 0.0,
        "high": 9.0, "mean": 4.5,
    }  # fmt: skip
    shown = on_a_terminal("-C", folder, "query", "--every", "1h")
    assert "LOWEST" in shown and "MEAN" in shown


def test_what_was_summed_up_is_drawn_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "retention.toml").write_text('[[rule]]\nraw = "1m"\nminutes = "365d"\n')
    put(folder, "cam-1", ("note", 0, "text"))
    with SqliteStore(folder / "fleet.db") as store:
        compactor = Compactor(store, Pace(delay_ms=0, wait_ms=0), lambda: NOW + 1)
        while compactor.step():
            pass
        compactor.close()
        retention = Retention(store, folder, lambda: NOW + 24 * HOUR)
        while retention.step():
            pass
        retention.close()
    document = json.loads(fleetnet("-C", folder, "plot", "cam-1", "temp", "--json").stdout)
    assert (document["readings"], len(document["points"])) == (7200, 120)
    assert "7200 readings" in fleetnet("-C", folder, "plot", "cam-1", "temp").stdout
    for words in (("query",), ("query", "--json"), ("export", tmp_path / "a.csv")):
        assert "--every" in fleetnet("-C", folder, *words, "--channel", "temp").stderr, words
    done = fleetnet("-C", folder, "query", "--since", NOW + HOUR * 2)
    assert done.stderr == ""


def test_text_has_no_steps_and_it_is_said(folder: Path) -> None:
    put(folder, "cam-1", ("note", 0, "text"))
    done = fleetnet("-C", folder, "query", "--channel", "note", "--every", "1m")
    assert done.stdout == "" and "No numbers" in done.stderr
    done = fleetnet("-C", folder, "query", "--channel", "absent", "--every", "1m")
    assert (done.stdout, done.stderr) == ("", "")


def test_show_counts_what_is_there_and_what_would_end(folder: Path) -> None:
    shown = json.loads(fleetnet("-C", folder, "store", "show", "--json").stdout)
    assert (shown["chunk_readings"] + 100 * shown["messages"], shown["series"]) == (7200, 1)
    assert shown["ending_readings"] == 0
    (folder / "retention.toml").write_text('[[rule]]\nraw = "1h"\n')
    found = take_inventory(
        folder, folder / "fleet.db", NOW + 2 * HOUR, lambda share, note: None
    )
    # Chunks are ended whole, when their last reading is too old.
    assert found.ending_readings == 3600 // MAX_READINGS * MAX_READINGS
    assert "retention ends" in on_a_terminal("-C", folder, "store", "show")
    (folder / "retention.toml").write_text("[[rules]]\n")
    assert "unknown key 'rules'" in fleetnet("-C", folder, "store", "show").stdout


def test_check_looks_at_retention(folder: Path) -> None:
    (folder / "retention.toml").write_text('[[rule]]\nraw = "30d"\n')
    assert "1 rule for readings" in fleetnet("-C", folder, "check").stdout
    (folder / "retention.toml").write_text('[[rule]]\nraw = "30"\n')
    done = fleetnet("-C", folder, "check", code=1)
    assert "retention.toml: rule 1: raw = '30' is no age" in done.stdout


def test_backup_and_restore(folder: Path, tmp_path: Path) -> None:
    backup, new = tmp_path / "b.tar", tmp_path / "new"
    done = fleetnet("-C", folder, "store", "backup", backup, "--json")
    made = json.loads(done.stdout)
    assert (made["file"], made["with_keys"], made["lost_blobs"]) == (str(backup), False, 0)
    done = fleetnet("-C", new, "store", "restore", backup, "--json")
    assert json.loads(done.stdout)["made_ms"] == made["made_ms"]
    assert "Revoke, remove and disable again" in done.stderr
    assert "No keys were in it" in done.stderr and "secret.key if there was one" in done.stderr
    said = fleetnet("-C", folder, "store", "backup", tmp_path / "c.tar").stdout
    assert "keep ca/ and server/ too" in said
    assert "the same content once" in fleetnet("-C", folder, "store", "show").stdout
    query = ("query", "--json")
    assert fleetnet("-C", new, *query).stdout == fleetnet("-C", folder, *query).stdout
    shown = json.loads(fleetnet("-C", new, "store", "show", "--json").stdout)
    assert shown["backup_ms"] == made["made_ms"]
    assert "store-restored" in fleetnet("-C", new, "audit").stdout
    # Without keys it is no fleet that could start; with those of the old one it is.
    fleetnet("-C", new, "check", code=1)
    fleetnet("-C", new, "store", "restore", backup, code=1)


def test_a_fleet_with_its_keys_comes_back_whole(folder: Path, tmp_path: Path) -> None:
    backup = tmp_path / "b.tar"
    shown = on_a_terminal("-C", folder, "store", "backup", backup, "--with-keys")
    assert "with the keys" in shown
    done = fleetnet("-C", tmp_path / "new", "store", "restore", backup)
    assert "No keys" not in done.stderr
    fleetnet("-C", tmp_path / "new", "check")


def test_a_running_server_is_not_restored_over(folder: Path, tmp_path: Path) -> None:
    fleetnet("-C", folder, "store", "backup", tmp_path / "b.tar")
    with (folder / "serve.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = fleetnet("-C", folder, "store", "restore", tmp_path / "b.tar", code=1)
    assert "a server runs on" in done.stderr


def test_blobs_are_listed_newest_last_and_never_copied_over_a_file(
    folder: Path, tmp_path: Path
) -> None:
    rows = [BlobRow(1, n, "frame", 22, 4, bytes([n]) * 32, NOW + n, NOW + n) for n in range(1, 103)]
    with SqliteStore(folder / "fleet.db") as store:
        store.transact(lambda db: _insert(db, rows))
    path = folder / "blobs" / content_path(bytes([1]) * 32)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"jpeg")
    shown = fleetnet("-C", folder, "blob", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in shown] == [str(n) for n in range(3, 103)]
    target = tmp_path / "f.jpg"
    target.write_bytes(b"mine")
    refused = fleetnet("-C", folder, "blob", "get", "1", target, code=1).stderr
    assert "--overwrite" in refused and target.read_bytes() == b"mine"
    fleetnet("-C", folder, "blob", "get", "1", target, "--overwrite")
    assert target.read_bytes() == b"jpeg"
