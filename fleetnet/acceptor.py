"""The accepting half of a session: for the back-end and for a hub.

A device that only connects never imports this. docs/protocol.md section 4 has the states
and transitions as tables.
"""

from fleetnet import frame as wire
from fleetnet import limits, tags
from fleetnet.errors import NORMAL, VERSION, ProtocolError
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.handshake import TIME_BYTES, VERSION_MAJOR, Ending, Hello, Welcome
from fleetnet.session import CLOSING, GREETING, OPEN, Session
from fleetnet.session_link import Keepalive
from fleetnet.ticks import ticks_add, ticks_diff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.receiver import Receiver


# The acceptor waits for two pings and this.
_GRACE_MS = 15_000

# How long an acceptor waits for HELLO on an open link.
_GREETING_MS = 15_000


class HelloReceived:
    """The event: decide, then call ``AcceptorSession.welcome`` or ``AcceptorSession.refuse``."""

    def __init__(self, hello: Hello):
        self.hello = hello


class AcceptorKeepalive(Keepalive):
    """An acceptor never asks; it waits for two of the other's pings and a little longer."""

    def __init__(self, datagram: bool, now: int):
        super().__init__(datagram, now)
        self.wait_for_owner(now)

    def start(self, interval_ms: int, now: int) -> None:
        """As Keepalive.start."""
        super().start(2 * interval_ms + _GRACE_MS, now)

    def wait_for_owner(self, now: int) -> None:
        """HELLO is here; the owner has a grace time of its own to decide."""
        self.due = ticks_add(now, _GREETING_MS)

    def hurry(self, now: int) -> None:
        """An acceptor sends no PING."""

    def handle_timer(self, now: int) -> bytes:
        """Look whether the link is dead; return b""."""
        if self.due is not None and ticks_diff(self.due, now) <= 0:
            # Before the session is open the patience is 0: dribbled bytes buy no time.
            if self.silence_ms(now) >= self._interval_ms:
                self.is_dead = True
            else:
                self.due = ticks_add(self._last_heard, self._interval_ms)
        return b""


