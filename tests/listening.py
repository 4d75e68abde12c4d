"""The listeners on real sockets with handlers that record or echo."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from fleetnet.errors import FleetError
from fleetnet.ports.cpython import open_datagram, open_stream
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet_server.core.transport import Transport
from fleetnet_server.identity.pki import Credential
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from pki import Pki

HOST = "127.0.0.1"
TRIES = int(os.environ.get("FLEETNET_TRIES", "30"))

# Name in Pki (None: no certificate at all), and the alerts that say what is wrong with it:
# TLS 1.2 and DTLS, TLS 1.3.
REFUSALS = [
    (None, (40, 116)),  # handshake_failure; certificate_required
    ("device_of_other_ca", (48, 48)),  # unknown_ca
    ("device_self_signed", (48, 48)),
    ("device_expired", (45, 45)),  # certificate_expired
    ("device_future", (42, 42)),  # bad_certificate
    ("device_wrong_usage", (43, 43)),  # unsupported_certificate
]


class Handler:
    """What core would be: it echoes, and keeps what happens to it."""

    def __init__(self, transport: Transport, certificate: bytes):
        self.transport = transport
        self.certificate = certificate
        self.received = b""
        self.lost: list[FleetError | None] = []

    def receive_data(self, data: bytes) -> None:
        self.received += data
        if data == b"end":
            self.transport.send(b"goodbye")
            self.transport.close()
        else:
            self.transport.send(b"echo " + data)

    def link_lost(self, error: FleetError | None) -> None:
        self.lost.append(error)


class Server:
    """One listener, its handlers and its refusals."""

    def __init__(self, pki: Pki, kind: str, **options: Any):
        self.handlers: list[Handler] = []
        self.refused: list[tuple[str, Any, FleetError]] = []
        self.kind = kind
        context = server_context(*pki.server, pki.ca.certificate, datagram=kind == "dtls")
        make: Any = DtlsListener if kind == "dtls" else TlsListener
        self.listener = make(context, self._accept, self._refuse, **options)

    def _accept(self, transport: Transport, certificate: bytes) -> Handler:
        self.handlers.append(Handler(transport, certificate))
        return self.handlers[-1]

    def _refuse(self, kind: str, address: Any, error: FleetError) -> None:
        self.refused.append((kind, address, error))

    async def open(self, context: Context) -> Any:
        """Connect a client of this listener's kind."""
        connect: Any = open_datagram if self.kind == "dtls" else open_stream
        return await connect(HOST, self.listener.port, context, timeout_ms=30_000)


@contextlib.asynccontextmanager
async def serving(pki: Pki, kind: str, **options: Any) -> AsyncIterator[Server]:
    """Run a listener of "tls" or "dtls" and close it completely."""
    server = Server(pki, kind, **options)
    await server.listener.start(HOST, 0)
    try:
        yield server
    finally:
        server.listener.close()
        await asyncio.sleep(0.01)


def device(pki: Pki, name: str | None = "device", datagram: bool = False) -> Context:
    """Make the context of a client; ``name`` is that of a credential in Pki."""
    pair = getattr(pki, name) if name else ()
    return client_context(pki.ca.certificate, *pair, datagram=datagram)


async def until(condition: Any, limit_s: float = 30.0) -> None:
    """Wait until ``condition()``; fails after ``limit_s``."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


class Echo:
    """A handler of the DTLS listener."""

    def __init__(self, transport: Transport):
        self.transport = transport

    def receive_data(self, data: bytes) -> None:
        if data == b"bye":
            self.transport.close()
        elif data != b"silence":
            self.transport.send(data)

    def link_lost(self, error: FleetError | None) -> None:
        pass


@contextlib.asynccontextmanager
async def echoing(
    pki: Pki, server: Credential | None = None, **options: float
) -> AsyncIterator[int]:
    """Run a DtlsListener that echoes; b"bye" makes it close. Yields its port."""
    context = server_context(*(server or pki.server), pki.ca.certificate, datagram=True)
    listener = DtlsListener(context, lambda t, _c: Echo(t), lambda *_: None)
    await listener.start(HOST, 0)
    try:
        yield listener.port
    finally:
        listener.close()
