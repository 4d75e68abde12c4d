"""Handshakes that are none, or that stop: no state is left, no stack trace is written."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from OpenSSL import SSL

from fail_closed.hostile import HOST, nothing_is_left
from fail_closed.rig import backend, run_device, write_bundle
from fleetnet.ports.openssl_context import client_context
from pki import Pki


def record(kind: int, body: bytes, version: int = 0x0301) -> bytes:
    """Lay out a TLS record (RFC 8446 section 5.1)."""
    return bytes([kind]) + version.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def hello(body: bytes, length: int | None = None) -> bytes:
    """Lay out a ClientHello; ``length``: what it claims."""
    count = len(body) if length is None else length
    return record(22, b"\x01" + count.to_bytes(3, "big") + body)


RANDOM = bytes(range(32))
SUITES = b"\x00\x04\xc0\x2b\x13\x01"
GOOD_START = b"\x03\x03" + RANDOM + b"\x00"
MALFORMED = {
    "nothing": b"",
    "one byte": b"\x16",
    "zero bytes": bytes(600),
    "all ones": b"\xff" * 600,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "ssl 2": b"\x80\x2e\x01\x03\x01" + bytes(43),
    "oversize record": b"\x16\x03\x01\xff\xff" + bytes(2000),
    "empty record": record(22, b"") * 40,
    "record of a wrong version": record(22, b"\x01\x00\x00\x00", 0x0999),
    "alert first": record(21, b"\x02\x28"),
    "warnings for ever": record(21, b"\x01\x5a") * 200,
    "data first": record(23, b"secret" * 9),
    "change cipher spec first": record(20, b"\x01"),
    "heartbeat": record(24, b"\x01\x40\x00"),
    "finished first": record(22, b"\x14\x00\x00\x0c" + bytes(12)),
    "hello of 16 MB": record(22, b"\x01\xff\xff\xff" + bytes(300)),
    "hello cut short": hello(GOOD_START, 500),
    "hello without suites": hello(GOOD_START + b"\x00\x00\x01\x00"),
    "suites of odd length": hello(GOOD_START + b"\x00\x03\xc0\x2b\x13\x01\x00"),
    "suites beyond the end": hello(GOOD_START + b"\xff\xfe\xc0\x2b"),
    "session id of 255": hello(b"\x03\x03" + RANDOM + b"\xff" + bytes(40)),
    "compression only": hello(GOOD_START + SUITES + b"\x01\x01"),
    "extensions beyond the end": hello(GOOD_START + SUITES + b"\x01\x00\xff\xff\x00\x0a"),
    "extension twice": hello(GOOD_START + SUITES + b"\x01\x00\x00\x08" + 2 * b"\x00\x17\x00\x00"),
    "unknown suites only": hello(GOOD_START + b"\x00\x02\xee\xee\x01\x00"),
    "null cipher": hello(GOOD_START + b"\x00\x02\x00\x01\x01\x00"),
    "trailing bytes": hello(GOOD_START + SUITES + b"\x01\x00" + bytes(30)),
}


def as_datagram(data: bytes) -> bytes:
    """Turn the records of a stream into DTLS ones: epoch and number after the version."""
    out, at = b"", 0
    while at + 5 <= len(data):
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        body = data[at + 5 : at + 5 + size]
        if data[at] == 22 and len(body) >= 4:
            # message number, fragment offset, fragment length
            body = body[:4] + bytes(2) + bytes(3) + body[1:4] + body[4:]
        out += data[at : at + 1] + b"\xfe\xfd" + bytes(8) + len(body).to_bytes(2, "big") + body
        at += 5 + size
    return out or data


@pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])
async def test_malformed_handshakes_leave_nothing_behind(
    datagram: bool, pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, byte by byte and cut at every eighth byte; then a good device comes in."""
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with backend(pki, tmp_path / "fleet", "tls1.3") as running:
        number = running.dtls_port if datagram else running.tls_port
        for data in MALFORMED.values():
            await asyncio.to_thread(pester, datagram, number, data)
        await nothing_is_left(running)
        assert not running.dtls.acceptor.associations
        assert not running.sessions.live
        running.store.add_device("press-7")
        link = "dtls" if datagram else "tls"
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        assert [line[0] for line in await run_device(None, bundle, 1)] == ["acknowledged"]
    assert faults == []
    assert "Traceback" not in caplog.text


def pester(datagram: bool, number: int, data: bytes) -> None:
    """Send the bytes in several ways, and leave without a word."""
    if datagram:
        whole = as_datagram(data)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for piece in (whole, *(whole[:at] for at in range(0, min(len(whole), 400), 8))):
                sock.sendto(piece[:1400], (HOST, number))
        return
    for pieces in ([data], [data[at : at + 1] for at in range(min(len(data), 80))]):
        with socket.create_connection((HOST, number), 5) as sock, contextlib.suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
    for at in range(1, min(len(data), 400), 8):
        with socket.create_connection((HOST, number), 5) as sock, contextlib.suppress(OSError):
            sock.sendall(data[:at])


async def test_a_handshake_given_up_at_every_flight_leaves_nothing(
    pki: Pki, tmp_path: Path
) -> None:
    """A client with a good certificate that stops after each of its flights."""
    async with backend(pki, tmp_path / "fleet", "tls1.3") as running:
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for flights in range(1, 4):
                await asyncio.to_thread(give_up, pki, running.tls_port, version, flights)
        await nothing_is_left(running)
        assert not running.sessions.live


def give_up(pki: Pki, number: int, version: int, flights: int) -> None:
    context = client_context(pki.ca.certificate, *pki.device)
    context.limit_version(version)
    connection = SSL.Connection(context.native, None)
    connection.set_connect_state()
    with socket.create_connection((HOST, number), 5) as sock, contextlib.suppress(OSError):
        sock.settimeout(10)
        for _ in range(flights):
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                sock.sendall(connection.bio_read(16384))
            connection.bio_write(sock.recv(16384))
