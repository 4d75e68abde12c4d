"""Hubs and devices that talk to a table of sessions without a network, for tests of relays."""

import asyncio
import os
from pathlib import Path

from fleetnet import events, relay
from fleetnet import frame as wire
from fleetnet.handshake import (
    CAN_COMMAND,
    CAN_CONFIGURE,
    CAN_RELAY,
    Hello,
    decode_ending,
)
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.presence import DevicePresence
from fleetnet_server.core.relays import Relays
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.watch import Watch
from fleetnet_server.identity import pki
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.policy import PolicyFile
from fleetnet_server.store.audit import Audit, AuditTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

CA = pki.create_ca()
HUB, OTHER_HUB, CAM, OTHER = (pki.issue_device(CA, n) for n in ("hub-1", "hub-2", "cam", "other"))
CREDENTIALS = {"hub-1": HUB, "hub-2": OTHER_HUB, "cam": CAM, "other": OTHER}
BODY = b'[1800000000000,0,["t"],[[0,0,%d]]]'
EPOCH = b"epoch--1"


class Link:
    """A Transport in memory; at its far end the session of a device or a hub."""

    kind = "tls"
    datagram = False
    psk_identity = None

    def __init__(self, world: "World", name: str, session: Session | None = None):
        self.address = ("10.0.0.1", 40000)
        self.name = name
        self.session = session or Session(os.urandom, wall_ms=port.unix_ms)
        self.heard: list[tuple[int, int, int, bytes]] = []
        self.endings: list[int] = []
        self.is_closed = False
        self.peer: Peer = world.sessions.accept(self, CREDENTIALS[name].certificate)  # type: ignore[assignment]

    def send(self, data: bytes) -> None:
        self.session.receive_data(data, port.ticks())

    def close(self, linger_s: float = 1.0) -> None:
        self.is_closed = True

    abort = close

    def hello(self, boot: int = 1, uptime_ms: int = 1000) -> "Link":
        hello = Hello()
        hello.boot, hello.uptime_ms = boot, uptime_ms
        hello.capabilities = CAN_COMMAND | CAN_CONFIGURE | CAN_RELAY
        self.session.open_link(port.ticks(), False, hello)
        self.pump()
        return self

    def pump(self) -> None:
        for _ in range(3):
            for chunk in self.session.data_to_send(port.ticks()):
                self.peer.receive_data(chunk)
            for event in self.session.take_events():
                if isinstance(event, events.Received):
                    alias, kind, stream, _, body = relay.decode_relay(event.payload)
                    self.heard.append((alias, kind, stream, body))
                    if event.seq:
                        self.session.acknowledge(event.stream, event.seq, port.ticks())
                elif isinstance(event, events.Closed | events.Refused):
                    self.endings.append(event.ending.reason)

    # -- what a hub says

    def announce(
        self, alias: int, name: str, serial: int = 0, *, nonce: bytes = b"nonc",
        epoch: bytes = EPOCH, age_ms: int | None = 0, uptime_ms: int = 5000, boot: int = 7,
    ) -> None:  # fmt: skip
        hello = Hello()
        hello.epoch, hello.nonce, hello.boot, hello.uptime_ms = epoch, nonce, boot, uptime_ms
        hello.capabilities, hello.software = CAN_COMMAND | CAN_CONFIGURE, "cam/1"
        told = relay.Announcement(name, serial or CREDENTIALS[name].serial, hello, age_ms)
        self.live(alias, wire.HELLO, told.to_payload())

    def live(self, alias: int, kind: int, body: bytes, stream: int = 0) -> None:
        payload = relay.encode_relay(alias, kind, stream, 0, body)
        self.session._link.say(wire.RELAY, payload)
        self.pump()

    def carry(
        self, alias: int, seq: int, body: bytes = b"", stream: int = 3, kind: int = 0x10
    ) -> None:
        body = body or BODY % seq
        payload = relay.encode_relay(alias, kind, stream, seq, body)
        self.session.send(relay.carrier(stream), wire.RELAY, payload)
        self.pump()

    def answers(self) -> list[int]:
        """Kinds of what the hub heard about aliases; REFUSE and BYE as negative reasons."""
        found = []
        for _, kind, _, body in self.heard:
            is_ending = kind in (wire.REFUSE, wire.BYE)
            found.append(-decode_ending(body).reason if is_ending else kind)
        self.heard.clear()
        return found

    def unacknowledged(self) -> int:
        return sum(len(stream.frames) for stream in self.session.sender.streams.values())


class World:
    """A back-end without a network."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.start()
        for name, credential in CREDENTIALS.items():
            device = self.store.lookup(name) or self.store.add_device(name)
            self.store.add_certificate(device.id, credential.serial, credential.not_after_ms)
        self.hubs.assign("hub-1", ["cam"])
        self.watch.look()

    def start(self) -> None:
        self.store = SqliteStore(self.folder / "fleet.db")
        self.router = Router()
        self.writer: Writer[Peer] = Writer(
            self.store, self.router.on_durable, interval_s=0, on_lost=self.router.on_lost
        )
        self.router.writer = self.writer
        self.audit = Audit(self.store)
        table = CommandTable(self.store)
        self.commands, self.configs = Commands(table), Configs(table)
        self.hubs = HubTable(self.store)
        self.relays = Relays(self.hubs, self.audit)
        services = Services((self.commands, self.configs, self.relays))
        self.sessions = Sessions(
            self.store, self.store, self.router, services, audit=self.audit, ack_delay_ms=0
        )
        self.relays.begin(self.sessions)
        self.watch = Watch(
            AuditTable(self.store), PolicyFile(self.folder), CrlFolder(self.folder), self.sessions,
            self.audit,
        )  # fmt: skip

    async def stop(self) -> None:
        await self.watch.stop()
        await self.relays.stop()
        await self.sessions.close(0.01)
        await self.commands.stop()
        await self.configs.stop()
        await self.writer.close()
        self.store.close()

    async def settle(self, *links: Link) -> None:
        for _ in range(4):
            await self.writer.flush()
            await asyncio.sleep(0.01)
            for link in links:
                link.pump()

    def stored(self, name: str) -> list[tuple[int, int]]:
        """(stream, seq) of a device, in order of their numbers."""
        return self.store.read(
            "SELECT m.stream, m.seq FROM messages AS m JOIN devices AS d ON d.id = m.device"
            " WHERE d.name = ? ORDER BY m.stream, m.seq",
            (name,),
        )

    def gaps(self) -> int:
        ((count,),) = self.store.read("SELECT count(*) FROM gaps")
        return int(count)

    async def actions(self) -> list[str]:
        await self.writer.flush()
        return [entry.action for entry in AuditTable(self.store).entries()]

    def presence(self, name: str) -> DevicePresence:
        return self.sessions.presence.of(name)
