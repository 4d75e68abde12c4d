"""When a device gets another identity, and in which order."""

import asyncio
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from cryptography import x509

from fleetnet import credential as wire
from fleetnet.handshake import CAN_ROTATE, Hello
from fleetnet_server.config import Settings
from fleetnet_server.device_bundles import renew_bundle
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.wanted import TrustFolder
from server.core.rotation_world import LIFE_MS, Clock, Peer, World


async def test_due_when_a_third_of_its_life_is_left(world: World) -> None:
    peer = await world.open()
    world.clock.now_ms += LIFE_MS * 2 // 3 - 10_000
    await world.look()
    assert peer.sent == []
    world.clock.now_ms += 20_000
    await world.look()
    assert peer.sent[0].certificate
    # The same for one that comes then.
    world.close(peer)
    world.add("cam-2")
    world.clock.now_ms += LIFE_MS * 2 // 3 + 10_000
    assert (await world.open(name="cam-2")).sent


@pytest.mark.parametrize("change", [{"marks": "other"}, {"pins": "ab" * 32}])
async def test_other_anchors_or_pins_leave_the_pair(world: World, change: dict[str, str]) -> None:
    peer = await world.open()
    world.source.change(**change)
    await world.look()
    (got,) = peer.sent
    assert (got.action, got.certificate, got.key) == (wire.INSTALL, b"", b"")
    assert got.anchors
    old = peer.serial
    peer = await world.rotate(peer)
    await world.say(peer, wire.RETIRED, 1)
    device = world.store.lookup("cam-1")
    assert device is not None and not device.revoked
    row = world.rows()[0]
    assert (row.serial, row.state) == (old, "working")
    assert (row.marks, row.pins) == (world.source.value.marks, world.source.value.pins)
    await world.look()
    assert len(peer.sent) == 1


async def test_another_issuer_means_another_certificate(world: World) -> None:
    peer = await world.open()
    world.source.change(generation=2, marks="other")
    await world.look()
    assert peer.sent[0].certificate
    peer = await world.rotate(peer)
    await world.say(peer, wire.RETIRED, 1)
    await world.look()
    assert len(peer.sent) == 1
    assert world.read("SELECT count(*) FROM certificates WHERE generation = 2") == [(1,)]


async def test_a_bundle_of_before_gets_what_it_lacks(world: World) -> None:
    """Nobody noted with which pins it was made."""
    world.store.transact(lambda connection: connection.execute("DELETE FROM identities"))
    der = (world.folder / "devices" / "cam-1" / "cert.der").read_bytes()
    serial = x509.load_der_x509_certificate(der).serial_number
    peer = await world.open(0, serial)
    assert [(sent.number, sent.certificate) for sent in peer.sent] == [(1, b"")]


async def test_a_device_that_says_another_number_is_believed_by_its_certificate(
    world: World,
) -> None:
    """The store came from a backup: counting goes on above what the device says."""
    peer = await world.open(7)
    states = [(row.number, row.state) for row in world.rows()]
    assert states == [(8, "offered"), (7, "working"), (0, "working")]
    assert [(one.action, one.number) for one in peer.sent] == [
        (wire.RETIRE, 7), (wire.INSTALL, 8),
    ]  # fmt: skip


async def test_who_cannot_rotate_is_listed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    peer = await world.open(can=0)
    await world.renew()
    assert peer.sent == []
    assert world.rotations.unable == {"cam-1": "asked for"}
    assert "device cam-1 needs a new identity" in caplog.text


async def test_the_pace_is_kept_and_the_order_of_asking(tmp_path: Path, clock: Clock) -> None:
    world = World(tmp_path / "fleet", clock, rate=25.0)
    order: list[str] = []
    peers = []
    for index in range(2, 8):
        world.add(f"cam-{index}")
        peer = await world.open(name=f"cam-{index}")
        send = peer.send
        peer.send = lambda *a, name=peer.name, send=send: (order.append(name), send(*a))[1]  # type: ignore[method-assign]
        peers.append(peer)
    began = asyncio.get_running_loop().time()
    await world.renew("cam-5", "cam-3")
    await world.renew("cam-2", "cam-3", "cam-7")
    assert order == ["cam-5", "cam-3", "cam-2", "cam-7"] or order == [
        "cam-3", "cam-5", "cam-2", "cam-7",
    ]  # fmt: skip
    assert asyncio.get_running_loop().time() - began >= 3 / 25
    await world.rotations.stop()
    world.store.close()


async def test_no_room_is_no_loss(world: World) -> None:
    peer = await world.open()
    peer.has_room = False
    await world.renew()
    assert peer.sent == []
    peer.has_room = True
    world.clock.now_ms += 300
    await world.look()
    assert [sent.number for sent in peer.sent] == [1]


async def test_a_store_that_fails_sends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise StoreUnavailable("disk full")

    peer = await world.open()
    with monkeypatch.context() as patch:
        patch.setattr(world.table, "offer", refuse)
        await world.renew()
        assert peer.sent == []
    world.clock.now_ms += 5_001
    await world.look()
    assert [sent.number for sent in peer.sent] == [2]


