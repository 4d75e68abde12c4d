"""Backups: one moment of a store that is written to, put back whole or not at all."""

import io
import json
import os
import signal
import tarfile
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import FolderError, StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.backup import MANIFEST, make_backup
from fleetnet_server.store.blobs import _insert, content_path, list_blobs
from fleetnet_server.store.claims import ClaimTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.query import query
from fleetnet_server.store.restore import restore_backup
from fleetnet_server.store.sqlite import SqliteStore
from server.store.plain_store import NOW

BODY = '[1800000000000,0,["t"],[[0,0,1]]]'


def add_blob(folder: Path, store: SqliteStore, device: int, number: int, data: bytes) -> Path:
    """Keep a blob as the server does; return where its content is."""
    digest = sha256(data).digest()
    path = folder / "blobs" / content_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    row = BlobRow(device, number, "frame", 22, len(data), digest, NOW, NOW + number)
    store.transact(lambda connection: _insert(connection, [row]))
    return path


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A folder with a device, some messages, a blob, settings and something like a key."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    (folder / "fleetnet.toml").write_text('host = "fleet.example"\n')
    (folder / "ca").mkdir()
    (folder / "ca" / "key.der").write_bytes(b"secret")
    with SqliteStore(folder / "fleet.db") as store:
        device = store.add_device("cam-1").id
        commit(store, device, 1, 50)
        add_blob(folder, store, device, 1, b"x" * 1000)
        CommandTable(store).set_config(device, {"rate": 1})
        CommandTable(store).add(device, "open", {}, NOW * 2)
        ClaimTable(store).open(device, "token", NOW * 2, "test")
    return folder


def commit(store: SqliteStore, device: int, first: int, last: int) -> None:
    epoch = store.epoch_id(device, b"epoch-01")
    store.commit(
        [Message(device, epoch, 3, seq, 16, NOW, NOW, NOW, BODY) for seq in range(first, last + 1)]
    )


def seqs(folder: Path) -> list[int]:
    return [one.seq for one in query(folder / "fleet.db")]


