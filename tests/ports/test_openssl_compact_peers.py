"""Compact sessions with clients that others wrote: OpenSSL, GnuTLS, mbedTLS in MicroPython.

Each comes through a relay that loses the server's last flight, and copies what is encrypted.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.programs import Program, every_runtime, openssl, running
from fleetnet.errors import FleetError
from fleetnet.ports import openssl_compact
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_dtls_wire import HANDSHAKE, sealed
from fleetnet.streams import open_dtls
from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter
from pki import Pki, key_pem
from ports.dtls_relay import Relay, relay
from ports.peers import run_client, write_files
from ports.test_openssl_peers import GNUTLS, HOST, KEY, SURFACE, Server, command, serving, until

ECDSA = "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"
PLAIN = "TLS-PSK-WITH-AES-128-GCM-SHA256"


class LosesLastFlight:
    """Loses the datagram with the server's Finished, ``times`` times; doubles the client's.

    Not the server's: s_client waits for ever in SSL_read for what comes behind a replay.
    """

    def __init__(self, times: int = 1):
        self.left = times
        self.flights: list[bytes] = []

    def __call__(self, from_client: bool, datagram: bytes) -> list[bytes]:
        records = sealed(datagram)
        if not from_client and any(record[0] == HANDSHAKE for record in records):
            self.flights.append(datagram)
            if self.left:
                self.left -= 1
                return []
        return [datagram, datagram] if from_client and records else [datagram]


def check(server: Server, rule: LosesLastFlight, way: Relay) -> None:
    """The session is compact, one was enough, and no nonce was used for two texts."""
    listener = server.listener
    assert listener.acceptor.handshakes == 1
    assert len(rule.flights) >= 2 and len(set(rule.flights)) == 1, "the very same bytes"
    under: dict[bytes, set[bytes]] = {}
    for from_client, datagram in way.carried:
        for record in [] if from_client else sealed(datagram):
            under.setdefault(record[13:21], set()).add(record)
    assert len(under) >= 2 and all(len(records) == 1 for records in under.values())


@contextmanager
def mutual_files(pki: Pki, folder: Path) -> Iterator[list[str]]:
    """Options of s_client for the device's certificate."""
    (folder / "ca.pem").write_bytes(to_pem(pki.ca.certificate))
    (folder / "cert.pem").write_bytes(to_pem(pki.device.certificate))
    (folder / "key.pem").write_bytes(key_pem(pki.device.key))
    files = {"-CAfile": "ca.pem", "-cert": "cert.pem", "-key": "key.pem"}
    yield [part for name, file in files.items() for part in (name, str(folder / file))]


def mutual(pki: Pki) -> Context:
    return server_context(*pki.server, pki.ca.certificate, datagram=True)


async def hear(program: Program, server: Server, line: str) -> None:
    program.say(line + "\n")
    await until(program, f"echo {line}")


def is_compact(server: Server) -> bool:
    [association] = server.listener.acceptor.associations.values()
    return isinstance(association.ssl, Session)


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-GCM-SHA384"])
async def test_openssl_loses_our_last_flight(pki: Pki, tmp_path: Path, suite: str) -> None:
    rule = LosesLastFlight()
    with mutual_files(pki, tmp_path) as files:
        async with serving(mutual(pki)) as server:
            with relay(server.listener.port, rule) as way:
                where = ["s_client", "-connect", f"{HOST}:{way.port}", "-dtls1_2"]
                with running(
                    [openssl(), *where, "-cipher", f"ECDHE-ECDSA-{suite}", *files]
                ) as program:
                    await until(program, "Cipher    : [^0]")
                    assert is_compact(server)
                    await hear(program, server, "hello")
                    await hear(program, server, "again")
                    program.say("Q\n")
                    assert await asyncio.to_thread(program.finish) == 0
                check(server, rule, way)
            assert [line for line, _, _ in server.seen] == [b"hello\n", b"again\n"]


async def test_openssl_wants_to_renegotiate(pki: Pki, tmp_path: Path) -> None:
    """It hears no_renegotiation, which OpenSSL's client takes for the end."""
    with mutual_files(pki, tmp_path) as files:
        async with serving(mutual(pki)) as server:
            where = ["s_client", "-connect", f"{HOST}:{server.listener.port}", "-dtls1_2"]
            with running([openssl(), *where, *files]) as program:
                await until(program, "Cipher    : [^0]")
                await asyncio.sleep(openssl_compact.REPEAT_PAUSE_S)
                program.say("R\n")
                await until(program, "no renegotiation|RENEGOTIATING")
                await asyncio.to_thread(program.finish)
            assert not server.seen


async def test_gnutls_loses_our_last_flight() -> None:
    rule = LosesLastFlight()
    async with serving(server_context(psk={"cam-1": KEY}, datagram=True)) as server:
        with relay(server.listener.port, rule) as way:
            client = [command("gnutls-cli"), "--udp", "--pskusername", "cam-1"]
            client += ["--priority", GNUTLS + "DTLS1.2", "--pskkey", KEY.hex()]
            with running([*client, "--port", str(way.port), HOST]) as program:
                await until(program, "Handshake was completed")
                assert is_compact(server)
                await hear(program, server, "hello")
            check(server, rule, way)
        assert server.seen == [(b"hello\n", b"cam-1", (PLAIN, "DTLSv1.2"))]


@every_runtime
async def test_a_device_loses_our_last_flight(
    pki: Pki, tmp_path: Path, runtime: Interpreter | None
) -> None:
    rule = LosesLastFlight()
    async with serving(mutual(pki)) as server:
        with relay(server.listener.port, rule) as way:
            options = write_files(tmp_path, pki.ca, pki.device)
            answer = await asyncio.to_thread(
                run_client, runtime, "say_dtls", program=SURFACE, port=way.port, **options
            )
            assert answer["result"]["line"] == "echo hello\n"
            assert answer["result"]["cipher"] == [ECDSA, "DTLSv1.2"]
            check(server, rule, way)
        assert server.seen == [(b"hello\n", None, (ECDSA, "DTLSv1.2"))]


async def test_without_the_flight_nobody_gets_in(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known bad: a server that has forgotten its last flight."""
    answer = Session.answer

    def forgetful(session: Session, kind: int, text: bytes, now: float) -> bytes | None:
        session._flight = b""
        return answer(session, kind, text, now)

    monkeypatch.setattr(Session, "answer", forgetful)
    rule = LosesLastFlight()
    async with serving(mutual(pki)) as server:
        with relay(server.listener.port, rule) as way:
            context = client_context(pki.ca.certificate, *pki.device, datagram=True)
            with pytest.raises(FleetError):
                await open_dtls(HOST, way.port, context, "localhost", timeout_ms=2500)
        assert len(rule.flights) == 1
