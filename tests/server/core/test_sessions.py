"""The table of sessions: what changed between the handshake and HELLO counts; who is dismissed."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fleetnet import errors, events
from fleetnet.frame import CONFIG_STATE, READINGS
from fleetnet.handshake import CAN_COMMAND, Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.core import sessions as sessions_module
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.watch import Watch
from fleetnet_server.identity import pki
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.policy import Policy, PolicyFile, Rules
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

    async def actions(self) -> list[str]:
        await self.writer.flush()
        return [entry.action for entry in AuditTable(self.store).entries()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.watch.stop()
    await made.sessions.close(0.01)
    await made.commands.stop()
    await made.writer.close()
    made.store.close()


CHANGES = {
    "disable": (errors.DISABLED, lambda store: store.set_enabled("cam-1", False)),
    "revoke": (errors.REVOKED, lambda store: store.registry.revoke("cam-1")),
    "remove": (errors.UNKNOWN_DEVICE, lambda store: store.registry.remove("cam-1")),
}


@pytest.mark.parametrize("case", CHANGES)
async def test_a_link_that_greets_after_the_change_is_refused(case: str, world: World) -> None:
    """Whoever was let in by the handshake and waits with HELLO is judged again."""
    world.register()
    reason, change = CHANGES[case]
    for probe in (0, 1):
        link = world.accept(Link(probe=probe))
        if not probe:
            change(world.store)
            world.watch.look()
        link.hello()
        assert link.told() == [reason]
    assert world.sessions.live == {}
    assert "device-refused" in await world.actions()


@pytest.mark.parametrize("case", CHANGES)
async def test_a_live_session_is_dismissed_after_its_acknowledgements(
    case: str, world: World
) -> None:
    number = world.register()
    _reason, change = CHANGES[case]
    link = world.open(Link())
    assert link.told() == ["opened"]
    assert link.session.send(1, READINGS, BODY) == 1
    link.pump()
    change(world.store)
    world.watch.look()
    assert number in world.sessions.live  # until what came is durable
    await world.watch.stop()
    told = [type(event).__name__ for event in link.session.take_events()]
    assert told == ["Delivered", "Closed"]
    assert world.store.read("SELECT count(*) FROM messages") == [(1,)]
    link.pump()  # BYE_ACK
    assert world.sessions.live == {}
    assert world.commands._lines == {}


async def test_nothing_changes_for_others(world: World) -> None:
    world.register()
    link = world.open(Link())
    world.store.add_device("cam-2")
    world.store.set_enabled("cam-2", False)
    world.watch.look()
    await world.watch.stop()
    assert link.told() == ["opened"]
    assert world.watch.dismissed == 0


async def test_a_stranger_in_quarantine_has_no_service_until_it_is_enabled(world: World) -> None:
    world.sessions.use_policy(Policy("quarantine"))
    link = world.open(Link())
    async with asyncio.timeout(30):
        while not world.sessions.live:
            await asyncio.sleep(0.01)
    assert link.told() == ["opened"]
    (peer,) = world.sessions.live.values()
    assert (peer.is_quarantined, peer.capabilities, world.commands._lines) == (True, 0, {})
    link.session.send(1, NOTED, b'[1,"applied",0]')
    link.session.send_live(0, READINGS, BODY)
    link.pump()
    await world.writer.flush()
    assert world.store.read("SELECT kind FROM messages") == [(NOTED,)]
    world.store.set_enabled("cam-1", True)
    world.watch.look()
    await world.watch.stop()
    assert link.told() == [errors.NORMAL]
    link.pump()
    assert world.notes.heard == []
    again = world.open(Link())
    assert again.told() == ["opened"]
    again.session.send_live(0, READINGS, BODY)
    again.pump()
    assert world.notes.heard == ["opened", "received"]
    assert list(world.commands._lines) == [peer.device_id]


async def test_a_probe_registers_nobody(world: World) -> None:
    world.sessions.use_policy(Policy("accept"))
    assert world.open(Link(probe=1)).told() == [errors.NORMAL]
    assert world.store.devices() == []


async def test_two_devices_with_one_identity(world: World) -> None:
    world.register()
    links = [Link(boot=1, address="10.0.0.1"), Link(boot=2, address="10.0.0.2")]
    world.open(links[0])
    world.open(links[1])
    assert "duplicate-identity" not in await world.actions()
    world.open(Link(boot=1, address="10.0.0.1"))
    assert "duplicate-identity" in await world.actions()
    (row,) = AuditTable(world.store).entries(action="duplicate-identity")
    assert row.detail == {"addresses": ["10.0.0.1", "10.0.0.2"]}


async def test_rules_reach_a_session_that_lives(world: World) -> None:
    number = world.register()
    world.open(Link())
    peer = world.sessions.live[number]
    assert peer.rules is None
    rules = Rules(max_rate=1.0)
    world.sessions.use_policy(Policy("refuse", {"slow": rules}))
    assert peer.rules is None
    world.store.registry.change("cam-1", group="slow")
    world.watch.look()
    assert (peer.rules, peer.pace is not None) == (rules, True)
    world.sessions.use_policy(Policy())
    assert (peer.rules, peer.pace) == (None, None)


async def test_a_handshake_refused_again_is_one_line_and_names_whose_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, object]] = []
    log = SimpleNamespace(warning=lambda event, **more: lines.append(more))
    monkeypatch.setattr(sessions_module, "_log", log)
    for number in range(4000, 4003):
        error = errors.CertificateExpired(f"10.0.0.1:{number}: the certificate has expired")
        error.certificate = world.credential.certificate
        world.sessions.handshake_refused("tls", ("10.0.0.1", number), error)
    stranger = errors.WrongCA("10.0.0.1:4000: another CA")
    world.sessions.handshake_refused("tls", ("10.0.0.1", 4000), stranger)
    await world.audit.stop()
    world.store.commit([])
    entries = AuditTable(world.store).entries(action="handshake-refused")
    assert [one.device for one in entries] == ["cam-1", None, "cam-1"]
    assert entries[-1].detail["count"] == 2
    assert [line.get("device") for line in lines] == ["cam-1", None]
