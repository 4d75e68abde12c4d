"""Configurations of devices: what each should have, and what it says of that.

    version = await backend.configs.set("cam-1", {"rate": 5})

The store keeps one document a device. HELLO says which version a device runs with; another
one than the store's is answered with CONFIG. Source: docs/protocol.md section 3.4.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fleetnet import commands as wire
from fleetnet.events import Received
from fleetnet.frame import COMMANDS, CONFIG, CONFIG_STATE
from fleetnet.handshake import CAN_CONFIGURE, Hello
from fleetnet_server.core.bodies import Message, decode_answer
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.events import Tell, tell_nobody
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.registry import Device

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.configs")


class Config(NamedTuple):
    """The configuration of one device; times are unix ms.

    Attributes:
        edit: order among all devices; version: of this device's documents, from 1.
        state_version: the version that the device last spoke of; None: it never did.
        state: "applied" or "rejected".
        reported: what it reported, or why it rejected that version.
    """

    device_id: int
    device: str
    edit: int
    version: int
    document: dict[str, Any]
    state_version: int | None
    state: str | None
    reported: Any
    set_ms: int
    state_ms: int | None


class ConfigStore(Protocol):
    """What the service needs of the store (store/commands.py)."""

    def device(self, name: str) -> Device: ...

    def set_config(self, device_id: int, document: dict[str, Any]) -> int: ...

    def config(self, device_id: int) -> Config | None: ...

    def edited_after(self, edit: int) -> list[tuple[int, int]]: ...

    def note_config(self, device_id: int, version: int) -> None: ...

    def newest(self) -> tuple[int, int]: ...


_AS_BLOB = ": send it as a blob"


def check_document(document: Any) -> None:
    """Raise ValueError for what no CONFIG can carry."""
    if not isinstance(document, dict):
        raise ValueError("a configuration is a JSON object")
    try:
        wire.encode_config(1, document)
    except ValueError as error:
        if not str(error).endswith(_AS_BLOB):
            raise
        # What helps with a value that a device sends is of no use for what it is to keep.
        text = str(error).removesuffix(_AS_BLOB)
        raise ValueError(f"{text}: a device keeps it in its memory, make it shorter") from error


class Configs:
    """The service (core/services.py); made on a running loop, looked after by a Lookout.

    Attributes:
        tell: hears what devices say of their configurations (core/events.py).
    """

    capability = CAN_CONFIGURE
    kinds = frozenset((CONFIG_STATE,))
    live_kinds: frozenset[int] = frozenset()

    def __init__(self, store: ConfigStore):
        self._store = store
        self.tell: Tell = tell_nobody
        self._peers: dict[int, Peer] = {}
        self._pending: set[int] = set()  # devices whose link had no room
        self._tasks: set[asyncio.Task[None]] = set()
        self._rejection_lines = DeviceLines("configurations that it rejects")
        self._edit = store.newest()[1]

    # -- what a program calls ----------------------------------------------------------

    async def set(self, device_name: str, document: dict[str, Any]) -> int:
        """Give a device a configuration, now or when it comes; return its version.

        Raises:
            ValueError: no object, no JSON, or above 16 KiB. StoreError: no such device.
            StoreUnavailable: it was not kept.
        """
        device = self._store.device(device_name)
        version = await asyncio.to_thread(self._store.set_config, device.id, document)
        self._send(device.id)
        return version

    def get(self, device_name: str) -> Config | None:
        """Return a device's configuration and its state; None: nothing was ever set."""
        return self._store.config(self._store.device(device_name).id)

    # -- see Service and Looking ---------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """Compare what the device runs with and what it should run with."""
        if not peer.capabilities & CAN_CONFIGURE:
            return
        self._peers[peer.device_id] = peer
        config = self._store.config(peer.device_id)
        if config is None:
            return
        if hello.config_version != config.version:
            self._send(peer.device_id)
        elif (config.state_version, config.state) != (config.version, wire.APPLIED):
            # Its CONFIG_STATE was lost with its outbox.
            self._spawn(self._note(config))

    def received(self, peer: "Peer", event: Received) -> None:
        """A CONFIG_STATE that nobody would repeat is not one."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """A CONFIG_STATE is stored: say so when it is bad news."""
        if message.problem is None:
            version, state, value = decode_answer(message.kind, message.body)
            self.tell(f"config-{state}", peer.name, {"version": version})
            if state == wire.REJECTED and self._rejection_lines.take(peer.device_id, peer.name):
                _log.warning(
                    "device %s rejects version %s of its configuration: %s",
                    peer.name, version, value,
                )  # fmt: skip

    def closed(self, peer: "Peer") -> None:
        """The next HELLO tells what arrived."""
        if self._peers.get(peer.device_id) is peer:
            del self._peers[peer.device_id]
            self._pending.discard(peer.device_id)

    def look(self) -> None:
        """Find what other programs set, and what had no room."""
        pending, self._pending = self._pending, set()
        for device_id in pending:
            self._send(device_id)
        for edit, device_id in self._store.edited_after(self._edit):
            self._edit = edit
            self._send(device_id)

    async def stop(self) -> None:
        """Wait for what is under way: a thread that commits cannot be cancelled."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, device_id: int) -> None:
        peer = self._peers.get(device_id)
        config = self._store.config(device_id) if peer is not None else None
        if peer is None or config is None:
            return
        body = wire.encode_config(config.version, config.document)
        if not peer.send(COMMANDS, CONFIG, body):
            self._pending.add(device_id)

    async def _note(self, config: Config) -> None:
        try:
            await asyncio.to_thread(self._store.note_config, config.device_id, config.version)
        except StoreUnavailable as error:
            _log.error("state of %s's configuration: %s", config.device, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
