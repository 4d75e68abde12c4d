"""Certificates change under a running back-end: new connections get the new ones, the others
go on; files that cannot be used change nothing."""

import asyncio
import base64
import json
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fleetnet.errors import UNKNOWN_DEVICE, FleetError
from fleetnet.events import Refused
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity import pki
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.generations import (
    read_ledger,
    write_generation,
    write_ledger,
)
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.upkeep import renew_if_due, say

HOST = "localhost"
YEAR_MS = 365 * 86_400_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "fleet"
    create_fleet(folder, (HOST,))
    return folder


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "fleet")


@pytest.fixture
async def backend(fleet: Path) -> AsyncIterator[Backend]:
    async with Backend(fleet, settings()) as running:
        yield running


def settings(**changes: float) -> Settings:
    return Settings(bind="127.0.0.1", tls_port=0, dtls_port=0, **changes)  # type: ignore[arg-type]


async def until(is_true: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.02)


async def connect(running: Backend, fleet: Path, anchor: bytes | None = None) -> list[int]:
    """Connect over TLS and DTLS with a device's certificate; return the serials seen."""
    authority = Authority.load(fleet)
    device = authority.issue_device("cam-1")
    trust = anchor or authority.bundle_anchor
    context = port.client_context(trust, device.certificate, device.key)
    stream = await port.open_stream("127.0.0.1", running.tls_port, context, HOST)
    context = port.client_context(trust, device.certificate, device.key, datagram=True)
    datagrams = await port.open_datagram("127.0.0.1", running.dtls_port, context, HOST)
    seen = [_serial(link.peer_certificate()) for link in (stream, datagrams)]
    stream.close()
    datagrams.close()
    return seen


def _serial(certificate: bytes | None) -> int:
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_new_files_are_noticed_and_new_connections_get_them(
    backend: Backend, fleet: Path
) -> None:
    keys = ServerKeys(fleet)
    assert await connect(backend, fleet) == [keys.serial] * 2
    for change_key in (False, True):
        keys = keys.renew(Authority.load(fleet), change_key=change_key)
        await until(lambda: backend.listeners.serial == keys.serial, "the new certificate")
        assert await connect(backend, fleet) == [keys.serial] * 2


async def test_what_lives_goes_on(backend: Backend, fleet: Path) -> None:
    """A session, and a connection that has not begun its handshake, keep what they began with."""
    authority, before = Authority.load(fleet), ServerKeys(fleet)
    device = authority.issue_device("cam-1")
    context = port.client_context(authority.bundle_anchor, device.certificate, device.key)
    stream = await port.open_stream("127.0.0.1", backend.tls_port, context, HOST)
    await until(lambda: backend.tls.handshakes == 1, "the handshake")
    (connection,) = backend.tls.connections
    _, waiting = await asyncio.open_connection("127.0.0.1", backend.tls_port)
    await until(lambda: backend.tls.half_open == 1, "a second connection")
    after = before.renew(authority, change_key=True)
    assert await backend.reload()
    assert await connect(backend, fleet) == [after.serial] * 2
    assert connection in backend.tls.connections
    await waiting.start_tls(ssl.create_default_context(cadata=authority.bundle_anchor),
                            server_hostname=HOST)  # fmt: skip
    tls: ssl.SSLObject = waiting.get_extra_info("ssl_object")
    assert _serial(tls.getpeercert(True)) == before.serial
    waiting.transport.abort()
    # The device is not registered: it hears so over its old connection.
    session = Session(port.random_bytes)
    session.open_link(port.ticks(), False, Hello())
    for data in session.data_to_send(port.ticks()):
        stream.write(data)
    session.receive_data(await stream.read(1000), port.ticks())
    (refused,) = session.take_events()
    assert isinstance(refused, Refused)
    assert refused.ending.reason == UNKNOWN_DEVICE
    stream.close()


async def test_files_that_cannot_be_used_change_nothing_and_are_logged_once(
    backend: Backend, fleet: Path
) -> None:
    serial = ServerKeys(fleet).serial
    place = fleet / "server"
    good = (place / "key.der").read_bytes()
    for bad, said in (
        (b"rubbish", "key.der cannot be read as a private key"),
        ((place / "next-key.der").read_bytes(), "is not the key of"),
    ):
        with structlog.testing.capture_logs() as lines:
            (place / "key.der").write_bytes(bad)
            await until(lambda: bool(_about(lines, "reloaded")), "a line")
            await asyncio.sleep(0.6)  # two more looks
        (line,) = _about(lines, "reloaded")
        assert line["event"] == "certificates not reloaded, those in force stay"
        assert said in line["reason"]
        assert not await backend.reload()
        assert await connect(backend, fleet) == [serial] * 2
    (place / "key.der").write_bytes(good)
    assert await backend.reload()
    (fleet / "ca" / "authority.json").write_text("{")
    assert not await backend.reload()
    assert await connect_with(backend, fleet, serial)


