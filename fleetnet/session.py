"""One session between a device and its back-end, over any sequence of links.

Rules of this file: no I/O, no clock, no randomness of its own; the owner passes ``now``
(ticks.py) into every call that needs it and random bytes into the constructor. Five
verbs move it: ``receive_data``, ``data_to_send``, ``next_event``, ``next_timer``,
``handle_timer``. Whatever the network delivers, these verbs do not raise.

The initiator (device) keeps one Session for as long as it runs and calls ``open_link``
for each connection; the acceptor (server, hub) makes one for each link and gives it the
store's resume points.

Source: docs/protocol.md sections 4 to 8.
"""

from fleetnet import frame as wire
from fleetnet import limits
from fleetnet.errors import (
    GOING_AWAY,
    IDLE,
    LIMIT,
    NORMAL,
    PROTOCOL,
    UNKNOWN_KIND,
    VERSION,
    LimitError,
    ProtocolError,
)
from fleetnet.events import Closed, Delivered, HelloReceived, Opened, Received, Refused, TimeHeard
from fleetnet.handshake import (
    EPOCH_SIZE,
    NONCE_SIZE,
    VERSION_MAJOR,
    Ending,
    Greeting,
    Hello,
    Welcome,
    decode_ending,
    decode_hello,
    decode_welcome,
)
from fleetnet.keepalive import Keepalive
from fleetnet.receiver import Receiver, decode_ack
from fleetnet.sender import Sender
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet.varint import put_varint, take_varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# States.
DOWN = 0  # no link
GREETING = 1  # initiator: HELLO sent; acceptor: waiting for it, or deciding on it
OPEN = 2
CLOSING = 3  # our BYE is out, its answer is not here yet
OVER = 4  # nothing more will be received on this link

# HELLO and BYE are sent again after so long on a datagram link.
_REPEAT_MS = 1_000
_BYE_TRIES = 3

# How much one call of data_to_send hands out: two TLS records, or a few datagrams, so
# that a slow link never holds a whole window in copies.
_BUDGET = 8192


