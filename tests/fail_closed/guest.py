"""A client that says what no device would: a real link, a real session, and frames of its own."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fleetnet import events
from fleetnet import frame as wire
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.ports.cpython import Stream, open_stream
from fleetnet.session import Session
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.pki import Credential
from fleetnet_server.store.sqlite import SqliteStore

HOST = "127.0.0.1"


def make_fleet(folder: Path, *names: str, **values: Any) -> Settings:
    """A fleet with devices that have bundles; return the settings for its server."""
    create_fleet(folder, ("localhost",))
    settings = Settings(bind=HOST, host="localhost", tls_port=0, dtls_port=0, **values)
    with SqliteStore(settings.store_path(folder)) as store:
        for name in names:
            add_device(folder, settings, store, name)
    return settings


def bundle_of(folder: Path, name: str) -> Credential:
    """Return the pair in a device's bundle."""
    place = folder / "devices" / name
    return Credential((place / "cert.der").read_bytes(), (place / "key.der").read_bytes())


def hello_of(identity: int = 0, probe: int = 0, boot: int = 0, capabilities: int = 0) -> Hello:
    """What a device says first."""
    hello = Hello()
    hello.identity, hello.probe, hello.boot = identity, probe, boot
    hello.capabilities = capabilities
    return hello


class Guest:
    """One TLS connection. Use as an asynchronous context manager.

    Args:
        pair: certificate and key; psk: (identity, key) instead; neither: nothing is shown.
        hello: what is said first. epoch: of an earlier guest, to go on with its messages.

    Attributes:
        events: what the server said, as events of the session.
    """

    def __init__(
        self,
        backend: Backend,
        pair: Credential | None = None,
        *,
        hello: Hello | None = None,
        epoch: bytes | None = None,
        port_number: int = 0,
        psk: tuple[str, bytes] | None = None,
    ):
        self._backend = backend
        self._pair = pair
        self._psk = psk
        self._hello = hello
        self._port = port_number or backend.tls_port
        self.events: list[object] = []
        self.session = Session(os.urandom, epoch)
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Guest":
        if self._psk is not None:
            context = port.client_context(psk=self._psk)
        else:
            ca = Authority.load(self._backend.folder).anchors[0]
            pair = self._pair
            context = (
                port.client_context(ca)
                if pair is None
                else port.client_context(ca, pair.certificate, pair.key)
            )
        self.stream: Stream = await open_stream(HOST, self._port, context, "localhost")
        self.session.open_link(port.ticks(), False, self._hello)
        self._reading = asyncio.get_running_loop().create_task(self._read())
        self.flush()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stream.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        while data := await self.stream.read(65536):
            self.session.receive_data(data, port.ticks())
            self.events.extend(self.session.take_events())
            self.flush()

    def flush(self) -> None:
        while chunks := self.session.data_to_send(port.ticks()):
            for chunk in chunks:
                self.stream.write(chunk)

    def say(self, stream: int, kind: int, payload: bytes) -> None:
        """Send a message as a device would."""
        self.session.send(stream, kind, payload)
        self.flush()

    async def be_deaf(self) -> None:
        """Hear nothing any more: no window, no BYE."""
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def force(self, stream: int, seq: int, kind: int, payload: bytes) -> None:
        """Send a sequenced frame whatever the window says."""
        self.stream.write(wire.encode_frame(kind, wire.SEQUENCED | stream, seq, payload))

    async def until(self, found: Callable[[], bool], what: str = "", timeout_s: float = 30) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not found():
                    if self._reading is not None and self._reading.done():
                        self._reading.result()  # what ended the link, a FleetError
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{what}: {self.events}") from None

    async def until_answered(self) -> object:
        """Return the first of Opened, Refused, Closed."""
        kinds = (events.Opened, events.Refused, events.Closed)
        await self.until(lambda: any(isinstance(one, kinds) for one in self.events), "an answer")
        return next(one for one in self.events if isinstance(one, kinds))

    def endings(self) -> list[int]:
        kinds = (events.Refused, events.Closed)
        return [one.ending.reason for one in self.events if isinstance(one, kinds)]