async def test_a_late_retired_leaves_the_next_offer_alone(world: World) -> None:
    peer = await world.open()
    await world.renew()
    peer = await world.rotate(peer)
    world.clock.now_ms += 1
    await world.renew()
    assert peer.sent[-1].number == 2
    await world.say(peer, wire.RETIRED, 1)
    device = world.store.lookup("cam-1")
    assert device is not None
    offered = x509.load_der_x509_certificate(peer.sent[-1].certificate).serial_number
    assert offered not in device.revoked and len(device.revoked) == 1


async def test_first_certificate_by_a_key_for_enrolment(world: World) -> None:
    """The session has a pre-shared key; it is gone once the certificate works."""
    device = world.store.add_device("tag-1")

    def add(connection: apsw.Connection) -> None:
        connection.execute(
            "INSERT INTO psks(identity, device, key, created_ms, enrol) VALUES(?, ?, x'00', 1, ?)",
            ("tag-1.1", device.id, 1),
        )

    world.store.transact(add)
    peer = Peer(world, "tag-1", 0, 0, CAN_ROTATE)
    peer.psk_identity = "tag-1.1"
    await world.enter(peer)
    assert (peer.sent[0].action, peer.sent[0].number) == (wire.INSTALL, 1)
    assert world.read("SELECT count(*) FROM psks") == [(1,)]
    # It may still go back to the key.
    peer = await world.rotate(peer)
    assert world.read("SELECT count(*) FROM psks") == [(1,)]
    assert [sent.action for sent in peer.sent] == [wire.RETIRE]
    await world.say(peer, wire.RETIRED, 1)
    assert world.read("SELECT count(*) FROM psks") == [(0,)]


async def test_a_device_with_an_everyday_key_gets_none(world: World) -> None:
    world.store.add_device("tag-1")
    peer = Peer(world, "tag-1", 0, 0, CAN_ROTATE)
    peer.psk_identity = "tag-1.1"
    await world.enter(peer)
    assert peer.sent == []


async def test_the_folder_is_read_again_when_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    source = TrustFolder(folder, LIFE_MS / 1000)
    first = source.current()
    assert first is not None and source.current() is first
    (folder / "server" / "cert.der").rename(folder / "server" / "kept")
    assert source.current() is first  # unreadable: what was read stays
    (folder / "server" / "kept").rename(folder / "server" / "cert.der")
    again = source.current()
    assert again is not None and again is not first
    assert (again.marks, again.pins) == (first.marks, first.pins)
    assert timedelta(seconds=LIFE_MS / 1000) == again._lifetime


def test_a_start_that_fails_says_nothing_of_rotation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says itself why it does not start; once it runs, this is the only word."""
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    kept = (folder / "server" / "cert.der").rename(folder / "kept")
    source = TrustFolder(folder, LIFE_MS / 1000)
    assert source.current() is None and caplog.text == ""
    kept.rename(folder / "server" / "cert.der")
    assert source.current() is not None
    (folder / "server" / "cert.der").rename(kept)
    assert source.current() is not None and "identities stay as they are" in caplog.text


async def test_a_bundle_made_again_stays_good_until_it_is_used(world: World) -> None:
    """`fleetnet device add --again`: what the old board does meanwhile does not revoke it."""
    peer = await world.open()
    settings = Settings(device_lifetime_s=LIFE_MS / 1000)
    renew_bundle(world.folder, settings, world.store, "cam-1")
    der = (world.folder / "devices" / "cam-1" / "cert.der").read_bytes()
    again = x509.load_der_x509_certificate(der).serial_number
    await world.renew()
    peer = await world.rotate(peer)
    await world.say(peer, wire.RETIRED, 1)
    device = world.store.lookup("cam-1")
    assert device is not None and device.revoked and again not in device.revoked
    # The new board comes: it has what its bundle has, and needs nothing.
    world.close(peer)
    peer = await world.open(0, again)
    assert peer.sent == []
    row = next(row for row in world.rows() if row.number == 0)
    assert (row.serial, row.state, row.marks) == (again, "working", world.source.value.marks)
    assert world.read("SELECT count(*) FROM identities WHERE number < 0") == [(0,)]


async def test_sessions_that_are_over_are_forgotten(world: World) -> None:
    """What is due in months keeps no peer of today."""
    peer = await world.open()
    for _ in range(500):
        world.close(peer)
        world.rotations.opened(peer, Hello())  # type: ignore[arg-type]
    assert len(world.rotations._due) < 100
    world.clock.now_ms += LIFE_MS * 3 // 4
    await world.look()
    assert len(peer.sent) == 1


async def test_a_ca_without_its_key_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    key = world.folder / "ca" / "1" / "issuing-key.der"
    kept = key.rename(world.folder / "kept")
    source = TrustFolder(world.folder, LIFE_MS / 1000)
    world.rotations._source = source
    peer = await world.open()
    await world.renew()
    for _ in range(5):
        world.clock.now_ms += 5_001
        await world.look()
    assert peer.sent == []
    assert caplog.text.count("waits") == 1 and "the CA's key" in caplog.text
    kept.rename(key)
    world.clock.now_ms += 5_001
    await world.look()
    assert len(peer.sent) == 1
