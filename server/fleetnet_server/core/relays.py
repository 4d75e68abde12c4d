"""Hubs: what they carry for sensors, which of these are accepted, what goes back to them.

A hub announces its sensors; the registry says which of them it may speak for. Each becomes an
Origin, which services, presence and policy treat like a device that is connected itself.

Source: docs/protocol.md section 15.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from fleetnet import errors
from fleetnet import frame as wire
from fleetnet.acceptor import encode_welcome
from fleetnet.errors import ProtocolError
from fleetnet.events import Received
from fleetnet.handshake import CAN_RELAY, Ending, Hello, Welcome
from fleetnet.ports import port
from fleetnet.relay import (
    MAX_ORIGINS,
    RELAYED,
    RELAYED_FIRST,
    Announcement,
    decode_announcement,
    decode_relay,
    encode_relay,
    is_relayed,
    nonce_of,
    with_nonce,
)
from fleetnet.ticks import ticks_diff
from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.entering import STORE_RETRY_MS
from fleetnet_server.core.origin import Origin
from fleetnet_server.core.ports import SessionStart
from fleetnet_server.core.rates import RateTable
from fleetnet_server.core.relay_line import Line
from fleetnet_server.core.relay_ports import HubStore
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authenticate import Refusal, Stranger, judge
from fleetnet_server.identity.names import is_device_name
from fleetnet_server.identity.registry import Device

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer
    from fleetnet_server.core.sessions import Sessions

_log = logging.getLogger("fleetnet.relays")

Start = SessionStart | None

# How long a sensor's messages may wait for its announcement: lost datagrams are said again
# each second.
_PATIENCE_MS = 15_000

# Announcements a second of one hub, and at once: it says each again after a second. Every new
# one is a row of the store.
_ANNOUNCED_PER_S = 4.0
_ANNOUNCED_AT_ONCE = 2 * MAX_ORIGINS

# At the end, where the last commit was waited for already: what is under way is one row.
_STOP_S = 1.0

# As in core/gate.py: somebody has to leave first.
_FULL_RETRY_MS = 60_000


class Relays:
    """The service (core/services.py); looked after by a Lookout. ``begin`` before use.

    Attributes:
        carried, dropped: messages of origins that were taken, and that were refused.
    """

    capability = CAN_RELAY
    kinds: frozenset[int] = frozenset()
    live_kinds = frozenset((wire.RELAY,))

    def __init__(self, store: HubStore, audit: AuditLog | None = None):
        self._store = store
        self._audit = audit
        self._sessions: Sessions
        self._lines: dict[int, Line] = {}
        # device -> boot, and its uptime when its newest session said HELLO
        self._began: dict[int, tuple[int, int]] = {}
        self._rates = RateTable(_ANNOUNCED_PER_S, _ANNOUNCED_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.carried = 0
        self.dropped = 0

    def begin(self, sessions: "Sessions") -> None:
        """Work for this table of sessions."""
        self._sessions = sessions
        sessions.relays = self

    def has_hub(self, device_id: int) -> bool:
        """Say whether messages of a device may still lie at a hub."""
        return self._store.has_hub(device_id)

    # -- see Service -----------------------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """A device is connected itself; it may be a hub."""
        if not peer.via:
            self._began[peer.device_id] = (hello.boot, hello.uptime_ms)
            if peer.capabilities & CAN_RELAY:
                self._lines[peer.device_id] = Line(peer)

    def closed(self, peer: "Peer") -> None:
        """With a hub go its sensors' sessions."""
        if self._sessions.live.get(peer.device_id) in (None, peer):
            self._began.pop(peer.device_id, None)
        line = self._lines.get(peer.device_id)
        if line is not None and line.hub is peer:
            del self._lines[peer.device_id]
            line.is_over = True
            for origin in list(line.origins.values()):
                self._sessions.leave(origin, f"{peer.name} is gone")

    def durable(self, peer: "Peer", message: Message) -> None:
        """Nothing of this service is stored by itself."""

    def received(self, peer: "Peer", event: Received) -> None:
        """An announcement, the end of a sensor's session, or a best-effort frame of one."""
        line = self._line(peer)
        if line is None:
            return
        try:
            alias, kind, stream, _, body = decode_relay(event.payload)
            if kind == wire.HELLO:
                self._announced(line, alias, decode_announcement(body))
            elif kind == wire.BYE:
                self._gone(line, alias, nonce_of(body))
            elif is_relayed(kind):
                origin = line.origins.get(alias)
                if origin is not None and origin.is_open and not origin.is_quarantined:
                    self._sessions.services.received(origin, Received(stream, 0, kind, body))
        except ProtocolError as error:
            self._broken(peer, error)
        except StoreUnavailable:
            self._sessions.dismiss(peer, errors.STORE_UNAVAILABLE, STORE_RETRY_MS)

    # -- announcements -----------------------------------------------------------------------

    def _announced(self, line: Line, alias: int, told: Announcement) -> None:
        known = line.origins.get(alias)
        if known is not None:
            same = (known.name, known.serial, known.epoch, known.boot)
            if same != (told.name, told.serial, told.hello.epoch, told.hello.boot):
                raise ProtocolError(f"alias {alias} means two origins")
            if known.nonce == told.hello.nonce and (known.answer or known.is_waiting):
                line.say_again(known)
                return
        if not self._rates.take(line.hub.device_id):
            return
        device, refusal = self._judge(line.hub, told.name, told.serial)
        origin = Origin(line, alias, told, device)
        if known is not None:
            self._sessions.leave(known, "another session took its place")
        line.add(origin)
        if refusal is not None:
            self._refuse(line, origin, refusal)
            return
        if told.age_ms is not None:
            refusal = self._no_session(origin, told)
        is_here = told.age_ms is not None and refusal is None
        must_flush = is_here and self._sessions.enter(origin)
        origin.is_waiting = True
        self._sessions.entering.begin(
            origin, told.hello, "hub", must_flush,
            lambda start: self._begun(origin, told, refusal, start), is_here,
        )  # fmt: skip

    def _begun(
        self, origin: Origin, told: Announcement, refused: Refusal | None, start: Start
    ) -> None:
        """The store knows where the sensor goes on; its messages waited for that."""
        line, hello = origin.line, told.hello
        origin.is_waiting = False
        if line.is_over or start is None:
            self._sessions.dismiss(line.hub, errors.STORE_UNAVAILABLE, STORE_RETRY_MS)
            return
        origin.is_good, origin.epoch_id = True, start.epoch_id
        if hello.boot and hello.uptime_ms:
            self._sessions.store.set_boot(origin.device_id, hello.boot, origin.dated)
        self._sessions.restrict(origin)
        if refused is not None:
            self._refuse(line, origin, refused)
        elif told.age_ms is None:
            self._welcome(origin, told, start, False)
        elif self._sessions.live.get(origin.device_id) is origin:
            self._welcome(origin, told, start, True)
        self._unpark(line)

    def _judge(self, hub: "Peer", name: str, serial: int) -> tuple[Device | None, Refusal | None]:
        """Decide on what a hub says that it has verified."""
        registry = self._sessions.registry
        device = registry.lookup(name) if is_device_name(name) else None
        if device is None or not self._store.is_assigned(hub.device_id, device.id):
            text = (
                f"{name!r} is not assigned to {hub.name}: `fleetnet hub assign {hub.name} {name}`"
            )
            return None, Refusal(errors.UNKNOWN_DEVICE, text, device.name if device else "")
        found = judge(name, serial, "", registry)
        if isinstance(found, Refusal):
            return device, found
        if isinstance(found, Stranger) or serial not in device.valid:
            text = f"{hub.name} tells of {name} with certificate {serial:x}, which is not its own"
            return device, Refusal(errors.NO_IDENTITY, text, name)
        return device, None

    def _no_session(self, origin: Origin, told: Announcement) -> Refusal | None:
        """Say why a sensor that may come has no session here; its messages are taken."""
        sessions = self._sessions
        began = told.hello.uptime_ms - (told.age_ms or 0)
        boot, newest = self._began.get(origin.device_id, (0, 0))
        live = sessions.live.get(origin.device_id)
        if live is not None and origin.boot and boot == origin.boot and newest > began:
            return Refusal(errors.REPLACED, "it has a newer session", origin.name)
        if sum(each.is_open for each in origin.line.origins.values()) >= MAX_ORIGINS:
            return Refusal(errors.OVERLOADED, "too many sensors at one hub", origin.name)
        refusal = sessions.gate.admit(origin.device_id, origin.name)
        if refusal is None and live is None and len(sessions.live) >= sessions.gate.max_sessions:
            refusal = Refusal(
                errors.OVERLOADED, "no room for more sessions", origin.name, _FULL_RETRY_MS
            )
        if refusal is None:
            self._began[origin.device_id] = (origin.boot, began)
        return refusal

    def _welcome(
        self, origin: Origin, told: Announcement, start: SessionStart, is_here: bool
    ) -> None:
        sessions, hello = self._sessions, told.hello
        welcome = Welcome()
        welcome.epoch = welcome.peer_epoch = hello.epoch
        welcome.nonce, welcome.unix_ms = hello.nonce, port.unix_ms()
        welcome.resume = start.marks
        origin.is_open = is_here
        welcome.capabilities = origin.capabilities
        origin.answer = encode_relay(origin.alias, wire.WELCOME, 0, 0, encode_welcome(welcome))
        origin.line.say_again(origin)
        if is_here:
            sessions.opened(origin, hello, None)
            self._spawn(self._note_came(origin.line.hub.device_id, origin.device_id))

    async def _note_came(self, hub_id: int, device_id: int) -> None:
        try:
            await asyncio.to_thread(self._store.note_came, hub_id, device_id)
        except StoreUnavailable as error:
            _log.error("when a sensor came was not kept: %s", error)

    def _refuse(self, line: Line, origin: Origin, refusal: Refusal) -> None:
        self._sessions.refused(origin, refusal)
        ending = Ending(refusal.reason, refusal.retry_after_ms).to_payload()
        body = with_nonce(ending, origin.nonce)
        origin.answer = encode_relay(origin.alias, wire.REFUSE, 0, 0, body)
        line.say_again(origin)

    def _gone(self, line: Line, alias: int, nonce: bytes) -> None:
        """A sensor left its hub."""
        origin = line.origins.get(alias)
        if origin is not None and origin.nonce == nonce:
            self._sessions.leave(origin, f"it left {line.hub.name}")
        line.say(alias, wire.BYE_ACK, with_nonce(b"", nonce))

    # -- messages ----------------------------------------------------------------------------

    def take(self, hub: "Peer", event: Received) -> None:
        """A sequenced RELAY of a hub."""
        line = self._line(hub)
        if line is None:
            hub.bye(errors.UNKNOWN_KIND)
            return
        try:
            alias, _, _, seq, _ = decode_relay(event.payload)
            if not seq or event.stream not in (RELAYED_FIRST, RELAYED):
                raise ProtocolError(f"RELAY on stream {event.stream}, sequence {seq}")
        except ProtocolError as error:
            self._broken(hub, error)
            return
        if event.stream in line.parked or line.is_unsettled(alias):
            line.park(event)
        else:
            self._carry(line, event)

    def _carry(self, line: Line, event: Received) -> None:
        hub = line.hub
        alias, kind, stream, seq, body = decode_relay(event.payload)
        origin = line.origins.get(alias)
        if origin is None or not origin.is_good:
            self._drop(line, event, alias, origin)
            return
        if hub.pace is not None:
            if not hub.pace.is_over:
                hub.pace.count()
            if hub.pace.is_over:
                # Neither stored nor acknowledged, nor is anything behind it: nothing is lost.
                self._sessions.too_fast(hub)
                return
        origin.carry(event.stream, event.seq)
        self.carried += 1
        self._sessions.router.take(origin, Received(stream, seq, kind, body))

    def _drop(self, line: Line, event: Received, alias: int, origin: Origin | None) -> None:
        self.dropped += 1
        what = origin.name if origin is not None else f"alias {alias}, which was not announced"
        known = origin.name if origin is not None and origin.device_id else None
        hub = line.hub
        if self._audit is None or self._audit.note_repeated(
            f"device:{hub.name}", "relay-dropped", known, {"hub": hub.name}
        ):
            _log.warning("%s brings messages of %s: they are dropped", hub.name, what)
        line.skipped[event.stream] = event.seq
        if not line.is_settling:
            line.is_settling = True
            self._spawn(self._settle(line))

    async def _settle(self, line: Line) -> None:
        """Acknowledge what was dropped, behind what was put before it."""
        try:
            while line.skipped and not line.is_over:
                skipped, line.skipped = line.skipped, {}
                await self._sessions.flush()
                if self._line(line.hub) is not line:
                    return  # it is gone: what was before may be lost, and is not to be skipped
                await asyncio.to_thread(self._store.note_carried, line.hub.epoch_id, skipped)
                for stream, seq in skipped.items():
                    line.hub.acknowledge(stream, seq, port.ticks())
        except StoreUnavailable as error:
            _log.error("what %s brought in vain comes again: %s", line.hub.name, error)
        finally:
            line.is_settling = False

    def _unpark(self, line: Line) -> None:
        """Take what waited for an announcement, as far as that came or is overdue."""
        now = port.ticks()
        for stream, waiting in list(line.parked.items()):
            while waiting and not line.is_over:
                event, since = waiting[0]
                alias = decode_relay(event.payload)[0]
                if line.is_unsettled(alias) and ticks_diff(now, since) < _PATIENCE_MS:
                    break
                waiting.popleft()
                self._carry(line, event)
            if not waiting:
                line.parked.pop(stream, None)

    def _line(self, hub: "Peer") -> Line | None:
        line = self._lines.get(hub.device_id)
        return line if line is not None and line.hub is hub else None

    def _broken(self, hub: "Peer", error: ProtocolError) -> None:
        _log.warning("hub %s breaks a rule: %s", hub.name, error)
        if self._audit is not None:
            actor, detail = f"device:{hub.name}", {"why": str(error)}
            self._audit.note_repeated(actor, "relay-broken", hub.name, detail)
        self._sessions.dismiss(hub, error.reason)

    # -- see Looking, and core/watch.py --------------------------------------------------------

    def look(self) -> None:
        """Say again what had no room, and give up waiting for announcements."""
        for line in list(self._lines.values()):
            line.speak()
            if line.parked:
                self._unpark(line)

    async def stop(self) -> None:
        """Wait for what is under way: a thread that commits cannot be cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_S)
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reconsider(self, names: set[str | None]) -> None:
        """Devices were changed: send those away that may no longer be there."""
        for line in list(self._lines.values()):
            for origin in list(line.origins.values()):
                if origin.name in names:
                    self._reconsider(line, origin)

    def _reconsider(self, line: Line, origin: Origin) -> None:
        device, refusal = self._judge(line.hub, origin.name, origin.serial)
        if refusal is not None:
            if origin.is_good:
                origin.is_good = False
                origin.bye(refusal.reason)
        elif device is not None and origin.is_open:
            origin.group = device.group
            self._sessions.restrict(origin)