class Session:
    """See the module's docstring.

    Args:
        random_bytes: function giving n unpredictable bytes (os.urandom).
        initiator: True on the device.
        epoch: 8 bytes that name this run of sequence numbers; None draws them.
        fragment_payload: largest payload of a sequenced frame, bytes.
        max_frame: largest frame payload that this end takes, bytes.
        max_message: largest message that this end puts together from fragments, bytes.
        wall_ms: function giving unix time in ms, or 0 when unknown; None: unknown.
    """

    def __init__(
        self,
        random_bytes: "Callable[[int], bytes]",
        initiator: bool = True,
        epoch: "bytes | None" = None,
        fragment_payload: int = limits.FRAGMENT_PAYLOAD,
        max_frame: int = limits.MAX_FRAME_PAYLOAD,
        max_message: int = limits.MAX_MESSAGE,
        wall_ms: "Callable[[], int] | None" = None,
    ):
        self.state = DOWN
        self.initiator = initiator
        self.epoch = epoch or random_bytes(EPOCH_SIZE)
        self.peer_epoch = b""
        self.max_frame = max_frame
        self.capabilities = 0
        self.live_dropped = 0
        self.sender = Sender(fragment_payload)
        self._events: "list[object]" = []
        self.receiver = Receiver(self._events, max_message)
        self._random_bytes = random_bytes
        self._wall_ms = wall_ms
        self._fragment = fragment_payload
        self._control: "list[bytes]" = []
        self._live: "list[bytes]" = []
        self._keepalive = Keepalive(initiator, False, 0)
        self._datagram = False
        self._splitter: "wire.FrameSplitter | None" = None
        self._repeat = b""
        self._repeat_due: "int | None" = None
        self._repeats = 0
        self._nonce = b""
        self._welcome_frame = b""
        self._ending: "Ending | None" = None

    # -- links ---------------------------------------------------------------------

    def open_link(self, now: int, datagram: bool, hello: "Hello | None" = None) -> None:
        """Begin on a new link that is connected and secured.

        Args:
            datagram: True for DTLS.
            hello: initiator only: software, boot, uptime_ms and capabilities are taken
                from it; the session fills in the rest.

        Raises:
            LimitError: fragments are too large for a datagram link.
        """
        if datagram and self._fragment > limits.FRAGMENT_PAYLOAD:
            raise LimitError(
                "fragments of %d B do not fit a datagram link (%d B)"
                % (self._fragment, limits.FRAGMENT_PAYLOAD)
            )
        self._datagram = datagram
        self._splitter = None if datagram else wire.FrameSplitter(self.max_frame)
        self._control = []
        self._live = []
        self._ending = None
        self._repeat_due = None
        self._welcome_frame = b""
        self._keepalive = Keepalive(self.initiator, datagram, now)
        self.sender.open_link(datagram)
        self.receiver.open_link(datagram)
        self.state = GREETING
        if self.initiator:
            self._greet(hello or Hello(), now)

    def close_link(self) -> None:
        """The link is gone; everything unacknowledged stays for the next one."""
        self.state = DOWN
        self._control = []
        self._live = []
        self._repeat_due = None

    def _greet(self, hello: Hello, now: int) -> None:
        self._nonce = self._random_bytes(NONCE_SIZE)
        self._fill(hello)
        hello.nonce = self._nonce
        self._send_repeated(wire.HELLO, hello.to_payload(), now, 1 << 20)

    def _fill(self, greeting: Greeting) -> None:
        greeting.epoch = self.epoch
        greeting.max_frame = self.max_frame
        for number, stream in self.sender.streams.items():
            greeting.streams[number] = (stream.oldest(), stream.next_seq)
        if self.peer_epoch and self.initiator:
            greeting.peer_epoch = self.peer_epoch
            greeting.resume = self.receiver.resume_points()
        if self._wall_ms is not None:
            greeting.unix_ms = self._wall_ms()

    # -- the owner's side ----------------------------------------------------------

    def welcome(self, welcome: Welcome, hello: Hello, durable: "dict[int, int]", now: int) -> None:
        """Acceptor: accept the HELLO that the last HelloReceived carried.

        Args:
            welcome: session_id, window, keepalive_ms, ack_delay_ms, rate, capabilities
                and unix_ms are yours; the session fills in the rest.
            durable: stream -> last durable sequence of this device in hello.epoch.
        """
        self._fill(welcome)
        welcome.nonce = hello.nonce
        welcome.peer_epoch = hello.epoch
        self.peer_epoch = hello.epoch
        self.receiver.window = welcome.window
        self.receiver.ack_delay_ms = welcome.ack_delay_ms
        self.receiver.start(durable, hello.streams)
        welcome.resume = self.receiver.resume_points()
        self.capabilities = welcome.capabilities & hello.capabilities
        welcome.capabilities = self.capabilities
        if hello.peer_epoch == self.epoch:
            self._resume(hello.resume, limits.WINDOW)
        self._welcome_frame = wire.encode_frame(wire.WELCOME, 0, 0, welcome.to_payload())
        self._control.append(self._welcome_frame)
        self._open(welcome, now)

    def refuse(self, reason: int, retry_after_ms: int = 0, detail: str = "") -> None:
        """Acceptor: do not accept the device; the link ends after this frame."""
        ending = Ending(reason, retry_after_ms, detail)
        self._control = [wire.encode_frame(wire.REFUSE, 0, 0, ending.to_payload())]
        self._welcome_frame = self._control[0]
        self.state = OVER
        self._events.append(Closed(ending, False))

    def send(self, stream: int, kind: int, payload: bytes) -> int:
        """Queue a message that must arrive; return its sequence number.

        Callable without a link. ``payload`` is kept, not copied, until Delivered.

        Raises:
            LimitError: see Sender.queue; ask ``has_room`` first.
        """
        return self.sender.queue(stream, kind, payload)

    def has_room(self, stream: int, size: int = 0) -> bool:
        """Say whether ``send`` takes a payload of ``size`` bytes on this stream now."""
        return self.sender.room(stream) >= self.sender.frames_of(size)

    def give_up(self, stream: int, oldest: int) -> None:
        """Forget unacknowledged messages below ``oldest``; the peer records the gap."""
        self.sender.give_up(stream, oldest)

    def send_live(self, stream: int, kind: int, payload: bytes) -> bool:
        """Offer a best-effort message; False (and counted) when there is no way now."""
        if self.state != OPEN or len(payload) > self._fragment:
            self.live_dropped += 1
            return False
        if len(self._live) >= limits.LIVE_QUEUE:
            self._live.pop(0)
            self.live_dropped += 1
        self._live.append(wire.encode_frame(kind, stream, 0, payload))
        return True

    def acknowledge(self, stream: int, seq: int, now: int) -> None:
        """The messages of ``stream`` up to ``seq`` are durable here: tell the peer."""
        if self.state in (OPEN, CLOSING):
            self.receiver.acknowledge(stream, seq, now)

    def set_window(self, window: int, now: int) -> None:
        """Change the room that acknowledgements offer, in messages a stream; 0 halts."""
        if window != self.receiver.window:
            self.receiver.window = window
            self.receiver.acknowledge_soon(now)

    def bye(self, now: int, reason: int = NORMAL, retry_after_ms: int = 0) -> None:
        """Begin a clean end: BYE, its answer, then Closed."""
        if self.state in (DOWN, OVER, CLOSING):
            return
        self._ending = Ending(reason, retry_after_ms)
        self.state = CLOSING
        self._send_repeated(wire.BYE, self._ending.to_payload(), now, _BYE_TRIES)

    # -- the five verbs --------------------------------------------------------------

    def receive_data(self, data: bytes, now: int) -> None:
        """Take what the link delivered: one datagram, or any piece of the stream."""
        if self.state in (DOWN, OVER):
            self._answer_after_end(data)
            return
        self._keepalive.heard(now)
        try:
            if self._splitter is None:
                frames = wire.split_datagram(data, self.max_frame)
            else:
                frames = self._splitter.split(data)
            receiver = self.receiver
            for kind, flags, seq, payload in frames:
                if flags & wire.SEQUENCED and self.state == OPEN:
                    if kind & 0x7F < wire.MESSAGE:
                        raise ProtocolError("control frame %d with a sequence number" % kind)
                    receiver.receive(flags & wire.STREAM_MASK, seq, kind, flags, payload, now)
                else:
                    self._receive_other(kind, flags, payload, now)
        except ProtocolError as error:
            self._fail(error.reason, str(error))

    def next_event(self) -> "object | None":
        """Return the oldest event not yet taken, or None."""
        return self._events.pop(0) if self._events else None

    def take_events(self) -> "list[object]":
        """Return all events not yet taken, oldest first."""
        events = self._events[:]
        self._events.clear()
        return events

    def data_to_send(self, now: int) -> "list[bytes]":
        """Return what the link should carry now; [] when there is nothing.

        On a stream link one bytes object; on a datagram link one bytes object for each
        datagram. Call again until it returns [].
        """
        frames = self._control
        self._control = []
        if self.state in (OPEN, CLOSING):
            self._add_acknowledgements(frames, now)
            if self.state == OPEN:
                frames.extend(self.sender.frames_to_send(now, _BUDGET))
                if self._live:
                    frames.extend(self._live)
                    self._live = []
        if not frames:
            return frames
        if not self._datagram:
            return [b"".join(frames)]
        return _pack(frames)

    def next_timer(self) -> "int | None":
        """Return the tick at which handle_timer wants to run, or None."""
        due = self._repeat_due
        if self.state in (OPEN, CLOSING):
            for other in (
                self.receiver.ack_due,
                self.sender.timer,
                self.sender.forward_due,
                self._keepalive.due,
            ):
                if other is not None and (due is None or ticks_diff(other, due) < 0):
                    due = other
        elif self.state == GREETING and not self.initiator:
            due = self._keepalive.due
        return due

    def handle_timer(self, now: int) -> None:
        """Do what is due at ``now``; harmless when nothing is."""
        if self.state in (DOWN, OVER):
            return
        if self._repeat_due is not None and ticks_diff(self._repeat_due, now) <= 0:
            self._repeat_now(now)
        if self.state == OPEN:
            timer = self.sender.timer
            if timer is not None and ticks_diff(timer, now) <= 0:
                self.sender.handle_timer(now)
                self._keepalive.hurry(now)
        ping = self._keepalive.handle_timer(now)
        if ping:
            self._control.append(wire.encode_frame(wire.PING, 0, 0, ping))
        if self._keepalive.is_dead:
            self._fail(IDLE, "nothing was heard for %d ms" % self._keepalive.silence_ms(now))

    # -- receiving -------------------------------------------------------------------

    def _receive_other(self, kind: int, flags: int, payload: bytes, now: int) -> None:
        """Handle control frames, live messages, and whatever comes before OPEN."""
        if kind == wire.BYE:
            self._receive_bye(payload)
        elif self.state == GREETING:
            self._receive_greeting(kind, payload, now)
        elif self.state == OPEN or self.state == CLOSING:
            if kind & 0x7F < wire.MESSAGE:
                if not kind & wire.OPTIONAL:
                    self._receive_control(kind, payload, now)
            elif self.state == OPEN and not flags & wire.SEQUENCED:
                self._events.append(Received(flags & wire.STREAM_MASK, 0, kind, payload))

    def _receive_control(self, kind: int, payload: bytes, now: int) -> None:
        if kind == wire.ACK:
            self.sender.window, entries = decode_ack(payload)
            for number, cum, bitmap in entries:
                if self.sender.acknowledge(number, cum, bitmap, now):
                    self._events.append(Delivered(number, cum))
        elif kind == wire.PING:
            self._send_pong(payload)
            self.receiver.acknowledge_soon(now)
        elif kind == wire.PONG:
            unix_ms, _ = take_varint(payload, 2, 7)
            if unix_ms:
                self._events.append(TimeHeard(unix_ms))
        elif kind == wire.FORWARD:
            self._receive_forward(payload, now)
        elif kind == wire.BYE_ACK:
            if self.state == CLOSING:
                self._finish(self._ending, False)
        elif kind == wire.HELLO and not self.initiator:
            # Its answer was lost; the nonce tells a repetition from a second session.
            if decode_hello(payload).nonce != self._nonce:
                raise ProtocolError("second HELLO on one link")
            self._control.append(self._welcome_frame)
        elif kind not in (wire.WELCOME, wire.REFUSE):
            raise ProtocolError("unknown critical frame kind 0x%02x" % kind, UNKNOWN_KIND)

    def _receive_greeting(self, kind: int, payload: bytes, now: int) -> None:
        if self.initiator and kind == wire.WELCOME:
            welcome = decode_welcome(payload)
            if welcome.nonce == self._nonce:
                self._accept_welcome(welcome, now)
        elif self.initiator and kind == wire.REFUSE:
            ending = decode_ending(payload)
            self._finish(None, True)
            self._events.append(Refused(ending))
        elif not self.initiator and kind == wire.HELLO:
            hello = decode_hello(payload)
            if self._nonce == hello.nonce:
                return  # repeated while the owner decides
            if self._nonce:
                raise ProtocolError("second HELLO on one link")
            self._nonce = hello.nonce
            if hello.version[0] != VERSION_MAJOR:
                self.refuse(VERSION, 0, "this end speaks version %d" % VERSION_MAJOR)
                return
            self._events.append(HelloReceived(hello))
        elif not kind & wire.OPTIONAL and not self._datagram:
            raise ProtocolError("frame kind 0x%02x before the session is open" % kind)

    def _accept_welcome(self, welcome: Welcome, now: int) -> None:
        if welcome.version[0] != VERSION_MAJOR:
            raise ProtocolError("peer speaks version %d" % welcome.version[0], VERSION)
        if welcome.max_frame < self._fragment:
            raise ProtocolError("peer takes frames of %d B only" % welcome.max_frame, LIMIT)
        if welcome.peer_epoch != self.epoch:
            raise ProtocolError("WELCOME names another epoch")
        self.sender.rtt.ack_delay_ms = welcome.ack_delay_ms
        self.receiver.ack_delay_ms = welcome.ack_delay_ms
        if welcome.epoch == self.peer_epoch:
            self.receiver.rewind(welcome.streams)
        else:
            self.peer_epoch = welcome.epoch
            self.receiver.start({}, welcome.streams)
        self.capabilities = welcome.capabilities
        self._resume(welcome.resume, welcome.window)
        self._open(welcome, now)

    def _resume(self, points: "dict[int, int]", window: int) -> None:
        for number, seq in self.sender.resume(points, window):
            self._events.append(Delivered(number, seq))

    def _open(self, welcome: Welcome, now: int) -> None:
        self.state = OPEN
        self._repeat_due = None
        self._keepalive.start(welcome.keepalive_ms, now)
        self._events.append(Opened(welcome))

    def _receive_forward(self, payload: bytes, now: int) -> None:
        at = 0
        while at < len(payload):
            number = payload[at]
            oldest, at = take_varint(payload, at + 1)
            if number > limits.MAX_STREAM or not 0 < oldest <= limits.MAX_SEQUENCE + 1:
                raise ProtocolError("FORWARD of stream %d to %d" % (number, oldest))
            self.receiver.forward(number, oldest)
        self.receiver.acknowledge_soon(now)

    def _receive_bye(self, payload: bytes) -> None:
        ending = decode_ending(payload)
        self._control.append(wire.encode_frame(wire.BYE_ACK, 0, 0, b""))
        self._finish(ending, True)

    def _answer_after_end(self, data: bytes) -> None:
        """A repeated BYE or HELLO means that our answer was lost: say it again."""
        if self.state != OVER or not self._datagram or not data:
            return
        if data[0] == wire.BYE:
            self._control = [wire.encode_frame(wire.BYE_ACK, 0, 0, b"")]
        elif data[0] == wire.HELLO and self._welcome_frame:
            self._control = [self._welcome_frame]

    # -- sending ---------------------------------------------------------------------

    def _add_acknowledgements(self, frames: "list[bytes]", now: int) -> None:
        due = self.receiver.ack_due
        if due is not None and ticks_diff(due, now) <= 0:
            payload = self.receiver.ack_payload()
            if payload:
                frames.append(wire.encode_frame(wire.ACK, 0, 0, payload))
        forwards = self.sender.forwards_to_send(now)
        if forwards:
            body = bytearray()
            for number in sorted(forwards):
                body.append(number)
                put_varint(body, forwards[number])
            frames.append(wire.encode_frame(wire.FORWARD, 0, 0, bytes(body)))

    def _send_pong(self, ping: bytes) -> None:
        body = bytearray(ping[:2])
        put_varint(body, self._wall_ms() if self._wall_ms is not None else 0)
        self._control.append(wire.encode_frame(wire.PONG, 0, 0, bytes(body)))

    def _send_repeated(self, kind: int, payload: bytes, now: int, tries: int) -> None:
        """Send now and, on a datagram link, again until something answers."""
        self._repeat = wire.encode_frame(kind, 0, 0, payload)
        self._control.append(self._repeat)
        self._repeats = tries
        self._repeat_due = None
        if self._datagram or kind == wire.BYE:
            self._repeat_due = ticks_add(now, _REPEAT_MS)

    def _repeat_now(self, now: int) -> None:
        self._repeats -= 1
        if self._repeats <= 0:
            self._finish(self._ending or Ending(GOING_AWAY), False)
            return
        if self._datagram:
            self._control.append(self._repeat)
        self._repeat_due = ticks_add(now, _REPEAT_MS)

    # -- endings ---------------------------------------------------------------------

    def _finish(self, ending: "Ending | None", by_peer: bool) -> None:
        self.state = OVER
        self._repeat_due = None
        if ending is not None:
            self._events.append(Closed(ending, by_peer))

    def _fail(self, reason: int, detail: str) -> None:
        """A rule was broken, or the peer fell silent: say why and end this link."""
        ending = Ending(reason if reason else PROTOCOL, 0, detail)
        self._control.append(wire.encode_frame(wire.BYE, 0, 0, ending.to_payload()))
        self._finish(ending, False)


def _pack(frames: "list[bytes]") -> "list[bytes]":
    """Put whole frames together into datagrams of at most DATAGRAM_PAYLOAD bytes."""
    datagrams = []
    group: "list[bytes]" = []
    size = 0
    for encoded in frames:
        if group and size + len(encoded) > limits.DATAGRAM_PAYLOAD:
            datagrams.append(b"".join(group))
            group = []
            size = 0
        group.append(encoded)
        size += len(encoded)
    datagrams.append(b"".join(group))
    return datagrams