def test_all_of_it_comes_back(fleet: Path, tmp_path: Path) -> None:
    made = make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    assert (made.blobs, made.files, made.lost_blobs) == (1, 3, 0)
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    found = restore_backup(tmp_path / "b.tar", tmp_path / "new", "test")
    assert (found.made_ms, found.files, found.has_keys) == (made.made_ms, 3, False)
    new = tmp_path / "new"
    assert seqs(new) == seqs(fleet) == list(range(1, 51))
    assert (new / "fleetnet.toml").read_bytes() == (fleet / "fleetnet.toml").read_bytes()
    (blob,) = list_blobs(new / "fleet.db")
    assert (new / "blobs" / blob.path).read_bytes() == b"x" * 1000
    assert not (new / "ca").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "fleet", "new"]
    for path in [new, *new.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_bridge_is_in_it_without_its_password(fleet: Path, tmp_path: Path) -> None:
    (fleet / "mqtt.toml").write_text('[broker]\nhost = "mqtt.example"\n')
    (fleet / "mqtt-password").write_text("secret")
    make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    restore_backup(tmp_path / "b.tar", tmp_path / "new", "test")
    assert (tmp_path / "new" / "mqtt.toml").read_text() == (fleet / "mqtt.toml").read_text()
    assert not (tmp_path / "new" / "mqtt-password").exists()


def test_keys_are_in_it_when_asked_for(fleet: Path, tmp_path: Path) -> None:
    make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar", with_keys=True)
    assert restore_backup(tmp_path / "b.tar", tmp_path / "new", "test").has_keys
    assert (tmp_path / "new" / "ca" / "key.der").read_bytes() == b"secret"


def test_a_backup_is_one_moment_of_a_store_under_load(fleet: Path, tmp_path: Path) -> None:
    """Pairs of messages are committed together: whoever sees one sees both, and no later one."""
    with SqliteStore(fleet / "fleet.db") as store:
        commit(store, 1, 51, 30_000)  # a copy takes some steps
        ending = threading.Event()
        done = [30_000]

        def load() -> None:
            while not ending.is_set():
                commit(store, 1, done[0] + 1, done[0] + 2)
                done[0] += 2

        thread = threading.Thread(target=load)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while done[0] < 30_010 and time.monotonic() < deadline:
                time.sleep(0.001)
            durable = done[0]
            make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
        finally:
            ending.set()
            thread.join()
    restore_backup(tmp_path / "b.tar", tmp_path / "new", "test")
    found = seqs(tmp_path / "new")
    assert found == list(range(1, len(found) + 1))
    assert durable <= len(found) <= done[0]
    assert len(found) % 2 == 0


def test_what_the_lost_server_said_is_not_said_again(fleet: Path, tmp_path: Path) -> None:
    make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    with SqliteStore(fleet / "fleet.db") as store:
        store.add_device("cam-2")
        table = CommandTable(store)
        given = [table.set_config(1, {"rate": n}) for n in range(5)]
        given += [table.set_config(2, {"rate": n}) for n in range(5)]
    versions = set()
    for number in range(2):  # the same backup, twice
        folder = tmp_path / f"new-{number}"
        restore_backup(tmp_path / "b.tar", folder, "test")
        with SqliteStore(folder / "fleet.db") as store:
            table = CommandTable(store)
            kept = table.config(1)
            assert kept is not None
            assert kept.document == {"rate": 1}
            store.add_device("cam-2")
            versions = {kept.version, table.set_config(1, {"rate": 9}), table.set_config(2, {})}
            assert min(versions) > max(given)
            assert max(versions) < 1 << 30  # what the wire carries
            (command,) = table.recent()
            assert (command.state, table.unsent(1, NOW, 9)) == ("expired", [])
            assert store.read("SELECT count(*) FROM claims WHERE closed_ms IS NULL") == [(0,)]
            assert store.read("SELECT action FROM audit ORDER BY id DESC LIMIT 2")[1:] == [
                ("store-restored",)
            ]


@pytest.mark.parametrize("name", ["fleet.db", "fleetnet.toml", "blobs/", MANIFEST])
def test_a_byte_that_changed_is_found(fleet: Path, tmp_path: Path, name: str) -> None:
    backup = tmp_path / "b.tar"
    make_backup(fleet, fleet / "fleet.db", backup)
    with tarfile.open(backup) as tar:
        entry = next(one for one in tar if one.name.startswith(name))
    data = bytearray(backup.read_bytes())
    data[entry.offset_data + entry.size // 2] ^= 1
    backup.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|is no backup"):
        restore_backup(backup, tmp_path / "new", "test")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*")), "a failed restore leaves nothing"


def test_a_backup_without_its_end_is_refused(fleet: Path, tmp_path: Path) -> None:
    backup = tmp_path / "b.tar"
    make_backup(fleet, fleet / "fleet.db", backup)
    whole = backup.read_bytes()
    for size in (0, 100, 5_000, len(whole) // 2, len(whole) - 10_000):
        backup.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"b\.tar"):
            restore_backup(backup, tmp_path / "new", "test")
    with pytest.raises(StoreError, match="no backup at"):
        restore_backup(tmp_path / "none", tmp_path / "new", "test")


def evil(path: Path, *entries: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 1) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.size, found.linkname = kind, size, "/etc/passwd"
    return found


@pytest.mark.parametrize(
    "entries",
    [
        (entry("../out"),), (entry("/out"),), (entry("a/../../out"),), (entry("a/./b"),),
        (entry("link", tarfile.SYMTYPE, 0),), (entry("link", tarfile.LNKTYPE, 0),),
        (entry("device", tarfile.CHRTYPE, 0),), (entry(".hidden"),), (entry("a"), entry("a")),
        (entry("a\nb"),), (entry(MANIFEST, size=9),),
    ],
)  # fmt: skip
def test_a_tar_of_somebody_else_makes_nothing(
    tmp_path: Path, entries: tuple[tarfile.TarInfo, ...]
) -> None:
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    evil(tmp_path / "b.tar", *entries)
    with pytest.raises(StoreError):
        restore_backup(tmp_path / "b.tar", inner / "new", "test")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b.tar", "deep", "er"]


def test_a_store_that_was_damaged_before_is_not_put_back(fleet: Path, tmp_path: Path) -> None:
    """Hashes say that a backup is what was made; not that it was sound then."""
    make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    store = bytearray(files["fleet.db"])
    store[8192 * 3 : 8192 * 4] = os.urandom(8192)
    files["fleet.db"] = bytes(store)
    manifest = json.loads(files[MANIFEST])
    manifest["files"]["fleet.db"] = [len(store), sha256(store).hexdigest()]
    files[MANIFEST] = json.dumps(manifest).encode()
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        for name, data in files.items():
            tar.addfile(entry(name, size=len(data)), io.BytesIO(data))
    with pytest.raises(StoreError, match="damaged store"):
        restore_backup(tmp_path / "c.tar", tmp_path / "new", "test")


def test_nothing_is_written_over(fleet: Path, tmp_path: Path) -> None:
    make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    with pytest.raises(FolderError, match="left alone"):
        make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar")
    with pytest.raises(FolderError, match="not empty"):
        restore_backup(tmp_path / "b.tar", fleet, "test")
    (tmp_path / "empty").mkdir()
    restore_backup(tmp_path / "b.tar", tmp_path / "empty", "test")
    with pytest.raises(FolderError, match="outside"):
        make_backup(tmp_path / "empty", fleet / "fleet.db", tmp_path / "c.tar")


def test_a_blob_that_a_quota_took_meanwhile_is_left_out(fleet: Path, tmp_path: Path) -> None:
    with SqliteStore(fleet / "fleet.db") as store:
        add_blob(fleet, store, 1, 2, b"gone").unlink()
    assert make_backup(fleet, fleet / "fleet.db", tmp_path / "b.tar").lost_blobs == 1
    restore_backup(tmp_path / "b.tar", tmp_path / "new", "test")
    assert [one.size for one in list_blobs(tmp_path / "new" / "fleet.db")] == [1000]


@pytest.mark.parametrize("is_restore", [False, True])
def test_killed_half_way_it_leaves_no_half(fleet: Path, tmp_path: Path, is_restore: bool) -> None:
    backup, new = tmp_path / "b.tar", tmp_path / "new"
    if is_restore:
        make_backup(fleet, fleet / "fleet.db", backup)
    for moment in range(1, 4):
        child = os.fork()
        if child == 0:
            left = moment

            def advance(share: float, note: str) -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                if is_restore:
                    restore_backup(backup, new, "test", advance)
                else:
                    make_backup(fleet, fleet / "fleet.db", backup, advance=advance)
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            break
        assert not (new if is_restore else backup).exists()
    else:
        moment += 1
    assert moment > 1, "it was never killed"
    (new / "fleet.db" if is_restore else backup).unlink(missing_ok=True)
    if not is_restore:
        make_backup(fleet, fleet / "fleet.db", backup)
    target = tmp_path / "again"
    restore_backup(backup, target, "test")
    assert seqs(target) == list(range(1, 51))
    connection = schema.open_readable(target / "fleet.db")
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


def test_a_second_backup_at_once_is_refused(fleet: Path, tmp_path: Path) -> None:
    """Both wrote into the same hidden files: the first called the other's half its own."""
    target = tmp_path / "b.tar"
    refused = []

    def again(share: float, note: str) -> None:
        if not refused:
            with pytest.raises(FolderError, match="another backup") as error:
                make_backup(fleet, fleet / "fleet.db", target)
            refused.append(error)

    make_backup(fleet, fleet / "fleet.db", target, advance=again)
    assert refused
    assert restore_backup(target, tmp_path / "new", "test").files == 3


def test_a_sparse_file_fills_no_disk(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("fleet.db")
    entry.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 50),
        "GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1",
    }  # fmt: skip
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(b""))
    with pytest.raises(StoreError, match="is no backup"):
        restore_backup(tmp_path / "b.tar", tmp_path / "new", "test")
