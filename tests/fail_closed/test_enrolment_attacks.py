"""What somebody without, or with a stolen, claim token does to the port for enrolment."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from fleetnet import credential as wire
from fleetnet import errors
from fleetnet.credential import CredentialState
from fleetnet.frame import CREDENTIAL_STATE
from fleetnet_server.core.enrolment import MAX_LINKS, WRONG_TOKENS
from fleetnet_server.store.claims import make_token
from server.core.test_enrolment import FOREVER_MS, Link, World, make_csr


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet")
    yield made
    await made.enrolment.stop()
    assert not made.enrolment._links
    made.store.close()


def serials(world: World) -> list[tuple[str, bool]]:
    """Every certificate of the device, and whether it is revoked."""
    rows = world.store.read("SELECT serial, revoked_ms FROM certificates")
    return [(serial, revoked_ms is not None) for serial, revoked_ms in rows]


def serial_of(certificate: bytes) -> str:
    return f"{x509.load_der_x509_certificate(certificate).serial_number:x}"


async def test_who_holds_every_link_keeps_nobody_out(world: World) -> None:
    held = [Link(world.enrolment, f"2001:db8::{number:x}") for number in range(3 * MAX_LINKS)]
    for link in held:
        link.flush()
    assert len(world.enrolment._links) == MAX_LINKS
    # A slow board, while the attacker goes on.
    good = Link(world.enrolment, "192.0.2.7")
    good.flush()
    held += [Link(world.enrolment, f"2001:db8::{number:x}") for number in range(2 * MAX_LINKS)]
    state = CredentialState(wire.REQUESTED, 1, make_csr(), token=world.token)
    good.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    assert [one.action for one in good.answers()] == [wire.INSTALL]
    assert len(world.enrolment._links) <= MAX_LINKS


async def test_a_token_makes_no_certificates_without_end(world: World) -> None:
    csr = make_csr()
    answers = [await world.ask(csr, address=f"192.0.2.{host}") for host in range(1, 40)]
    assert len(serials(world)) == WRONG_TOKENS
    assert [one.action for one in answers[:WRONG_TOKENS]] == [wire.INSTALL] * WRONG_TOKENS
    assert {one.reason for one in answers[WRONG_TOKENS:]} == {"asked too often: wait a minute"}


async def test_a_token_that_is_over_fills_no_log(world: World) -> None:
    await world.ask(make_csr())
    for host in range(1, 40):
        answer = await world.ask(make_csr(), address=f"192.0.2.{host}")
        assert answer.action == wire.REFUSED
    assert len(world.notes) <= 1 + WRONG_TOKENS


async def test_who_goes_on_with_wrong_tokens_fills_no_log(world: World) -> None:
    links = [Link(world.enrolment) for _ in range(40)]
    for link in links:
        link.flush()
    for link in links:
        state = CredentialState(wire.REQUESTED, 1, make_csr(), token=make_token())
        link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    assert {one.action for link in links for one in link.answers()} == {wire.REFUSED}
    assert len(world.notes) == WRONG_TOKENS


async def test_one_token_is_one_device_where_the_server_makes_the_key(world: World) -> None:
    first, second = await asyncio.gather(world.ask(b""), world.ask(b""))
    assert first.key and second.key and first.key != second.key
    assert sorted(revoked for _, revoked in serials(world)) == [False, True]


async def test_two_keys_at_once_are_one(world: World) -> None:
    answers = await asyncio.gather(*(world.ask(make_csr()) for _ in range(WRONG_TOKENS)))
    assert sorted(one.action for one in answers) == [wire.INSTALL] + [wire.REFUSED] * 4
    (good,) = (one for one in answers if one.action == wire.INSTALL)
    assert serials(world) == [(serial_of(good.certificate), False)]


@pytest.mark.parametrize("case", ["disabled", "removed", "another claim"])
async def test_a_change_while_the_answer_is_made(case: str, world: World) -> None:
    """Between the look at the claim and the commit."""
    claim = world.claims.find(world.token)
    wanted = world.source.current()
    assert claim is not None and wanted is not None
    if case == "disabled":
        world.store.registry.set_enabled("cam-1", False)
    elif case == "removed":
        world.store.registry.remove("cam-1")
    else:
        # Even one that ends in the same millisecond.
        world.claims.open(world.device.id, make_token(), FOREVER_MS, "test")
    issued = wanted.sign(make_csr(), "cam-1")
    assert not world.claims.answer(claim, "a" * 64, 1, wanted, issued)
    assert not serials(world)


def odd_request(case: str) -> bytes:
    keys = {
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "RSA 1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505
        "RSA with 3": lambda: rsa.generate_private_key(3, 2048),
        "DSA": lambda: dsa.generate_private_key(2048),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    if case in keys:
        key = keys[case]()
        algorithm = None if case == "Ed25519" else hashes.SHA256()
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)
    key = ec.generate_private_key(ec.SECP256R1())
    good = make_csr(key)
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    other = {
        "a point off the curve": point[:-1] + bytes([point[-1] ^ 1]),
        "no point": b"\4" + bytes(64),
        "somebody else's key": ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
    }[case]
    return good.replace(point, other)


@pytest.mark.parametrize(
    "case",
    [
        "P-521", "secp256k1", "RSA 1024", "RSA with 3", "DSA", "Ed25519",
        "a point off the curve", "no point", "somebody else's key",
    ],
)  # fmt: skip
async def test_odd_keys(case: str, world: World) -> None:
    answer = await world.ask(odd_request(case))
    assert (answer.action, answer.certificate) == (wire.REFUSED, b"")
    assert answer.reason
    assert not serials(world)
    # The claim is still there for the right one.
    assert (await world.ask(make_csr())).action == wire.INSTALL


async def test_a_request_of_more_than_2_kb_ends_the_session(world: World) -> None:
    long = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x" * 64)] * 40)
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(long)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    assert len(csr) > wire.MAX_CSR
    link = Link(world.enrolment)
    link.flush()
    state = CredentialState(wire.REQUESTED, 1, csr, token=world.token)
    link.say(CREDENTIAL_STATE, wire.encode_credential_state(state))
    await world.quiet()
    assert link.endings() == [errors.LIMIT]
    assert not serials(world)
