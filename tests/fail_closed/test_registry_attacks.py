"""Rates, revocations and the audit log under attack, over real links."""

import asyncio
import contextlib
import datetime
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fail_closed.guest import Guest, bundle_of, hello_of, make_fleet
from fail_closed.test_policy_attacks import readings
from fleetnet import errors
from fleetnet.errors import FleetError
from fleetnet.frame import READINGS
from fleetnet.limits import MAX_STREAM, WINDOW
from fleetnet_server.app import Backend
from fleetnet_server.identity import pki, rollover
from fleetnet_server.identity.crl import Revoked, make_crl
from fleetnet_server.identity.names import device_uri
from fleetnet_server.identity.pki import Credential
from fleetnet_server.store.sqlite import SqliteStore


def theirs(ca: Credential, name: str, serial: int) -> Credential:
    """A device's certificate of a CA that counts from 1."""
    made = pki.issue_device(ca, name)
    found = x509.load_der_x509_certificate(made.certificate)
    signer = serialization.load_der_private_key(ca.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    uri = x509.UniformResourceIdentifier(device_uri(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(found.subject)
        .issuer_name(found.issuer)
        .public_key(found.public_key())
        .serial_number(serial)
        .not_valid_before(found.not_valid_before_utc)
        .not_valid_after(found.not_valid_after_utc - datetime.timedelta(seconds=1))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return made._replace(certificate=certificate.public_bytes(serialization.Encoding.DER))


async def answer(backend: Backend, pair: Credential) -> list[int]:
    """Come with a pair; return how it was ended, [] for an open session."""
    async with Guest(backend, pair) as guest:
        await guest.until_answered()
        return guest.endings()


async def test_two_cas_that_count_from_one(tmp_path: Path) -> None:
    """Each device is revoked by itself, whatever numbers its CA gives."""
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-4")
    with SqliteStore(settings.store_path(folder)) as store:
        for name in ("cam-1", "cam-2", "cam-3"):
            store.add_device(name)
    cas = [pki.create_ca(name) for name in ("theirs", "others")]
    for ca in cas:
        rollover.accept(folder, ca, ca)
    pairs = [theirs(ca, name, 1) for ca, name in zip(cas, ("cam-1", "cam-2"), strict=True)]
    async with Backend(folder, settings) as backend:
        for pair in pairs:
            assert await answer(backend, pair) == []
        await until_row(backend, "foreign-certificate", 2)
        revoke = backend.store.registry.revoke
        for name, pair in zip(("cam-1", "cam-2"), pairs, strict=True):
            await asyncio.to_thread(revoke, name)
            assert await answer(backend, pair) == [errors.REVOKED]
        # The same number again, of a CA that revokes by its own list.
        third = theirs(cas[0], "cam-3", 1)
        assert await answer(backend, third) == []
        (folder / "ca" / "crls").mkdir()
        lists = make_crl(cas[0], [Revoked(1, 1_700_000_000_000)], None)
        async with Guest(backend, third) as guest:
            await guest.until_answered()
            (folder / "ca" / "crls" / "theirs.der").write_bytes(lists)
            await guest.until(lambda: guest.endings() == [errors.REVOKED], "told of the list")
        assert await answer(backend, third) == [errors.REVOKED]
        assert await answer(backend, bundle_of(folder, "cam-4")) == []


async def until_row(backend: Backend, action: str, count: int = 1) -> list[tuple[str, str]]:
    """Wait for rows of the audit log; return (device, detail)."""
    rows: list[tuple[str, str]] = []
    async with asyncio.timeout(30):
        while len(rows) < count:
            await asyncio.sleep(0.02)
            rows = backend.store.read(
                "SELECT device, detail FROM audit WHERE action = ? ORDER BY id", (action,)
            )
    return rows


async def test_to_connect_again_is_no_way_round_the_rate(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-1")
    (folder / "policy.toml").write_text("[group.default]\nmax_rate = 2\n")
    begun = time.monotonic()
    async with Backend(folder, settings) as backend:
        for _ in range(10):
            async with Guest(backend, bundle_of(folder, "cam-1")) as guest:
                await guest.until_answered()
                for stream in range(1, MAX_STREAM + 1):
                    guest.say(stream, READINGS, readings("temp", "1"))
                await asyncio.sleep(0.05)
        assert backend.router.received > 0
        # What a session may have under way when it opens, and what the bucket gave since.
        assert backend.router.received <= 2 * MAX_STREAM + 2 * (time.monotonic() - begun)


async def test_who_does_not_obey_its_windows_is_sent_away(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-1")
    (folder / "policy.toml").write_text("[group.default]\nmax_rate = 2\n")
    most = MAX_STREAM * WINDOW
    async with Backend(folder, settings) as backend:
        epoch = b"same-run"
        for _ in range(3):
            async with Guest(backend, bundle_of(folder, "cam-1"), epoch=epoch) as guest:
                await guest.until_answered()
                await guest.be_deaf()
                await force(guest, backend, most + 200)
        assert most <= backend.router.received <= most + 50
        seqs = backend.store.read("SELECT seq FROM messages WHERE stream = 1 ORDER BY seq")
        # No hole: what was not taken was not acknowledged, and would be sent again.
        assert [seq for (seq,) in seqs] == list(range(1, len(seqs) + 1))
        (row, *_) = await until_row(backend, "policy-denied")
        assert row[0] == "cam-1" and "rate" in row[1]


async def force(guest: Guest, backend: Backend, count: int) -> None:
    """Send ``count`` messages with what is stored as the only brake."""
    first = 1 + backend.router.received
    with contextlib.suppress(FleetError):
        for seq in range(first, first + count):
            guest.force(1, seq, READINGS, readings("temp", str(seq)))
            if (seq - first) % 40 == 39:
                await guest.stream.drain()
                async with asyncio.timeout(30):
                    while backend.router.stored < seq and backend.session_count:
                        await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [1500])
async def test_a_flood_of_strangers_hides_nothing(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-1")
    async with Backend(folder, settings) as backend:
        together = asyncio.Semaphore(50)

        async def knock(number: int) -> None:
            async with together:
                with contextlib.suppress(FleetError):
                    async with Guest(backend, psk=(f"cam-{number}.1", b"k" * 16)):
                        pass

        await asyncio.gather(*map(knock, range(count)))
        for kind in range(1100):  # whatever else an attacker finds to vary
            backend.audit.note_repeated("192.0.2.1", "handshake-refused", None, {"kind": kind})
        async with contextlib.AsyncExitStack() as links:
            for boot in (11, 22, 11):
                pair = bundle_of(folder, "cam-1")
                guest = await links.enter_async_context(
                    Guest(backend, pair, hello=hello_of(boot=boot))
                )
                await guest.until_answered()
            assert [row[0] for row in await until_row(backend, "duplicate-identity")] == ["cam-1"]
        rows = await until_row(backend, "handshake-refused")
        assert len(rows) < 300
