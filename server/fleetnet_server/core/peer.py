"""The server's view of one device on one link: its session, from HELLO to BYE."""

import os
from typing import TYPE_CHECKING

from fleetnet import errors, events
from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.errors import FleetError
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.reasons import reason_text
from fleetnet.receiver import Gap
from fleetnet.session import DOWN, GREETING, OPEN, OVER
from fleetnet.ticks import ticks_diff
from fleetnet_server.core.entering import STORE_RETRY_MS
from fleetnet_server.core.greeting import make_welcome, resume_points
from fleetnet_server.core.policing import Pace
from fleetnet_server.core.ports import SessionStart
from fleetnet_server.core.transport import Transport
from fleetnet_server.core.windowed import Windowed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authenticate import Authenticated, Refusal, Stranger
from fleetnet_server.identity.policy import Rules
from fleetnet_server.identity.registry import DEFAULT_GROUP, QUARANTINED, Device

if TYPE_CHECKING:
    from fleetnet_server.core.sessions import Sessions

# After the last frame a datagram link stays so long, to repeat an answer that was lost.
_AFTERLIFE_S = 5.0


class Peer(Windowed):
    """LinkHandler of one link.

    Attributes:
        device_id, name: of the authenticated device; 0 and the address for a refused one.
        address: of the client, without its port. via: the hub in between, "": none.
        group: whose policy it follows. rules, pace: see Windowed.
        is_quarantined: its messages are stored, and no service hears of them.
        foreign: its certificate, DER, when it was not issued here.
        boot: from HELLO, 0 when the device does not tell.
        serial: of the certificate of this link; 0: a pre-shared key, see psk_identity.
        epoch_id: the store's number of the epoch, once HELLO was accepted.
        pending: messages handed to the writer and not yet durable.
        stored, duplicates, lost: messages of this link that became durable, that were durable
            before, and that the device gave up.
        lag_ms: from the newest reading's time to its arrival, of the last commit; None: undated.
        seen: ticks of the last bytes that came.
        capabilities: CAN_* bits that both ends have, once the session is open.
    """

    __slots__ = (
        "_afterlife", "_boot_offset", "_changes", "_refusal", "_session",
        "_sessions", "_stranger", "_transport", "address", "boot", "device_id", "duplicates",
        "epoch_id", "foreign", "group", "is_open",
        "is_quarantined", "lag_ms", "lost", "name", "pending", "psk_identity",
        "seen", "serial", "stored", "via",
    )  # fmt: skip

    def __init__(
        self,
        sessions: "Sessions",
        transport: Transport,
        who: Authenticated | Stranger | Refusal,
        certificate: bytes,
    ):
        self._sessions = sessions
        self._transport: Transport | None = transport
        self.address = transport.address[0]
        self._changes = sessions.changes
        self._refusal: Refusal | None = None
        self._stranger: Stranger | None = None
        self.device_id = self.serial = 0
        self.psk_identity = self.via = ""
        self.group = DEFAULT_GROUP
        self.rules: Rules | None = None
        self.pace: Pace | None = None
        self.is_quarantined = False
        self.foreign = certificate
        self.name = f"at {self.address}"
        if isinstance(who, Refusal):
            self._refusal = who
        elif isinstance(who, Stranger):
            self._stranger = who
            self.name, self.serial = who.name, who.serial
        else:
            self.serial, self.psk_identity = who.serial, who.psk_identity
            self._is(who.device)
        self.epoch_id = self.pending = self.stored = self.duplicates = self.lost = 0
        self.lag_ms: int | None = None
        self.seen = port.ticks()
        self.is_open = False
        self.near_at = self.far_at = 0
        self._ack_armed: int | None = None
        self._afterlife = False
        self.boot = 0
        self._boot_offset = 0
        self._session = AcceptorSession(
            os.urandom, max_frame=sessions.max_frame, wall_ms=port.unix_ms
        )
        self._session.open_link(port.ticks(), transport.datagram)
        self._arm(port.ticks())

    def _is(self, device: Device) -> None:
        self.device_id, self.name, self.group = device.id, device.name, device.group
        self.is_quarantined = device.state == QUARANTINED
        if self.serial in device.valid:
            self.foreign = b""

    # -- what the listener calls -----------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """See LinkHandler."""
        self.seen = now = port.ticks()
        session = self._session
        session.receive_data(data, now)
        needs_answer = True
        stored_kinds = self._sessions.stored_kinds
        for event in session.take_events():
            if type(event) is events.Received and event.seq and event.kind in stored_kinds:
                self._sessions.router.take(self, event)
                needs_answer = False
            else:
                self._handle(event, now)
        if needs_answer:
            self._flush(now)
        else:
            due = session.receiver.ack_due
            if due is not None and due != self._ack_armed:
                # Nothing else has become due by what came.
                self._ack_armed = due
                self._sessions.timers.arm(self, ticks_diff(due, now) / 1000)

    def link_lost(self, error: FleetError | None) -> None:
        """See LinkHandler."""
        self._let_go()
        self._session.close_link()
        self._sessions.leave(self, "link lost" if error is None else str(error))

    # -- what the session says ---------------------------------------------------------

    def _handle(self, event: object, now: int) -> None:
        if isinstance(event, HelloReceived):
            self._hello(event.hello, now)
        elif isinstance(event, Gap):
            self._sessions.store.note_gap(
                self.device_id, self.epoch_id, event.stream, event.first, event.last
            )
            self._sessions.noted_gap(self, event)
        elif isinstance(event, events.Closed):
            self._closed(event)
        elif isinstance(event, events.Received):
            if not event.seq:
                if not self.is_quarantined:
                    self._sessions.services.received(self, event)
            elif event.kind & wire.OPTIONAL:
                self._sessions.router.take(self, event)
            elif event.kind == wire.RELAY:
                self._sessions.relays.take(self, event)
            else:
                # Nothing is acknowledged, so nothing is lost: a newer server will take it.
                self._session.bye(now, errors.UNKNOWN_KIND)

    def _hello(self, hello: Hello, now: int) -> None:
        if self._refusal is None and self._changes != self._sessions.changes:
            self._judge_again()
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif hello.probe:
            self.turn_away(errors.NORMAL, 0)
        elif self._stranger is not None:
            self._sessions.spawn(self._register(self._stranger, hello))
        else:
            self._sessions.ask(self, hello, self._transport)

    def _judge_again(self) -> None:
        who = self._sessions.judge(self)
        self._refusal = who if isinstance(who, Refusal) else None
        self._stranger = who if isinstance(who, Stranger) else None
        self.device_id = 0
        if isinstance(who, Authenticated):
            self._is(who.device)

    def _refuse(self, refusal: Refusal) -> None:
        self._sessions.refused(self, refusal)
        self.turn_away(refusal.reason, refusal.retry_after_ms)

    def turn_away(self, reason: int, retry_after_ms: int) -> None:
        """Answer HELLO with REFUSE."""
        self._session.refuse(reason, retry_after_ms)
        self._end()

    async def _register(self, stranger: Stranger, hello: Hello) -> None:
        """Make a stranger a device, as the policy wants, and go on with its HELLO."""
        if not await self._sessions.entering.register(stranger):
            self.turn_away(errors.STORE_UNAVAILABLE, STORE_RETRY_MS)
            return
        if self._transport is None:
            return
        self._judge_again()
        if self._stranger is not None:
            self._refusal = Refusal(errors.UNKNOWN_DEVICE, "it cannot be registered")
        self._hello(hello, port.ticks())
        self._flush(port.ticks())

    def enter(self, hello: Hello) -> None:
        """The gate lets the device in, perhaps a while after its HELLO."""
        if self._transport is None:
            return
        if self._changes != self._sessions.changes:
            self._judge_again()
        self.boot = hello.boot
        if not self.device_id:
            self._refuse(self._refusal or Refusal(errors.UNKNOWN_DEVICE, "it was removed"))
        else:
            must_flush = self._sessions.enter(self)
            self._sessions.entering.begin(
                self, hello, self._transport.kind, must_flush,
                lambda start: self._begun(hello, start),
            )  # fmt: skip
        self._flush(port.ticks())

    def _begun(self, hello: Hello, start: SessionStart | None) -> None:
        """The store knows where it goes on; its link, or its turn, may be gone meanwhile."""
        if self._transport is None or self._session.state != GREETING:
            return
        if start is None:
            self.turn_away(errors.STORE_UNAVAILABLE, STORE_RETRY_MS)
        else:
            self._welcome(hello, start, port.ticks())
        self._flush(port.ticks())

    def _welcome(self, hello: Hello, start: SessionStart, now: int) -> None:
        sessions = self._sessions
        try:
            marks = resume_points(sessions, self.device_id, hello, start.marks)
        except StoreUnavailable:
            self.turn_away(errors.STORE_UNAVAILABLE, STORE_RETRY_MS)
            return
        self.epoch_id = start.epoch_id
        if hello.boot:
            self._boot_offset = port.unix_ms() - hello.uptime_ms
            sessions.store.set_boot(self.device_id, hello.boot, self._boot_offset)
        sessions.restrict(self)
        is_datagram = self._transport is not None and self._transport.datagram
        welcome = make_welcome(sessions, self._window(), self.is_quarantined, is_datagram)
        self._session.welcome(welcome, hello, marks, now)
        # A HELLO that contradicts the store, or a link that ended meanwhile, opens nothing.
        if self._session.state == OPEN:
            self.is_open = True
            sessions.opened(self, hello, self._transport)
        for event in self._session.take_events():
            self._handle(event, now)

    def _closed(self, event: events.Closed) -> None:
        ending = event.ending
        text = reason_text(ending.reason)
        if ending.detail:
            text = f"{text}: {ending.detail}"
        self._sessions.leave(self, f"{'device' if event.by_peer else 'server'} ended it: {text}")
        self._end()

    def _end(self) -> None:
        """Nothing more will be received: send what is left, then let go of the link."""
        self._flush(port.ticks())
        transport = self._transport
        if transport is None:
            return
        if transport.datagram:
            self._afterlife = True
            self._sessions.timers.forget(self)  # what was due earlier would end it
            self._sessions.timers.arm(self, _AFTERLIFE_S)
        else:
            self._let_go()
            transport.close()

    def _let_go(self) -> "Transport | None":
        """Return the link, which is no longer ours; nothing shall keep the session in memory."""
        transport, self._transport = self._transport, None
        self._sessions.timers.forget(self)
        return transport

    # -- what services call --------------------------------------------------------------

    @property
    def capabilities(self) -> int:
        return self._session.capabilities if self.is_open else 0

    def send(self, stream: int, kind: int, payload: bytes) -> bool:
        """Queue a message that must arrive on this link; False when there is no room now.

        What the link's end cuts off is the caller's to send again on the next one.
        """
        if not self.is_open or not self._session.has_room(stream, len(payload)):
            return False
        self._session.send(stream, kind, payload)
        self._flush(port.ticks())
        return True

    def send_live(self, kind: int, payload: bytes, stream: int = 0) -> bool:
        """Send a best-effort frame; False when there is no way now."""
        if not self.is_open or not self._session.send_live(stream, kind, payload):
            return False
        self._flush(port.ticks())
        return True

    # -- what the router and the sessions table call -------------------------------------

    def boot_offset(self, boot: int) -> int | None:
        """Return unix ms minus uptime ms of a boot of this device, None when unknown."""
        if boot == self.boot:
            return self._boot_offset
        return self._sessions.store.boot_offset(self.device_id, boot)

    def acknowledge(self, stream: int, seq: int, now: int) -> None:
        """Messages up to ``seq`` are durable; the acknowledgement leaves when it is due."""
        if not self.is_open:
            if not self.pending:
                self._sessions.entering.drained(self)
            return
        self._session.acknowledge(stream, seq, now)
        due = self._session.receiver.ack_due
        if due is not None and ticks_diff(due, now) <= 0:
            if not self._send_acknowledgement(now):
                self._flush(now)
        elif due is not None and due != self._ack_armed:
            # Most commits find the acknowledgement waiting for the timer of an earlier one.
            self._ack_armed = due
            self._sessions.timers.arm(self, ticks_diff(due, now) / 1000)

    @property
    def holder(self) -> "Peer":
        """Whose lease its messages come under: its own, or its hub's."""
        return self

    def forget(self, count: int) -> None:
        """So many of its messages were not stored here, and are never acknowledged."""
        self.pending -= count
        if not self.is_open and not self.pending:
            self._sessions.entering.drained(self)

    def bye(self, reason: int, retry_after_ms: int = 0) -> None:
        """Begin to end the session."""
        now = port.ticks()
        if self._session.state in (DOWN, OVER):
            return
        self._session.bye(now, reason, retry_after_ms)
        self._flush(now)

    def drop(self) -> None:
        """End the link now, whatever the session's state."""
        self.is_open = False
        transport = self._let_go()
        if transport is not None:
            transport.abort()

    def handle_timer(self) -> None:
        """See Timers."""
        transport = self._transport
        if transport is None:
            return
        if self._afterlife:
            self._let_go()
            transport.close()
            return
        now = port.ticks()
        if self._send_acknowledgement(now):
            return
        session = self._session
        session.handle_timer(now)
        for event in session.take_events():
            self._handle(event, now)
        self._flush(now)

    def _flush(self, now: int) -> None:
        transport = self._transport
        if transport is None:
            return
        while chunks := self._session.data_to_send(now):
            for chunk in chunks:
                transport.send(chunk)
        if not self._afterlife:
            self._arm(now)

    def _arm(self, now: int) -> None:
        due = self._session.next_timer()
        if due is not None:
            self._sessions.timers.arm(self, ticks_diff(due, now) / 1000)