class AcceptorSession(Session):
    """A Session that waits for HELLO and decides on it.

    The owner answers the event HelloReceived with ``welcome`` or ``refuse``.
    """

    initiator = False
    _keepalive = AcceptorKeepalive
    receiver: "Receiver"
    # When the last acknowledgement left; None before the first of a link.
    _acknowledged_at: "int | None" = None

    def _greet(self, hello: Hello, now: int) -> None:
        """The initiator speaks first."""

    def welcome(self, welcome: Welcome, hello: Hello, durable: "dict[int, int]", now: int) -> None:
        """Accept the HELLO that the last HelloReceived carried.

        Args:
            welcome: session_id, window, keepalive_ms, ack_delay_ms, rate, capabilities
                and unix_ms are yours; the session fills in the rest.
            durable: stream -> last durable sequence of this device in hello.epoch.
        """
        if self.state != GREETING:
            return  # the link ended while the owner was deciding
        self.peer_epoch = b""
        self._fill(welcome)
        welcome.nonce = hello.nonce
        welcome.peer_epoch = self.peer_epoch = hello.epoch
        self.receiver.window = welcome.window
        self.receiver.ack_delay_ms = welcome.ack_delay_ms
        self.receiver.start(durable, hello.streams)
        self._acknowledged_at = None
        welcome.resume = self.receiver.resume_points()
        welcome.capabilities &= hello.capabilities
        try:
            if hello.peer_epoch == self.epoch:
                self._resume(hello.resume, limits.WINDOW)
        except ProtocolError as error:
            self._fail(error.reason, str(error))
            return
        self._link.say(wire.WELCOME, encode_welcome(welcome))
        self._link.answer = self._link.control[-1]
        self._open(welcome, now)

    def acknowledge(self, stream: int, seq: int, now: int) -> None:
        """As Session.acknowledge; at once when none left within the delay, else with others.

        A device that seldom speaks may sleep earlier so, and TCP needs no segment of its own to
        say that the message is there. docs/protocol.md section 6.1.
        """
        super().acknowledge(stream, seq, now)
        receiver, last = self.receiver, self._acknowledged_at
        if receiver.ack_due is not None and (
            last is None or ticks_diff(now, last) >= receiver.ack_delay_ms
        ):
            receiver.ack_due = now

    def _add_acknowledgements(self, frames: "list[bytes]", now: int) -> None:
        due = self.receiver.ack_due
        if due is not None and ticks_diff(due, now) <= 0:
            self._acknowledged_at = now
        super()._add_acknowledgements(frames, now)

    def set_window(self, window: int, now: int) -> None:
        """Change the room that acknowledgements offer, in messages a stream; 0 halts."""
        if window != self.receiver.window:
            self.receiver.window = window
            self.receiver.acknowledge_soon(now)

    def bye(self, now: int, reason: int = NORMAL, retry_after_ms: int = 0) -> None:
        """As Session.bye; what is durable is acknowledged before it, as nothing is behind it."""
        self._acknowledge_first()
        super().bye(now, reason, retry_after_ms)

    def _fail(self, reason: int, detail: str) -> None:
        self._acknowledge_first()
        super()._fail(reason, detail)

    def handle_timer(self, now: int) -> None:
        """As Session.handle_timer; a BYE is repeated behind what has become durable since."""
        due = self._link.repeat_due if self._link.datagram else None
        if self.state == CLOSING and due is not None and ticks_diff(due, now) <= 0:
            # The datagram with the first BYE may be lost, and the ACK with it.
            for stream in self.receiver.streams.values():
                stream.dirty = True
            self._acknowledge_first()
        super().handle_timer(now)

    def acknowledgement_alone(self, now: int) -> bytes:
        """Return ACK when it is due and all that there is to say or to do; else b"".

        What most timers of a server are for: ``handle_timer`` and ``data_to_send`` look at
        everything that may be due, which takes four times as long.
        """
        receiver, sender, link = self.receiver, self.sender, self._link
        due = receiver.ack_due
        check = link.keepalive.due
        if (
            due is None or ticks_diff(due, now) > 0 or self.state != OPEN or link.control
            or link.live or self.bulk is not None or sender.in_flight or sender.timer is not None
            or check is None or ticks_diff(check, now) <= 0
        ):  # fmt: skip
            return b""
        for stream in sender.streams.values():
            if stream.waiting or stream.forward:
                return b""
        self._acknowledged_at = now
        payload = receiver.ack_payload()
        return wire.encode_frame(wire.ACK, 0, 0, payload) if payload else b""

    def _acknowledge_first(self) -> None:
        """Queue ACK now: whoever hears a BYE listens no longer (docs/protocol.md section 8)."""
        if self.state == OPEN or self.state == CLOSING:
            payload = self.receiver.ack_payload()
            if payload:
                self._link.say(wire.ACK, payload)

    def refuse(self, reason: int, retry_after_ms: int = 0, detail: str = "") -> None:
        """Do not accept the device; the link ends after this frame."""
        if self.state != GREETING:
            return
        ending = Ending(reason, retry_after_ms, detail)
        self._link.clear()
        self._link.say(wire.REFUSE, ending.to_payload())
        self._link.answer = self._link.control[-1]
        self._finish(ending, False)

    def _receive_greeting(self, kind: int, payload: bytes, now: int) -> None:
        if kind != wire.HELLO:
            self._refuse_early(kind)
            return
        hello = decode_hello(payload)
        if self._link.nonce == hello.nonce:
            return  # repeated while the owner decides
        if self._link.nonce:
            raise ProtocolError("second HELLO on one link")
        self._link.nonce = hello.nonce
        if hello.version[0] != VERSION_MAJOR:
            self.refuse(VERSION, 0, "this end speaks version %d" % VERSION_MAJOR)
            return
        keepalive = self._link.keepalive
        if isinstance(keepalive, AcceptorKeepalive):
            keepalive.wait_for_owner(now)
        self._events.append(HelloReceived(hello))

    def _receive_control(self, kind: int, payload: bytes, now: int) -> None:
        if kind != wire.HELLO:
            super()._receive_control(kind, payload, now)
            return
        # Its answer was lost; the nonce tells a repetition from a second session.
        if decode_hello(payload).nonce != self._link.nonce:
            raise ProtocolError("second HELLO on one link")
        self._link.control.append(self._link.answer)


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the payload of WELCOME."""
    out = FieldWriter()
    welcome.put_common(out)
    out.put_bytes(tags.SESSION_ID, welcome.session_id)
    out.put_int(tags.WINDOW, welcome.window)
    out.put_int(tags.KEEPALIVE_MS, welcome.keepalive_ms)
    out.put_int(tags.ACK_DELAY_MS, welcome.ack_delay_ms)
    if welcome.rate:
        out.put_int(tags.RATE, welcome.rate)
    return out.to_payload()


def decode_hello(payload: bytes) -> Hello:
    """Read HELLO. Raises ProtocolError, nothing else. Version is left to the session."""
    fields = FieldReader(payload)
    hello = Hello()
    hello.take_common(fields)
    hello.codecs = fields.get_bytes(tags.CODECS)
    hello.software = fields.get_text(tags.SOFTWARE)
    hello.boot = fields.get_int(tags.BOOT)
    hello.uptime_ms = fields.get_int(tags.UPTIME_MS, 0, TIME_BYTES)
    hello.config_version = fields.get_int(tags.CONFIG_VERSION)
    hello.identity = fields.get_int(tags.IDENTITY)
    hello.probe = fields.get_int(tags.PROBE)
    return hello
