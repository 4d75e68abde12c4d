"""A rotation service over a real store and a real CA, and devices made of four lines."""

import asyncio
import copy
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet import credential as wire
from fleetnet.credential import Credential, CredentialState
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE
from fleetnet.handshake import CAN_ROTATE, Hello
from fleetnet_server.config import Settings
from fleetnet_server.core import rotation as module
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.rotation import Rotations
from fleetnet_server.core.rotation_line import DAY_MS
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.wanted import FleetTrust
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.sqlite import SqliteStore

LIFE_MS = 300 * DAY_MS


class Clock:
    """Unix time in ms that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = module._now_ms()

    def __call__(self) -> int:
        return self.now_ms


class Peer:
    """What services see of a device's session: it keeps what it is sent."""

    def __init__(self, world: "World", name: str, number: int, serial: int, capabilities: int):
        device = world.store.lookup(name)
        assert device is not None
        self.device_id, self.name = device.id, name
        self.number, self.serial, self.psk_identity = number, serial, ""
        self.capabilities = capabilities
        self.has_room = True
        self.sent: list[Credential] = []
        self.rows_at_send: list[list[Any]] = []
        self._world = world

    def send(self, stream: int, kind: int, payload: bytes) -> bool:
        assert (stream, kind) == (COMMANDS, CREDENTIAL)
        if self.has_room:
            self.rows_at_send.append(self._world.rows(self.name))
            self.sent.append(wire.decode_credential(payload))
        return self.has_room


class Source:
    """A folder's trust, or what a test puts in its place."""

    def __init__(self, trust: FleetTrust):
        self.value = trust

    def current(self) -> FleetTrust:
        return self.value

    def change(self, **changes: Any) -> None:
        self.value = copy.copy(self.value)
        self.value.__dict__.update(changes)


class Notes:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None, dict[str, Any]]] = []

    def note(self, actor: str, action: str, device: str | None, detail: dict[str, Any]) -> None:
        assert actor == "server"
        self.rows.append((action, device, detail))

    def actions(self) -> list[str]:
        return [action for action, _, _ in self.rows]


class World:
    """A fleet's folder, its store, and the service."""

    def __init__(self, folder: Path, clock: Clock, rate: float = 1000.0):
        self.folder, self.clock = folder, clock
        create_fleet(folder, ("localhost",))
        self.store = SqliteStore(folder / "fleet.db")
        self.table = IdentityTable(self.store)
        self.source = Source(FleetTrust(folder, LIFE_MS / 1000))
        self.audit = Notes()
        self.rotations = Rotations(self.table, self.source, rate, self.audit)
        self.seq = 0
        self.add("cam-1")

    def add(self, name: str) -> int:
        """Register a device with a bundle; return the bundle's serial number."""
        add_device(self.folder, Settings(device_lifetime_s=LIFE_MS / 1000), self.store, name)
        der = (self.folder / "devices" / name / "cert.der").read_bytes()
        return x509.load_der_x509_certificate(der).serial_number

    def rows(self, name: str = "cam-1") -> list[Any]:
        device = self.store.lookup(name)
        assert device is not None
        return self.table.identities(device.id)

    def read(self, sql: str) -> list[Any]:
        return self.store.read(sql)

    def bundle_serial(self, name: str = "cam-1") -> int:
        serial = self.rows(name)[-1].serial
        assert isinstance(serial, int)
        return serial

    async def open(
        self, number: int = 0, serial: int = 0, name: str = "cam-1", can: int = CAN_ROTATE
    ) -> Peer:
        peer = Peer(self, name, number, serial or self.bundle_serial(name), can)
        await self.enter(peer)
        return peer

    async def enter(self, peer: Peer) -> None:
        hello = Hello()
        hello.identity = peer.number
        self.rotations.opened(peer, hello)  # type: ignore[arg-type]
        await self.quiet()

    def close(self, peer: Peer) -> None:
        self.rotations.closed(peer)  # type: ignore[arg-type]

    async def say(
        self, peer: Peer, state: int, number: int, reason: str = "", csr: bytes = b""
    ) -> None:
        """A CREDENTIAL_STATE of the device becomes durable."""
        body = wire.encode_credential_state(CredentialState(state, number, csr, reason))
        self.seq += 1
        found = inspect_body(CREDENTIAL_STATE, body, lambda boot: None, 1)
        epoch = self.store.epoch_id(peer.device_id, b"epoch-01")
        message = Message(
            peer.device_id, epoch, COMMANDS, self.seq, CREDENTIAL_STATE,
            found.t0, found.t1, 1, found.body, found.problem,
        )  # fmt: skip
        self.store.commit([message])
        self.rotations.durable(peer, message)  # type: ignore[arg-type]
        await self.quiet()

    async def renew(self, *names: str) -> None:
        devices = [self.store.lookup(name) for name in names or ("cam-1",)]
        await asyncio.to_thread(self.table.ask, [one for one in devices if one], "test")
        await self.look()

    async def look(self) -> None:
        self.rotations.look()
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until the service does nothing any more."""
        rotations = self.rotations
        async with asyncio.timeout(30):
            while rotations._tasks or rotations._queue:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.002)
            while rotations._tasks:
                await asyncio.sleep(0.001)

    async def rotate(self, peer: Peer) -> Peer:
        """From an INSTALL that was sent to the session that the device begins with it."""
        got = peer.sent[-1]
        assert got.action == wire.INSTALL
        self.close(peer)
        serial = peer.serial
        if got.certificate:
            serial = x509.load_der_x509_certificate(got.certificate).serial_number
        return await self.open(got.number, serial, peer.name, peer.capabilities)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
