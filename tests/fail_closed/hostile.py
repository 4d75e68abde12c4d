"""Servers that nobody should talk to, and certificates that nobody should take.

What tests/pki.py lacks: chains that a leaf signed, CA certificates in the place of leaves, and
servers that speak no acceptable TLS at all. Each server counts what reaches it.
"""

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from fleetnet_server.app import Backend
from fleetnet_server.identity.names import device_uri
from fleetnet_server.identity.pki import Credential

HOST = "127.0.0.1"
_DAY = datetime.timedelta(days=1)
_TLS_1_1 = 0x0302
_DTLS_1_0 = 0xFEFF


def leaf_of(
    issuer: Credential,
    names: Iterable[x509.GeneralName],
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    is_ca: bool = False,
) -> Credential:
    """Sign a certificate with anything's key: a CA's, or a device's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    parent = x509.load_der_x509_certificate(issuer.certificate)
    signer = serialization.load_der_private_key(issuer.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "press-7")]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Credential(
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def device_leaf(issuer: Credential, *names: str, is_ca: bool = False) -> Credential:
    """Sign a certificate that names devices, as `fleetnet device add` would not."""
    uris = [x509.UniformResourceIdentifier(device_uri(name)) for name in names]
    return leaf_of(issuer, uris, is_ca=is_ca)


def server_leaf(issuer: Credential) -> Credential:
    """Sign a certificate for localhost with a key that may sign none."""
    names = [x509.DNSName("localhost"), x509.DNSName(HOST)]
    return leaf_of(issuer, names, ExtendedKeyUsageOID.SERVER_AUTH)


class Wire:
    """What arrived at a server that does no TLS."""

    def __init__(self) -> None:
        self.received = b""

    @property
    def application_records(self) -> int:
        """Count TLS records of type 23 at the places where records begin."""
        at = count = 0
        while at + 5 <= len(self.received):
            count += self.received[at] == 23
            at += 5 + int.from_bytes(self.received[at + 3 : at + 5], "big")
        return count


@contextlib.asynccontextmanager
async def plain_server(datagram: bool, answer: bytes) -> AsyncIterator[tuple[int, Wire]]:
    """A server that answers everything with ``answer``, in the clear."""
    wire = Wire()
    loop = asyncio.get_running_loop()
    if datagram:

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                wire.received += data
                self.transport.sendto(answer, address)  # type: ignore[attr-defined]

        transport, _ = await loop.create_datagram_endpoint(Udp, local_addr=(HOST, 0))
        try:
            yield transport.get_extra_info("sockname")[1], wire
        finally:
            transport.close()
        return

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            wire.received += await reader.read(4096)
            writer.write(answer)
            await writer.drain()
            while data := await reader.read(4096):
                wire.received += data
        writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], wire
    finally:
        server.close()


@contextlib.asynccontextmanager
async def old_server(datagram: bool, server: Credential) -> AsyncIterator[tuple[int, Wire]]:
    """A server with a good certificate that knows (D)TLS 1.0 and TLS 1.1 only."""
    context = _old_context(datagram, server)
    wire = Wire()
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    with socket.socket(type=kind) as listener:
        listener.bind((HOST, 0))
        listener.settimeout(0.1)
        if not datagram:
            listener.listen()
        stopping = asyncio.Event()
        task = asyncio.create_task(
            asyncio.to_thread(_serve_old, listener, datagram, context, wire, stopping)
        )
        try:
            yield listener.getsockname()[1], wire
        finally:
            stopping.set()
            await task


def _old_context(datagram: bool, credential: Credential) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD if datagram else SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(0)
    context.set_max_proto_version(_DTLS_1_0 if datagram else _TLS_1_1)
    certificate = x509.load_der_x509_certificate(credential.certificate)
    context.use_certificate(certificate)
    key = serialization.load_der_private_key(credential.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    context.use_privatekey(key)
    return context


def _serve_old(
    listener: socket.socket,
    datagram: bool,
    context: SSL.Context,
    wire: Wire,
    stopping: asyncio.Event,
) -> None:
    """Feed each peer's bytes to an OpenSSL object; send back what it says."""
    while not stopping.is_set():
        connection = SSL.Connection(context, None)
        connection.set_accept_state()
        with contextlib.suppress(OSError, SSL.Error):
            if datagram:
                data, address = listener.recvfrom(4096)
                listener.sendto(_answer(connection, wire, data), address)
                continue
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10.0)
                while data := peer.recv(4096):
                    peer.sendall(_answer(connection, wire, data))


def _answer(connection: SSL.Connection, wire: Wire, data: bytes) -> bytes:
    wire.received += data
    connection.bio_write(data)
    with contextlib.suppress(SSL.Error):
        connection.do_handshake()
    return connection.bio_read(16384)


def old_client(datagram: bool, device: Credential, number: int) -> bytes:
    """Come with a good certificate and (D)TLS 1.0 or TLS 1.1; return what the server says.

    A DTLS server answers a first hello with a cookie, which is brought back.
    """
    context = _old_context(datagram, device)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    said = b""
    with socket.socket(type=kind) as sock:
        sock.connect((HOST, number))
        sock.settimeout(30)
        for _ in range(2 if datagram else 1):
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()
            sock.send(connection.bio_read(16384))
            said = sock.recv(4096)
            connection.bio_write(said)
            if said[0] == 21:
                break
    return said


async def nothing_is_left(running: Backend) -> None:
    """Wait until no connection, association or handshake is left; 30 s at most."""
    async with asyncio.timeout(30):
        while running.tls.connections or running.tls.half_open or running.dtls.acceptor.half_open:
            await asyncio.sleep(0.02)
