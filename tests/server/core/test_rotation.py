"""Rotations over a real store and a real CA, and devices made of four lines."""

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet import credential as wire
from fleetnet.credential import Credential, CredentialState
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE, Hello
from fleetnet_server.cli.device import add_device, renew_bundle
from fleetnet_server.cli.init import create_fleet
from fleetnet_server.config import Settings
from fleetnet_server.core import rotation as module
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.rotation import Rotations
from fleetnet_server.core.rotation_line import DAY_MS, HOUR_MS, backoff_ms
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.wanted import FleetTrust, TrustFolder
from fleetnet_server.store import identities as table_module
from fleetnet_server.store.identities import SUPERSEDED, IdentityTable
from fleetnet_server.store.sqlite import SqliteStore

LIFE_MS = 300 * DAY_MS


class Clock:
    """Unix time in ms that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = module._now_ms()

    def __call__(self) -> int:
        return self.now_ms


class Peer:
    """What services see of a device's session: it keeps what it is sent."""

    def __init__(self, world: "World", name: str, number: int, serial: int, capabilities: int):
        device = world.store.lookup(name)
        assert device is not None
        self.device_id, self.name = device.id, name
        self.number, self.serial, self.psk_identity = number, serial, ""
        self.capabilities = capabilities
        self.has_room = True
        self.sent: list[Credential] = []
        self.rows_at_send: list[list[Any]] = []
        self._world = world

    def send(self, stream: int, kind: int, payload: bytes) -> bool:
        assert (stream, kind) == (COMMANDS, CREDENTIAL)
        if self.has_room:
            self.rows_at_send.append(self._world.rows(self.name))
            self.sent.append(wire.decode_credential(payload))
        return self.has_room


class Source:
    """A folder's trust, or what a test puts in its place."""

    def __init__(self, trust: FleetTrust):
        self.value = trust

    def current(self) -> FleetTrust:
        return self.value

    def change(self, **changes: Any) -> None:
        self.value = copy.copy(self.value)
        self.value.__dict__.update(changes)


class Notes:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None, dict[str, Any]]] = []

    def note(self, actor: str, action: str, device: str | None, detail: dict[str, Any]) -> None:
        assert actor == "server"
        self.rows.append((action, device, detail))

    def actions(self) -> list[str]:
        return [action for action, _, _ in self.rows]


