"""The story of an identity: offered, working, retired; failed, cut off, and taken up again."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet import credential as wire
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE
from fleetnet_server.core.rotation_line import HOUR_MS, backoff_ms
from fleetnet_server.identity.authority import Authority
from fleetnet_server.store.identities import SUPERSEDED
from server.core.rotation_world import LIFE_MS, World, make_csr


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


async def test_a_device_cannot_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It says again and again that it keeps what it should let go."""
    peer = await world.open(1)
    for _ in range(12):
        await world.say(peer, wire.FAILED, 1, "flash is full")
    assert len([text for text in caplog.messages if "keeps older identities" in text]) == 5


async def test_a_device_cannot_fill_the_table(world: World) -> None:
    """HELLO's number is the device's own word."""
    for number in range(1, 60):
        world.clock.now_ms += 10
        await asyncio.to_thread(
            world.table.worked, 1, number, world.bundle_serial() if number == 1 else 77
        )
    ((count, newest),) = world.read("SELECT count(*), max(number) FROM identities")
    assert (count, newest) == (16, 59)
