"""A table of sessions with devices in memory: no network, no TLS."""

import os
from pathlib import Path

from fleetnet import errors, events
from fleetnet.frame import CONFIG_STATE, READINGS
from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.watch import Watch
from fleetnet_server.identity import pki
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.policy import PolicyFile
from fleetnet_server.store.audit import Audit, AuditTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

CA = pki.create_ca()
NOTED = CONFIG_STATE
BODY = b'[1800000000000,0,["t"],[[0,0,1]]]'


class Link:
    """A Transport in memory, and the device's session at its far end."""

    kind = "tls"
    datagram = False
    psk_identity = None

    def __init__(self, boot: int = 1, probe: int = 0, address: str = "10.0.0.1"):
        self.address = (address, 40000)
        self.session = Session(os.urandom, wall_ms=port.unix_ms)
        self.boot, self.probe = boot, probe
        self.peer: Peer | None = None
        self.is_closed = False

    def send(self, data: bytes) -> None:
        self.session.receive_data(data, port.ticks())

    def close(self, linger_s: float = 1.0) -> None:
        self.is_closed = True

    abort = close

    def hello(self) -> None:
        hello = Hello()
        hello.boot, hello.probe, hello.capabilities = self.boot, self.probe, CAN_COMMAND
        self.session.open_link(port.ticks(), False, hello)
        self.pump()

    def pump(self) -> None:
        assert self.peer is not None
        for chunk in self.session.data_to_send(port.ticks()):
            self.peer.receive_data(chunk)

    def told(self) -> list[object]:
        """What the device heard: "opened", or the reason of a REFUSE or BYE."""
        found: list[object] = []
        for event in self.session.take_events():
            if isinstance(event, events.Opened):
                found.append("opened")
            elif isinstance(event, events.Refused | events.Closed):
                found.append(event.ending.reason)
        return found


class Notes:
    """A service that notes what it is told."""

    capability = 0
    kinds = frozenset((NOTED,))
    live_kinds = frozenset((READINGS,))

    def __init__(self) -> None:
        self.heard: list[str] = []

    def opened(self, peer: Peer, hello: Hello) -> None:
        self.heard.append("opened")

    def received(self, peer: Peer, event: events.Received) -> None:
        self.heard.append("received")

    def durable(self, peer: Peer, message: Message) -> None:
        self.heard.append("durable")

    def closed(self, peer: Peer) -> None:
        self.heard.append("closed")


class World:
    """A registry, a table of sessions, and what looks after it, without a network."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = SqliteStore(folder / "fleet.db")
        self.router = Router()
        self.writer: Writer[Peer] = Writer(
            self.store, self.router.on_durable, interval_s=0, on_lost=self.router.on_lost
        )
        self.router.writer = self.writer
        self.audit = Audit(self.store)
        self.commands = Commands(CommandTable(self.store))
        self.notes = Notes()
        self.sessions = Sessions(
            self.store, self.store, self.router, Services((self.commands, self.notes)),
            audit=self.audit,
            ack_delay_ms=10_000,  # no acknowledgement leaves by itself
        )  # fmt: skip
        self.watch = Watch(
            AuditTable(self.store), PolicyFile(folder), CrlFolder(folder), self.sessions, self.audit
        )
        self.credential = pki.issue_device(CA, "cam-1")

    def register(self) -> int:
        device = self.store.add_device("cam-1")
        self.store.add_certificate(device.id, self.credential.serial, self.credential.not_after_ms)
        self.watch.look()
        return device.id

    def accept(self, link: Link) -> Link:
        link.peer = self.sessions.accept(link, self.credential.certificate)
        return link

    def open(self, link: Link) -> Link:
        self.accept(link).hello()
        return link

    async def stop(self) -> None:
        await self.watch.stop()
        await self.sessions.close(0.01)
        await self.commands.stop()
        await self.writer.close()
        self.store.close()

    async def actions(self) -> list[str]:
        await self.writer.flush()
        return [entry.action for entry in AuditTable(self.store).entries()]


CHANGES = {
    "disable": (errors.DISABLED, lambda store: store.set_enabled("cam-1", False)),
    "revoke": (errors.REVOKED, lambda store: store.registry.revoke("cam-1")),
    "remove": (errors.UNKNOWN_DEVICE, lambda store: store.registry.remove("cam-1")),
}
