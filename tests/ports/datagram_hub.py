"""A DTLS server that is a MicroPython process, and clients of it on CPython's engine."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from end_to_end.fleet import free_port
from fleetnet.ports.cpython import Datagrams, open_datagram
from fleetnet.ports.openssl_context import Context, client_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.identity.pki import Credential
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter
from pki import Pki
from ports.peers import HOST, PATIENCE_S, write_files

SERVER = Path(__file__).with_name("datagram_server.py")


class Hub:
    """The server process and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int):
        self.process = process
        self.port = port
        self.said: list[dict[str, Any]] = []
        self.clients: list[Datagrams] = []

    async def hear(self, key: str) -> dict[str, Any]:
        """Return the next line that has ``key``; the others stay in ``said``."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"the server ended; it said {self.said}"
                what: dict[str, Any] = json.loads(line)
                self.said.append(what)
                if key in what:
                    return what


@contextlib.asynccontextmanager
async def hub(runtime: Interpreter, folder: Path, pki: Pki, **options: Any) -> AsyncIterator[Hub]:
    port = free_port()
    folder = folder / "server"
    folder.mkdir()
    files: dict[str, Any] = dict(write_files(folder, pki.ca, pki.server))
    (folder / "options.json").write_text(json.dumps(files | {"port": port} | options))
    process = await asyncio.create_subprocess_exec(
        runtime.path,
        str(SERVER),
        str(folder / "options.json"),
        stdout=asyncio.subprocess.PIPE,
        env=device_environment(),
    )
    server = Hub(process, port)
    try:
        yield server
    finally:
        for client in server.clients:
            client.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def context_of(pki: Pki, device: Credential | None = None) -> Context:
    return client_context(pki.ca.certificate, *(device or pki.device), datagram=True)


async def join(server: Hub, pki: Pki, device: Credential | None = None) -> Datagrams:
    context = context_of(pki, device)
    client = await open_datagram(HOST, server.port, context, "localhost", 30_000)
    server.clients.append(client)
    return client


async def echo(client: Datagrams, text: bytes) -> None:
    assert client.send(text)
    assert await client.receive(30_000) == b"echo " + text


class Puppet:
    """A DTLS client whose datagrams the test carries by hand, from a port of its own."""

    def __init__(self, server: Hub, pki: Pki, port: int = 0):
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.bind((HOST, port))
        self.sock.connect((HOST, server.port))
        self.sock.setblocking(False)
        self.port: int = self.sock.getsockname()[1]
        self.ssl = SslObject(context_of(pki), "localhost")

    def transmit(self) -> list[bytes]:
        datagrams = self.ssl.datagrams()
        for datagram in datagrams:
            self.sock.send(datagram)
        return datagrams

    async def take(self, timeout_s: float = 30.0) -> bytes | None:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.sock_recv(self.sock, 4096), timeout_s)
        except TimeoutError:
            return None

    def hello(self) -> bytes:
        """Send the first ClientHello."""
        self.ssl.handshake()
        return self.transmit()[0]

    async def finish(self) -> None:
        """Go on from the first ClientHello to the end of the handshake."""
        while not self.ssl.is_established:
            datagram = await self.take()
            assert datagram is not None
            self.ssl.feed(datagram)
            self.ssl.handshake()
            self.transmit()

    async def echo(self, text: bytes) -> None:
        self.ssl.write(text)
        self.transmit()
        while True:
            datagram = await self.take()
            assert datagram is not None, "no answer"
            self.ssl.feed(datagram)
            if (answer := self.ssl.read()) is not None:
                assert answer == b"echo " + text
                return

    def close(self) -> None:
        self.sock.close()
