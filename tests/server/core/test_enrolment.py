"""Claims over a real store and a real CA; the device's half is a real Session without a network."""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet import credential as wire
from fleetnet import errors, events
from fleetnet.credential import Credential, CredentialState
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE, READINGS
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.core import enrolment as module
from fleetnet_server.core.enrolment import MAX_LINKS, Brake, EnrolLink, Enrolment
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.certificate import device_name
from fleetnet_server.identity.wanted import TrustFolder
from fleetnet_server.store.claims import ClaimTable, make_token, token_hash
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.sqlite import SqliteStore

FOREVER_MS = 1 << 50


class Link:
    """A transport, and the device at its other end."""

    kind, datagram, psk_identity = "tls", False, None

    def __init__(self, enrolment: Enrolment, address: str = "192.0.2.1"):
        self.address = (address, 4000)
        self.is_closed = False
        self.events: list[object] = []
        self.session = Session(os.urandom)
        self.session.open_link(port.ticks(), False)
        self.handler: EnrolLink = enrolment.accept(self, b"")

    def send(self, data: bytes) -> None:
        self.session.receive_data(data, port.ticks())
        self.events.extend(self.session.take_events())

    def close(self, linger_s: float = 1.0) -> None:
        self.is_closed = True

    abort = close

    def flush(self) -> None:
        while not self.is_closed and (chunks := self.session.data_to_send(port.ticks())):
            for chunk in chunks:
                self.handler.receive_data(chunk)

    def say(self, kind: int, body: bytes) -> None:
        self.session.send(COMMANDS, kind, body)
        self.flush()

    def endings(self) -> list[int]:
        kinds = (events.Refused, events.Closed)
        return [event.ending.reason for event in self.events if isinstance(event, kinds)]

    def answers(self) -> list[Credential]:
        received = [event for event in self.events if isinstance(event, events.Received)]
        assert all(event.kind == CREDENTIAL for event in received)
        return [wire.decode_credential(event.payload) for event in received]


