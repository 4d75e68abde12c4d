"""The fleet's secret, the pre-shared keys that it opens, and which of them hold."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError, StoreError, StoreUnavailable
from fleetnet_server.identity.authenticate import Authenticated, LinkIdentity, authenticate
from fleetnet_server.identity.psk import FindKey, decrypt, encrypt, name_identity, new_key
from fleetnet_server.identity.registry import Device
from fleetnet_server.identity.secret import load_secret
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000


# -- the secret --------------------------------------------------------------------------


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    secret = load_secret(tmp_path)
    path = tmp_path / "secret.key"
    assert len(secret) == 32 and secret == path.read_bytes() == load_secret(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret.key"]


def test_the_secret_is_one_for_all_who_come_at_once(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_secret(tmp_path))) for _ in range(16)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 16 and set(found) == {load_secret(tmp_path)}


def test_a_secret_that_cannot_be_right(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    for mode in (0o640, 0o604, 0o620):
        path.write_bytes(bytes(32))
        path.chmod(mode)
        with pytest.raises(CredentialError, match=f"chmod 600 {path}"):
            load_secret(tmp_path)
    path.chmod(0o600)
    for size in (0, 31, 33, 1 << 20):
        path.write_bytes(bytes(size))
        with pytest.raises(CredentialError, match=f"has {size} bytes, not 32.*backup"):
            load_secret(tmp_path)
    path.unlink()
    (tmp_path / "other").write_bytes(bytes(32))
    path.symlink_to(tmp_path / "other")
    with pytest.raises(CredentialError, match="cannot be read"):
        load_secret(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CredentialError, match="is no file"):
        load_secret(tmp_path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(CredentialError, match="is no file"):
        load_secret(tmp_path)  # and does not wait for a writer


def test_a_secret_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="backup"):
        load_secret(tmp_path, create=False)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FolderError, match="cannot be written"):
        load_secret(tmp_path / "nowhere")


# -- keys --------------------------------------------------------------------------------


def test_a_key_opens_under_its_own_name_only() -> None:
    secret, key = bytes(range(32)), new_key(128)
    sealed = encrypt(secret, "cam-1.1", key)
    assert key not in sealed and len(sealed) == 12 + 16 + 16
    assert encrypt(secret, "cam-1.1", key) != sealed
    assert decrypt(secret, "cam-1.1", sealed) == key
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for other in (
        (bytes(32), "cam-1.1", sealed),
        (secret, "cam-1.2", sealed),
        (secret, "cam-1.1", damaged),
        (secret, "cam-1.1", sealed[:20]),
        (secret, "cam-1.1", b""),
    ):
        with pytest.raises(CredentialError, match=r"cam-1.* does not open"):
            decrypt(*other)


def test_keys_have_two_lengths() -> None:
    assert len(new_key()) == 32 and len(new_key(128)) == 16 and new_key() != new_key()
    for bits in (0, 64, 192, 512):
        with pytest.raises(ValueError, match="128 or 256 bits"):
            new_key(bits)


# -- in the store ------------------------------------------------------------------------


class World:
    """A store with two devices, and the keys of one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = SqliteStore(folder / "fleet.db")
        self.table = PskTable(self.store)
        self.device = self.store.add_device("cam-1")
        self.other = self.store.add_device("cam-2")
        self.secret = load_secret(folder)
        self.keys: dict[str, bytes] = {}
        self.find = FindKey(folder, self.table.find)

    def seal(self, identity: str) -> bytes:
        self.keys[identity] = new_key()
        return encrypt(self.secret, identity, self.keys[identity])

    def add(self, device: Device | None = None, enrol: bool = False) -> str:
        return self.table.add(device or self.device, self.seal, "test", enrol)

    def rotate(self, at_once: bool = False) -> str:
        return self.table.rotate(self.device, self.seal, "test", at_once)

    def identities(self) -> list[str]:
        return [psk.identity for psk in self.table.all()]

    def log(self) -> list[tuple[str, str]]:
        sql = "SELECT actor, action FROM audit WHERE action LIKE 'psk%' ORDER BY id"
        return self.store.read(sql)  # type: ignore[return-value]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def test_a_handshake_finds_the_key(world: World) -> None:
    assert world.find(b"cam-1.1") is None
    assert world.add() == "cam-1.1"
    assert world.find(b"cam-1.1") == world.keys["cam-1.1"]
    for stranger in (b"cam-1.2", b"cam-1", b"CAM-1.1", b"cam-1.01", b"cam-1.1 ", b"", b"\xff" * 99):
        assert world.find(stranger) is None
    who = authenticate(LinkIdentity(b"", b"cam-1.1"), world.store)
    assert isinstance(who, Authenticated)
    assert (who.device.name, who.method, who.serial) == ("cam-1", "psk", 0)


def test_no_key_lies_open_in_the_store(world: World) -> None:
    world.add()
    world.store.close()
    files = b"".join(path.read_bytes() for path in world.folder.glob("fleet.db*"))
    key = world.keys["cam-1.1"]
    assert b"cam-1.1" in files
    assert key not in files and key.hex().encode() not in files


def test_a_row_that_was_moved_opens_nothing(world: World) -> None:
    """Who can write the store cannot give device 1 the key of device 2."""
    world.add()
    world.add(world.other)
    world.store.transact(
        lambda connection: connection.execute(
            "UPDATE psks SET key = (SELECT key FROM psks WHERE identity = 'cam-2.1')"
        )
    )
    with pytest.raises(CredentialError, match=r"cam-1\.1"):
        world.find(b"cam-1.1")
    assert world.find(b"cam-2.1") == world.keys["cam-2.1"]