def _about(
    lines: list[MutableMapping[str, Any]], word: str
) -> list[MutableMapping[str, Any]]:
    return [line for line in lines if word in line["event"]]


async def connect_with(running: Backend, fleet: Path, serial: int) -> bool:
    """Whether a client without a certificate sees this serial (it gets no further)."""
    context = port.client_context(insecure=True)
    stream = await port.open_stream("127.0.0.1", running.tls_port, context, HOST)
    seen = _serial(stream.peer_certificate())
    stream.close()
    return seen == serial


async def test_a_ca_is_noticed_and_the_same_files_are_no_news(
    backend: Backend, fleet: Path
) -> None:
    news: list[bool] = []
    backend.listeners.on_reload = lambda: news.append(True)
    assert await backend.reload()
    (fleet / "server" / "cert.der").touch()
    await asyncio.sleep(0.6)  # two looks
    assert not news
    root = pki.create_root("other")
    write_generation(fleet, root, pki.create_issuing(root, "other issuing"))
    write_ledger(fleet, read_ledger(fleet)._replace(trusted=(2, 1)))
    await until(lambda: bool(news), "other contexts")


async def test_a_ca_comes_and_goes(backend: Backend, fleet: Path) -> None:
    """A device of a new CA comes in from the moment on that the CA counts, and no longer."""
    ledger = read_ledger(fleet)
    root = pki.create_root("other")
    issuing = pki.create_issuing(root, "other issuing")
    write_generation(fleet, root, issuing)
    device = pki.issue_device(issuing, "cam-1")
    anchor = Authority.load(fleet).bundle_anchor

    async def comes_in() -> bool:
        context = port.client_context(anchor, device.certificate, device.key, datagram=True)
        try:
            datagrams = await port.open_datagram("127.0.0.1", backend.dtls_port, context, HOST)
        except FleetError:
            return False
        datagrams.close()
        return True

    assert not await comes_in()
    write_ledger(fleet, ledger._replace(trusted=(2, 1)))
    assert await backend.reload()
    assert await comes_in()
    write_ledger(fleet, ledger)
    assert await backend.reload()
    assert not await comes_in()


async def test_the_server_renews_its_own_certificate(fleet: Path) -> None:
    before = ServerKeys(fleet).renew(Authority.load(fleet), lifetime=timedelta(seconds=5))
    with structlog.testing.capture_logs() as lines:
        async with Backend(fleet, settings(server_lifetime_s=3600)) as backend:
            assert backend.listeners.serial == before.serial
            await until(lambda: backend.listeners.serial != before.serial, "a new certificate")
            after = ServerKeys(fleet)
            assert await connect(backend, fleet) == [after.serial] * 2
            server = next(one for one in backend.expiries() if one.kind == "server")
            assert (server.not_after_ms, server.level) == (after.not_after_ms, "ok")
    assert (after.key, after.pins(), after.hosts) == (before.key, before.pins(), before.hosts)
    assert after.not_after_ms - before.not_after_ms > 3_500_000
    said = [line["event"] for line in lines]
    assert said.count("server certificate renewed") == 1
    with SqliteStore(settings().store_path(fleet)) as store:
        rows = store.read("SELECT actor, action, detail FROM audit ORDER BY id")
    said = [(actor, action, json.loads(detail)["serial"]) for actor, action, detail in rows]
    # In any order: who looks at the files may see them before they are reported as renewed.
    assert sorted(said) == [
        ("server", "certificates-reloaded", f"{after.serial:x}"),
        ("server", "server-certificate-renewed", f"{after.serial:x}"),
    ]


async def test_a_certificate_that_ended_while_the_server_was_off_is_renewed_first(
    fleet: Path,
) -> None:
    """Before the first device can meet it."""
    keys, authority = ServerKeys(fleet), Authority.load(fleet)
    leaf = x509.load_der_x509_certificate(keys.cert)
    begin = leaf.not_valid_before_utc - timedelta(days=900)
    builder = x509.CertificateBuilder(
        leaf.issuer, leaf.subject, leaf.public_key(), leaf.serial_number,  # type: ignore[arg-type]
        begin, begin + timedelta(days=825), list(leaf.extensions),
    )  # fmt: skip
    signer = serialization.load_der_private_key(authority.generations[1].issuing.key, None)
    ended = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    der = ended.public_bytes(serialization.Encoding.DER)
    (fleet / "server" / "cert.der").write_bytes(der)
    (fleet / "server" / "chain.pem").write_bytes(authority.server_chain(der))
    assert ServerKeys(fleet).not_after_ms < time.time() * 1000
    async with Backend(fleet, settings()) as backend:
        serials = await connect(backend, fleet)
        assert serials == [ServerKeys(fleet).serial] * 2 != [keys.serial] * 2