class World:
    """A fleet with one claim, for cam-1."""

    def __init__(self, folder: Path):
        create_fleet(folder, ("localhost",))
        self.store = SqliteStore(folder / "fleet.db")
        self.claims = ClaimTable(self.store)
        self.identities = IdentityTable(self.store)
        self.notes: list[tuple[str, str, str | None, dict[str, Any]]] = []
        source = TrustFolder(folder, 86_400.0)
        self.enrolment = Enrolment(self.claims, source, self)
        self.source = source
        self.device = self.store.add_device("cam-1")
        self.token = make_token()
        self.claims.open(self.device.id, self.token, FOREVER_MS, "test")

    def note(self, actor: str, action: str, device: str | None, detail: dict[str, Any]) -> None:
        self.notes.append((actor, action, device, detail))

    async def ask(
        self, csr: bytes, token: str | None = None, address: str = "192.0.2.1", number: int = 1
    ) -> Credential:
        link = Link(self.enrolment, address)
        link.flush()
        state = CredentialState(
            wire.REQUESTED, number, csr, token=self.token if token is None else token
        )
        link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
        await self.quiet()
        (answer,) = link.answers()
        link.session.bye(port.ticks())
        link.flush()
        assert link.is_closed
        return answer

    async def quiet(self) -> None:
        while self.enrolment._tasks:
            await asyncio.gather(*self.enrolment._tasks, return_exceptions=True)
            await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet")
    yield made
    await made.enrolment.stop()
    assert not made.enrolment._links
    made.store.close()


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody-else")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_token_has_100_bits() -> None:
    tokens = {make_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {20}
    assert {char for token in tokens for char in token} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    token = tokens.pop()
    assert token_hash(token) == token_hash(f" {token[:5].lower()} {token[5:]}\n")
    assert token_hash(token) == hashlib.sha256(token.encode()).hexdigest()


async def test_a_claim_is_answered(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    got = await world.ask(make_csr(key))
    leaf = x509.load_der_x509_certificate(got.certificate)
    assert (got.action, got.number, got.key) == (wire.INSTALL, 1, b"")
    assert leaf.public_key() == key.public_key()
    # The claim says who it is, the request does not.
    assert device_name(got.certificate) == "cam-1"
    trust = world.source.current()
    assert trust is not None
    assert (got.anchors, got.pins) == (list(trust.anchors), trust.pin_values)
    facts = world.identities.facts(world.device.id, leaf.serial_number)
    assert [(row.number, row.serial, row.state) for row in facts.identities] == [
        (1, leaf.serial_number, "offered")
    ]
    assert facts.certificate is not None and facts.certificate.key_made == "device"
    assert world.notes == [
        ("192.0.2.1", "claim-answered", "cam-1", {"serial": f"{leaf.serial_number:x}"})
    ]


async def test_one_key_and_once(world: World) -> None:
    """The same key again until the device has come; another key never."""
    csr = make_csr()
    first, again = await world.ask(csr), await world.ask(csr)
    assert again.action == wire.INSTALL and again.certificate != first.certificate
    refused = await world.ask(make_csr())
    assert (refused.action, refused.certificate) == (wire.REFUSED, b"")
    assert "another key" in refused.reason
    assert world.notes[-1][1:3] == ("claim-refused", "cam-1")
    serial = x509.load_der_x509_certificate(again.certificate).serial_number
    assert world.identities.facts(world.device.id, serial).has_claim
    world.identities.worked(world.device.id, 1, serial)
    assert not world.identities.facts(world.device.id, serial).has_claim
    assert "was used" in (await world.ask(csr)).reason
    assert world.claims.pending() == []


async def test_two_keys_at_once(world: World) -> None:
    """Both find the claim open; one of them gets it."""
    links = [Link(world.enrolment) for _ in range(2)]
    for link in links:
        link.flush()
    for link in links:
        state = CredentialState(wire.REQUESTED, 1, make_csr(), token=world.token)
        link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    actions = sorted(link.answers()[0].action for link in links)
    assert actions == [wire.INSTALL, wire.REFUSED]
    assert world.store.read("SELECT count(*) FROM certificates") == [(1,)]


async def test_another_session_of_the_device_leaves_the_claim_open(world: World) -> None:
    """The board that is replaced may still be running."""
    world.store.add_certificate(world.device.id, 77, FOREVER_MS)
    world.store.transact(lambda c: c.execute("UPDATE certificates SET issued_ms = 1"))
    world.identities.worked(world.device.id, 5, 77)
    csr = make_csr()
    assert (await world.ask(csr)).action == wire.INSTALL
    world.identities.worked(world.device.id, 5, 77)
    assert (await world.ask(csr)).action == wire.INSTALL


async def test_expired_or_disabled(world: World) -> None:
    world.store.set_enabled("cam-1", False)
    assert "disabled" in (await world.ask(make_csr())).reason
    world.store.set_enabled("cam-1", True)
    world.claims.open(world.device.id, world.token, 1, "test")
    assert "expired" in (await world.ask(make_csr())).reason
    assert world.identities.identities(world.device.id) == []


async def test_a_newer_token_ends_the_older(world: World) -> None:
    newer = make_token()
    world.claims.open(world.device.id, newer, FOREVER_MS, "test")
    assert "no such token" in (await world.ask(make_csr())).reason
    assert (await world.ask(make_csr(), newer)).action == wire.INSTALL


async def test_a_request_that_cannot_be_signed(world: World) -> None:
    refused = await world.ask(b"\x30\x03\x02\x01\x05")
    assert (refused.action, refused.reason != "") == (wire.REFUSED, True)
    # It used nothing up.
    assert (await world.ask(make_csr())).action == wire.INSTALL


async def test_without_a_request_the_server_makes_the_key(world: World) -> None:
    got = await world.ask(b"")
    key = serialization.load_der_private_key(got.key, None)
    leaf = x509.load_der_x509_certificate(got.certificate)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == leaf.public_key()
    assert (await world.ask(b"")).action == wire.INSTALL
    assert "another key" in (await world.ask(make_csr())).reason


async def test_wrong_tokens_close_the_door_for_their_address(world: World) -> None:
    now = [1000.0]
    world.enrolment.brake = Brake(lambda: now[0])
    csr = make_csr()
    for _ in range(5):
        assert (await world.ask(csr, make_token())).action == wire.REFUSED
    link = Link(world.enrolment)
    link.flush()
    (refused,) = [event for event in link.events if isinstance(event, events.Refused)]
    assert (refused.ending.reason, refused.ending.retry_after_ms) == (errors.OVERLOADED, 60_000)
    assert link.is_closed
    # Neighbours come in, and so does it when the minute is over.
    assert (await world.ask(csr, address="192.0.2.2")).action == wire.INSTALL
    now[0] += 60
    assert (await world.ask(csr)).action == wire.INSTALL


async def test_sessions_begun_before_the_door_closed_do_not_help(world: World) -> None:
    links = [Link(world.enrolment) for _ in range(8)]
    for link in links:
        link.flush()
    for link in links:
        state = CredentialState(wire.REQUESTED, 1, make_csr(), token=make_token())
        link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    reasons = [link.answers()[0].reason for link in links]
    assert sum("no such token" in reason for reason in reasons) == 5
    assert sum("too many" in reason for reason in reasons) == 3


def test_the_brake_forgets_and_counts_networks() -> None:
    now = [0.0]
    brake = Brake(lambda: now[0])
    for host in range(5):
        brake.wrong(f"2001:db8:1:2::{host:x}")
    assert brake.closed_for_s("2001:db8:1:2:aaaa::1") == 60.0
    assert brake.closed_for_s("2001:db8:1:3::1") == 0.0
    for number in range(5000):
        brake.wrong(f"10.0.{number >> 8}.{number & 255}")
    assert len(brake._wrong) == 4096
    for _ in range(9):
        now[0] += 15.1  # four a minute
        brake.wrong("192.0.2.1")
        assert brake.closed_for_s("192.0.2.1") == 0.0


async def test_the_token_is_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = make_token()
    await world.ask(make_csr())
    await world.ask(make_csr())
    await world.ask(make_csr(), wrong)
    world.store.commit([])
    files = b"".join(p.read_bytes() for p in world.store.path.parent.glob("fleet.db*"))
    for token in (world.token, wrong):
        assert token.encode() not in files
        assert token not in caplog.text and token not in repr(world.notes)
    assert world.store.read("SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (READINGS, b"[]"),
        (CREDENTIAL_STATE, b"\x01"),
        (CREDENTIAL_STATE, wire.encode_credential_state(CredentialState(wire.RETIRED, 1))),
        (CREDENTIAL_STATE, b"x" * 9000),
    ],
)
async def test_anything_else_ends_the_session(world: World, kind: int, body: bytes) -> None:
    link = Link(world.enrolment)
    link.flush()
    link.say(kind, body)
    assert link.endings() and link.endings()[0] in (errors.PROTOCOL, errors.LIMIT)
    assert link.answers() == []


async def test_a_second_request_ends_the_session(world: World) -> None:
    link = Link(world.enrolment)
    link.flush()
    state = CredentialState(wire.REQUESTED, 1, make_csr(), token=world.token)
    link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    assert link.endings() == [errors.PROTOCOL]
    assert world.enrolment.answered == 1


async def test_a_store_that_fails_refuses_nobody_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> bool:
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(world.claims, "answer", refuse)
        link = Link(world.enrolment)
        link.flush()
        state = CredentialState(wire.REQUESTED, 1, make_csr(), token=world.token)
        link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
        await world.quiet()
        assert (link.answers(), link.endings()) == ([], [errors.STORE_UNAVAILABLE])
    assert (await world.ask(make_csr())).action == wire.INSTALL


async def test_links_are_bounded_and_have_a_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    links = [Link(world.enrolment) for _ in range(MAX_LINKS + 3)]
    # The oldest go, and nobody is kept out by who holds all of them.
    assert [link.is_closed for link in links] == [True] * 3 + [False] * MAX_LINKS
    async with asyncio.timeout(30):
        while not all(link.is_closed for link in links):
            await asyncio.sleep(0.01)
    assert not world.enrolment._links
