"""The accepting half of a session: for the back-end and for a hub.

A device that only connects never imports this. docs/protocol.md section 4 has the states
and transitions as tables.
"""

from fleetnet import frame as wire
from fleetnet import limits, tags
from fleetnet.errors import NORMAL, VERSION, ProtocolError
from fleetnet.events import HelloReceived
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.handshake import TIME_BYTES, VERSION_MAJOR, Ending, Hello, Welcome
from fleetnet.session import CLOSING, GREETING, OPEN, Session
from fleetnet.ticks import ticks_diff


class AcceptorSession(Session):
    """A Session that waits for HELLO and decides on it.

    The owner answers the event HelloReceived with ``welcome`` or ``refuse``.
    """

    initiator = False

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
        self._link.keepalive.wait_for_owner(now)
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