class World:
    """A fleet's folder, its store, and the service."""

    def __init__(self, folder: Path, clock: Clock, rate: float = 1000.0):
        self.folder, self.clock = folder, clock
        create_fleet(folder, ("localhost",))
        self.store = SqliteStore(folder / "fleet.db")
        self.table = IdentityTable(self.store)
        self.source = Source(FleetTrust(folder, LIFE_MS / 1000))
        self.audit = Notes()
        self.rotations = Rotations(self.table, self.source, rate, self.audit)
        self.seq = 0
        self.add("cam-1")

    def add(self, name: str) -> int:
        """Register a device with a bundle; return the bundle's serial number."""
        add_device(self.folder, Settings(device_lifetime_s=LIFE_MS / 1000), self.store, name)
        der = (self.folder / "devices" / name / "cert.der").read_bytes()
        return x509.load_der_x509_certificate(der).serial_number

    def rows(self, name: str = "cam-1") -> list[Any]:
        device = self.store.lookup(name)
        assert device is not None
        return self.table.identities(device.id)

    def read(self, sql: str) -> list[Any]:
        return self.store.read(sql)

    def bundle_serial(self, name: str = "cam-1") -> int:
        serial = self.rows(name)[-1].serial
        assert isinstance(serial, int)
        return serial

    async def open(
        self, number: int = 0, serial: int = 0, name: str = "cam-1", can: int = CAN_ROTATE
    ) -> Peer:
        peer = Peer(self, name, number, serial or self.bundle_serial(name), can)
        await self.enter(peer)
        return peer

    async def enter(self, peer: Peer) -> None:
        hello = Hello()
        hello.identity = peer.number
        self.rotations.opened(peer, hello)  # type: ignore[arg-type]
        await self.quiet()

    def close(self, peer: Peer) -> None:
        self.rotations.closed(peer)  # type: ignore[arg-type]

    async def say(
        self, peer: Peer, state: int, number: int, reason: str = "", csr: bytes = b""
    ) -> None:
        """A CREDENTIAL_STATE of the device becomes durable."""
        body = wire.encode_credential_state(CredentialState(state, number, csr, reason))
        self.seq += 1
        found = inspect_body(CREDENTIAL_STATE, body, lambda boot: None, 1)
        epoch = self.store.epoch_id(peer.device_id, b"epoch-01")
        message = Message(
            peer.device_id, epoch, COMMANDS, self.seq, CREDENTIAL_STATE,
            found.t0, found.t1, 1, found.body, found.problem,
        )  # fmt: skip
        self.store.commit([message])
        self.rotations.durable(peer, message)  # type: ignore[arg-type]
        await self.quiet()

    async def renew(self, *names: str) -> None:
        devices = [self.store.lookup(name) for name in names or ("cam-1",)]
        await asyncio.to_thread(self.table.ask, [one for one in devices if one], "test")
        await self.look()

    async def look(self) -> None:
        self.rotations.look()
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until the service does nothing any more."""
        rotations = self.rotations
        async with asyncio.timeout(30):
            while rotations._tasks or rotations._queue:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.002)
            while rotations._tasks:
                await asyncio.sleep(0.001)

    async def rotate(self, peer: Peer) -> Peer:
        """From an INSTALL that was sent to the session that the device begins with it."""
        got = peer.sent[-1]
        assert got.action == wire.INSTALL
        self.close(peer)
        serial = peer.serial
        if got.certificate:
            serial = x509.load_der_x509_certificate(got.certificate).serial_number
        return await self.open(got.number, serial, peer.name, peer.capabilities)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(module, "_now_ms", made)
    monkeypatch.setattr(table_module, "_now_ms", made)
    yield made


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet", clock)
    yield made
    await made.rotations.stop()
    made.store.close()


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def test_a_new_device_is_left_alone(world: World) -> None:
    peer = await world.open()
    await world.look()
    assert peer.sent == []
    assert world.read("SELECT count(*) FROM certificates") == [(1,)]


async def test_the_whole_story(world: World) -> None:
    """Asked for, offered (on the disk first), working, retired, superseded."""
    old = world.bundle_serial()
    peer = await world.open()
    await world.renew()
    (got,) = peer.sent
    assert (got.action, got.number) == (wire.INSTALL, 1)
    assert got.anchors == list(Authority.load(world.folder).anchors)
    assert got.pins == world.source.value.pin_values
    leaf = x509.load_der_x509_certificate(got.certificate)
    key = serialization.load_der_private_key(got.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key()
    life = leaf.not_valid_after_utc.timestamp() * 1000 - world.clock.now_ms
    assert abs(life - LIFE_MS) < 60_000
    at_send = peer.rows_at_send[0][0]
    assert (at_send.number, at_send.serial, at_send.state) == (1, leaf.serial_number, "offered")

    peer = await world.rotate(peer)
    assert [(sent.action, sent.number) for sent in peer.sent] == [(wire.RETIRE, 1)]
    assert world.read("SELECT * FROM renewals") == []
    device = world.store.lookup("cam-1")
    assert device is not None and not device.revoked

    await world.say(peer, wire.RETIRED, 1)
    device = world.store.lookup("cam-1")
    assert device is not None and device.revoked == {old}
    reasons = world.read("SELECT reason FROM certificates WHERE revoked_ms IS NOT NULL")
    assert reasons == [(SUPERSEDED,)]
    assert [(row.number, row.state) for row in world.rows()] == [(1, "working"), (0, "retired")]
    assert world.audit.actions() == [
        "identity-offered", "identity-works", "identity-retired",
    ]  # fmt: skip
    world.close(peer)
    assert (await world.open(1, leaf.serial_number)).sent == []


async def test_a_key_made_here_is_written_nowhere(world: World) -> None:
    peer = await world.open()
    await world.renew()
    key = peer.sent[0].key
    secret = key[7:39]  # of SEC1: RFC 5915
    assert len(key) > 100
    await world.say(peer, wire.FAILED, 1, "flash full")
    world.store.transact(lambda connection: None)
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert [path for path in files if secret in path.read_bytes()] == []


async def test_own_key(world: World) -> None:
    """REQUEST, REQUESTED, INSTALL without a key; the certificate is on the disk first."""
    key = ec.generate_private_key(ec.SECP256R1())
    peer = await world.open(can=CAN_ROTATE | CAN_MAKE_KEY)
    await world.renew()
    assert [(sent.action, sent.number) for sent in peer.sent] == [(wire.REQUEST, 1)]
    assert world.rows()[0].serial is None
    await world.say(peer, wire.REQUESTED, 1, csr=make_csr(key))
    got = peer.sent[1]
    leaf = x509.load_der_x509_certificate(got.certificate)
    assert (got.action, got.number, got.key) == (wire.INSTALL, 1, b"")
    assert leaf.public_key() == key.public_key()
    assert peer.rows_at_send[1][0].serial == leaf.serial_number
    made = f"SELECT key_made FROM certificates WHERE serial = '{leaf.serial_number:x}'"
    assert world.read(made) == [("device",)]
    # Twice the same request, from an outbox that sent it again: it was answered.
    await world.say(peer, wire.REQUESTED, 1, csr=make_csr(key))
    assert len(peer.sent) == 2


async def test_a_csr_that_cannot_be_signed(world: World) -> None:
    peer = await world.open(can=CAN_ROTATE | CAN_MAKE_KEY)
    await world.renew()
    await world.say(peer, wire.REQUESTED, 1, csr=b"\x30\x03\x02\x01\x05")
    assert peer.sent[1].action == wire.REFUSED
    assert "request" in peer.sent[1].reason
    assert (world.rows()[0].state, world.rows()[0].tries) == ("failed", 1)
    assert world.read("SELECT count(*) FROM certificates") == [(1,)]


async def test_failures_back_off(world: World) -> None:
    assert [backoff_ms(n) // HOUR_MS for n in (1, 2, 3, 4, 5, 6, 99)] == [1, 2, 4, 8, 16, 24, 24]
    peer = await world.open()
    await world.renew()
    for tries in (1, 2, 3):
        await world.say(peer, wire.FAILED, tries, "WrongCA: no")
        world.clock.now_ms += backoff_ms(tries) - 1000
        await world.look()
        assert len(peer.sent) == tries
        # Another session changes nothing about it.
        world.close(peer)
        await world.enter(peer)
        assert len(peer.sent) == tries
        world.clock.now_ms += 1000
        await world.look()
        assert [sent.number for sent in peer.sent] == list(range(1, tries + 2))
    detail = [row[2] for row in world.audit.rows if row[0] == "identity-failed"]
    assert [one["tries"] for one in detail] == [1, 2, 3]
    assert {one["reason"] for one in detail} == {"WrongCA: no"}
    # Who asks now does not wait.
    await world.say(peer, wire.FAILED, 4, "again")
    assert len(peer.sent) == 4
    world.clock.now_ms += 1
    await world.renew()
    assert peer.sent[-1].number == 5


async def test_what_was_cut_off_is_replaced(world: World) -> None:
    """By the next number, after a moment for what the device may say of it; not for ever."""
    peer = await world.open()
    await world.renew()
    for number in (2, 3, 4):
        world.close(peer)
        await world.enter(peer)
        assert len(peer.sent) == number - 1
        world.clock.now_ms += 2_000
        await world.look()
        assert peer.sent[-1].number == number
    world.close(peer)
    await world.enter(peer)
    world.clock.now_ms += HOUR_MS - 1
    await world.look()
    assert len(peer.sent) == 4
    world.clock.now_ms += 1
    await world.look()
    assert peer.sent[-1].number == 5
    # The device came to use an offer that was thought lost: that is the one, then.
    world.close(peer)
    serial = x509.load_der_x509_certificate(peer.sent[2].certificate).serial_number
    peer = await world.open(3, serial)
    await world.say(peer, wire.RETIRED, 3)
    device = world.store.lookup("cam-1")
    assert device is not None and serial not in device.revoked and len(device.revoked) == 4


async def test_a_failure_is_told_in_the_next_session(world: World) -> None:
    """A device without memory for two connections can only try the new identity alone."""
    peer = await world.open()
    await world.renew()
    world.close(peer)
    await world.enter(peer)
    await world.say(peer, wire.FAILED, 1, "WrongCA: no")
    world.clock.now_ms += HOUR_MS - 10
    await world.look()
    assert len(peer.sent) == 1
    assert world.rows()[0].reason == "WrongCA: no"


async def test_a_request_that_was_cut_off_keeps_its_number(world: World) -> None:
    """The device may have made the key by now."""
    peer = await world.open(can=CAN_ROTATE | CAN_MAKE_KEY)
    await world.renew()
    world.close(peer)
    await world.enter(peer)
    world.clock.now_ms += 2_000
    await world.look()
    assert [(sent.action, sent.number) for sent in peer.sent] == [(wire.REQUEST, 1)] * 2
    assert [(row.number, row.tries) for row in world.rows()] == [(1, 1), (0, 0)]


async def test_a_device_that_goes_back_is_offered_another(world: World) -> None:
    peer = await world.open()
    await world.renew()
    peer = await world.rotate(peer)
    await world.say(peer, wire.FAILED, 1, "RETIRE: the flash is read-only")
    world.close(peer)
    peer = await world.open()
    await world.say(peer, wire.FAILED, 1, "three times refused")
    assert (world.rows()[0].state, world.rows()[0].tries) == ("failed", 1)
    await world.renew()
    assert [sent.number for sent in peer.sent] == [2]


async def test_no_answer_is_a_failure(world: World) -> None:
    await world.open()
    await world.renew()
    world.clock.now_ms += 599_000
    await world.look()
    assert world.rows()[0].state == "offered"
    world.clock.now_ms += 1_001
    await world.look()
    assert world.rows()[0].state == "failed"


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