def test_when_a_renewal_is_due_and_when_it_is_not_ours(fleet: Path) -> None:
    keys, year = ServerKeys(fleet), timedelta(days=365)
    now_ms = keys.not_before_ms
    third = (keys.not_after_ms - keys.not_before_ms) // 3
    early = renew_if_due(fleet, year, now_ms)
    assert (early.keys, early.problem) == (None, "")
    assert abs(early.wait_s * 1000 - 2 * third) < 1000
    assert renew_if_due(fleet, year, keys.not_after_ms - third - 1).keys is None
    assert renew_if_due(fleet, year, keys.not_after_ms - third + 1).problem == ""
    # It has just been done with a shorter life; now one that ends with its CA, which no
    # renewal would make longer.
    ending = ServerKeys(fleet).renew(Authority.load(fleet), lifetime=timedelta(days=9000))
    assert "ca rotate" in renew_if_due(fleet, year, ending.not_after_ms).problem
    stranger = pki.issue_server(pki.create_ca(), (HOST,), key=ending.key)
    (fleet / "server" / "cert.der").write_bytes(stranger.certificate)
    (fleet / "server" / "chain.pem").write_bytes(pki.to_pem(stranger.certificate))
    done = renew_if_due(fleet, year, stranger.not_after_ms)
    assert done.keys is None
    assert "did not make it" in done.problem


async def test_what_ends_soon_is_said_at_the_start(fleet: Path) -> None:
    with SqliteStore(settings().store_path(fleet)) as store:
        for number in range(12):
            device = store.add_device(f"cam-{number:02}")
            store.add_certificate(device.id, number + 1, 5 + number)
    with structlog.testing.capture_logs() as lines:
        async with Backend(fleet, settings()) as backend:
            assert backend.expiries()[0][:2] == ("device", "cam-00")
            await until(lambda: bool(_about(lines, "end")), "a warning")
    (line,) = _about(lines, "end")
    assert (line["count"], line["expired"], line["log_level"]) == (12, 12, "warning")
    assert line["first"] == [f"cam-{number:02}" for number in range(10)]


def test_the_server_and_each_ca_get_a_line_of_their_own() -> None:
    found = [
        Expiry("server", HOST, 0, "expired"),
        Expiry("ca", "root 1", 1000, "urgent"),
        Expiry("ca", "root 2", 2000, "ok"),
        Expiry("device", "cam-1", 3000, "ok"),
    ]
    with structlog.testing.capture_logs() as lines:
        say(found)
    assert [(line["kind"], line["name"], line["level"], line["until"]) for line in lines] == [
        ("server", HOST, "expired", "1970-01-01T00:00:00Z"),
        ("ca", "root 1", "urgent", "1970-01-01T00:00:01Z"),
    ]


async def test_a_start_completes_a_change_that_a_power_cut_ended(fleet: Path) -> None:
    keys = ServerKeys(fleet)
    place = fleet / "server"
    old = {name: (place / name).read_bytes() for name in ("cert.der", "chain.pem")}
    new = keys.renew(Authority.load(fleet))
    names = {"cert.der": new.cert, "key.der": new.key, "chain.pem": new.chain}
    pending = {**names, "next-key.der": new.next_key}
    text = json.dumps({name: base64.b64encode(data).decode() for name, data in pending.items()})
    (place / "pending.json").write_text(text)
    (place / "cert.der").write_bytes(old["cert.der"])
    (place / "chain.pem").write_bytes(old["chain.pem"])
    async with Backend(fleet, settings()) as backend:
        assert backend.listeners.serial == new.serial
    assert not (place / "pending.json").exists()
    assert (place / "cert.der").read_bytes() == new.cert


async def test_what_needs_a_restart_is_said_until_there_was_one(
    backend: Backend, fleet: Path
) -> None:
    (fleet / "fleetnet.toml").write_text("tls_port = 7\nmax_sessions = 11\n")
    for _time in range(2):
        assert not await backend.reload()
        assert backend.sessions.gate.max_sessions == 11
    (fleet / "fleetnet.toml").write_text("max_sessions = 12\n")
    assert await backend.reload()


async def test_a_setting_says_whether_dtls_sessions_are_compact(fleet: Path) -> None:
    for compact in (True, False):
        async with Backend(fleet, settings(compact_dtls=compact)) as backend:
            assert backend.dtls.acceptor._compact is compact