def test_a_secret_that_was_lost_and_comes_back(world: World) -> None:
    world.add()
    path = world.folder / "secret.key"
    world.find = FindKey(world.folder, world.table.find)  # as after a restart
    path.rename(world.folder / "away")
    with pytest.raises(CredentialError, match="put the file back"):
        world.find(b"cam-1.1")
    assert not path.exists()  # another one would hide what happened
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    with pytest.raises(CredentialError, match="does not open"):
        world.find(b"cam-1.1")
    (world.folder / "away").rename(path)
    assert world.find(b"cam-1.1") == world.keys["cam-1.1"]


def test_a_secret_that_was_changed_while_the_server_ran(world: World) -> None:
    world.add()
    assert world.find(b"cam-1.1") == world.keys["cam-1.1"]
    world.table.remove(world.device, "test")
    (world.folder / "secret.key").unlink()
    world.secret = load_secret(world.folder)
    world.add()
    assert world.find(b"cam-1.2") == world.keys["cam-1.2"]


def test_a_store_that_cannot_be_read_lets_nobody_in(world: World) -> None:
    world.add()

    def fail(identity: str) -> bytes | None:
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        FindKey(world.folder, fail)(b"cam-1.1")


def test_the_older_key_holds_until_the_newer_is_seen(world: World) -> None:
    world.add()
    assert world.table.note_used({"cam-1.1": NOW}) == []
    assert world.rotate() == "cam-1.2"
    assert world.rotate() == "cam-1.3"
    assert world.table.note_used({"cam-1.1": NOW + 1}) == []
    assert world.identities() == ["cam-1.1", "cam-1.2", "cam-1.3"]
    # The newest has not been seen: it stays.
    assert world.table.note_used({"cam-1.2": NOW + 2}) == ["cam-1.1"]
    assert world.identities() == ["cam-1.2", "cam-1.3"]
    assert world.find(b"cam-1.1") is None and world.find(b"cam-1.3") is not None
    assert world.table.note_used({"cam-1.1": NOW + 3, "cam-1.3": NOW + 3}) == ["cam-1.2"]
    assert [psk.used_ms for psk in world.table.all()] == [NOW + 3]


def test_a_use_that_is_noted_late_does_not_go_back_in_time(world: World) -> None:
    world.add()
    world.table.note_used({"cam-1.1": NOW})
    world.table.note_used({"cam-1.1": NOW - 5})
    assert world.table.all()[0].used_ms == NOW


def test_more_than_nine_keys_keep_their_order(world: World) -> None:
    world.add()
    for _ in range(10):
        world.rotate()
    assert world.identities() == [name_identity("cam-1", number) for number in range(1, 12)]
    world.add(world.other)
    names = [name_identity("cam-1", number) for number in range(1, 12)]
    assert world.table.note_used({"cam-1.11": NOW}) == names[:-1]
    assert world.identities() == ["cam-1.11", "cam-2.1"]


def test_an_identity_never_means_two_keys(world: World) -> None:
    world.add()
    world.rotate(at_once=True)
    assert world.identities() == ["cam-1.2"]
    assert world.table.remove(world.device, "test") == ["cam-1.2"]
    assert world.table.remove(world.device, "test") == []
    assert world.add() == "cam-1.3"


def test_what_a_device_must_have_and_must_not(world: World) -> None:
    with pytest.raises(StoreError, match="psk add cam-1"):
        world.rotate()
    world.add(enrol=True)
    with pytest.raises(StoreError, match="psk rotate cam-1"):
        world.add()
    world.rotate()
    assert [psk.enrol for psk in world.table.all()] == [True, True]
    assert world.table.all(world.other) == []


def test_changes_are_in_the_audit_log_without_keys(world: World) -> None:
    world.add()
    world.rotate()
    world.table.note_used({"cam-1.2": NOW})
    world.table.remove(world.device, "test")
    assert world.log() == [
        ("test", "psk-add"),
        ("test", "psk-rotate"),
        ("server", "psk-retire"),
        ("test", "psk-remove"),
    ]
    text = str(world.store.read("SELECT detail FROM audit"))
    assert not any(key.hex() in text for key in world.keys.values())


def test_news_say_when_keys_ended(world: World) -> None:
    seen = world.table.newest()
    assert world.table.news_after(seen) == (seen, False)
    world.add()
    seen, ended = world.table.news_after(seen)
    assert not ended
    world.table.note_used({"cam-1.1": NOW})
    assert world.table.news_after(seen) == (seen, False)
    world.table.remove(world.device, "test")
    newest, ended = world.table.news_after(seen)
    assert ended and world.table.news_after(newest) == (newest, False)
    for end in (world.store.registry.revoke, world.store.registry.remove):
        world.add()
        newest = world.table.newest()
        end("cam-1")
        assert world.table.news_after(newest)[1] and world.identities() == []


def test_half_a_change_is_none(world: World) -> None:
    """A key that cannot be sealed takes neither number nor the older key."""
    world.add()

    def fail(identity: str) -> bytes:
        raise CredentialError(identity)

    with pytest.raises(CredentialError, match=r"cam-1\.2"):
        world.table.rotate(world.device, fail, "test", True)
    assert world.identities() == ["cam-1.1"]
    assert world.rotate() == "cam-1.2"


def test_one_identity_is_one_row(world: World) -> None:
    world.add()
    with pytest.raises(apsw.ConstraintError):
        world.store.transact(
            lambda connection: connection.execute(
                "INSERT INTO psks(identity, device, key, created_ms) VALUES('cam-1.1', 1, x'00', 0)"
            )
        )
