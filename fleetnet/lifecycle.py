"""The life of a session: from a link to OPEN, to BYE, to the next link.

Used by session.py, whose Session adds the messages. docs/protocol.md section 4 has these
states and transitions as tables.
"""

from fleetnet import frame as wire
from fleetnet import limits
from fleetnet.errors import NORMAL, PROTOCOL, LimitError, ProtocolError
from fleetnet.events import Closed, Delivered, Opened, Refused
from fleetnet.handshake import (
    EPOCH_SIZE,
    NONCE_SIZE,
    Ending,
    Greeting,
    Hello,
    Welcome,
    check_welcome,
    decode_ending,
    decode_welcome,
)
from fleetnet.sender import Sender
from fleetnet.session_link import Keepalive, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from fleetnet.receiver import Receiver

    class Bulk(Protocol):
        """Where chunks of blobs come from when nothing more urgent waits."""

        def next_frame(self, now: int) -> "tuple[int, bytes | memoryview] | None":
            """Return (kind, payload) of one best-effort frame, or None."""

        def next_timer(self) -> "int | None":
            """Return the tick at which handle_timer wants to run, or None."""

        def handle_timer(self, now: int) -> None:
            """Do what is due; harmless when nothing is."""


# HELLO is repeated for as long as the owner keeps the link.
_HELLO_TRIES = 1 << 20
_BYE_TRIES = 3

# States.
DOWN = 0  # no link
GREETING = 1  # initiator: HELLO sent; acceptor: waiting for it, or deciding on it
OPEN = 2
CLOSING = 3  # our BYE is out, its answer is not here yet
OVER = 4  # nothing more will be received on this link


class Lifecycle:
    """State, both directions, and the frames that begin and end a session.

    Args:
        random_bytes: function giving n unpredictable bytes (os.urandom).
        epoch: 8 bytes that name this run of sequence numbers; None draws them.
        fragment_payload: largest payload of a sequenced frame, bytes.
        max_frame: largest frame payload that this end takes, bytes.
        max_message: largest message that this end puts together from fragments, bytes.
        wall_ms: function giving unix time in ms, or 0 when unknown; None: unknown.

    Attributes:
        bulk: source of best-effort chunks, asked for one at a time when nothing else
            waits; None without blobs.
        receiver: what comes; made by ``listen`` when something does, as most devices only
            send. An acceptor has it from the start.
    """

    initiator = True
    _keepalive = Keepalive

    def __init__(
        self,
        random_bytes: "Callable[[int], bytes]",
        epoch: "bytes | None" = None,
        fragment_payload: int = limits.FRAGMENT_PAYLOAD,
        max_frame: int = limits.MAX_FRAME_PAYLOAD,
        max_message: int = limits.MAX_MESSAGE,
        wall_ms: "Callable[[], int] | None" = None,
    ):
        self.state = DOWN
        self.epoch = epoch or random_bytes(EPOCH_SIZE)
        self.peer_epoch = b""
        self.max_frame = max_frame
        self.capabilities = 0
        self.live_dropped = 0
        self.bulk: "Bulk | None" = None
        self.sender = Sender(fragment_payload)
        self._events: "list[object]" = []
        self.receiver: "Receiver | None" = None
        self._max_message = max_message
        self._ack_delay_ms = 100
        self._random_bytes = random_bytes
        self._wall_ms = wall_ms
        self._fragment = fragment_payload
        self._link = Link(Keepalive(False, 0), False, max_frame)
        if not self.initiator:
            self.listen()

    # -- links ---------------------------------------------------------------------

    def open_link(self, now: int, datagram: bool, hello: "Hello | None" = None) -> None:
        """Begin on a new link that is connected and secured.

        Args:
            datagram: True for DTLS.
            hello: software, boot, uptime_ms and capabilities are taken
                from it; the session fills in the rest.

        Raises:
            LimitError: fragments are too large for a datagram link.
        """
        if datagram and self._fragment > limits.FRAGMENT_PAYLOAD:
            raise LimitError(
                "fragments of %d B do not fit a datagram link (%d B)"
                % (self._fragment, limits.FRAGMENT_PAYLOAD)
            )
        self._link = Link(self._keepalive(datagram, now), datagram, self.max_frame)
        self.sender.open_link(datagram)
        if self.receiver is not None:
            self.receiver.open_link(datagram)
        self.state = GREETING
        self._greet(hello or Hello(), now)

    def listen(self) -> "Receiver":
        """Return the receiving half; a session that only sends has none until then."""
        receiver = self.receiver
        if receiver is None:
            from fleetnet.receiver import Receiver

            receiver = self.receiver = Receiver(self._events, self._max_message)
            receiver.open_link(self._link.datagram)
            receiver.ack_delay_ms = self._ack_delay_ms
        return receiver

    def close_link(self) -> None:
        """The link is gone; everything unacknowledged stays for the next one."""
        self.state = DOWN
        self._link.clear()

    def _greet(self, hello: Hello, now: int) -> None:
        self._fill(hello)
        hello.nonce = self._link.nonce = self._random_bytes(NONCE_SIZE)
        self._link.say_repeatedly(wire.HELLO, hello.to_payload(), now, _HELLO_TRIES)

    def _fill(self, greeting: Greeting) -> None:
        greeting.epoch = self.epoch
        greeting.max_frame = self.max_frame
        for number, stream in self.sender.streams.items():
            greeting.streams[number] = (stream.oldest(), stream.next_seq)
        if self.peer_epoch:
            greeting.peer_epoch = self.peer_epoch
            if self.receiver is not None:
                greeting.resume = self.receiver.resume_points()
        if self._wall_ms is not None:
            greeting.unix_ms = self._wall_ms()

    # -- the owner's side ----------------------------------------------------------

    def bye(self, now: int, reason: int = NORMAL, retry_after_ms: int = 0) -> None:
        """Begin a clean end: BYE, its answer, then Closed."""
        if self.state in (DOWN, OVER, CLOSING):
            return
        ending = self._link.ending = Ending(reason, retry_after_ms)
        self.state = CLOSING
        self._link.say_repeatedly(wire.BYE, ending.to_payload(), now, _BYE_TRIES)

    # -- what the peer says ----------------------------------------------------------

    def _receive_greeting(self, kind: int, payload: bytes, now: int) -> None:
        """Take the answer to our HELLO; the acceptor has its own (acceptor.py)."""
        if kind == wire.WELCOME:
            welcome = decode_welcome(payload)
            if welcome.nonce == self._link.nonce:
                self._accept_welcome(welcome, now)
        elif kind == wire.REFUSE:
            ending = decode_ending(payload)
            self._finish(None, True)
            self._events.append(Refused(ending))
        else:
            self._refuse_early(kind)

    def _refuse_early(self, kind: int) -> None:
        """A frame before its time: datagrams may overtake one another, a stream's may not."""
        if not kind & wire.OPTIONAL and not self._link.datagram:
            raise ProtocolError("frame kind 0x%02x before the session is open" % kind)

    def _accept_welcome(self, welcome: Welcome, now: int) -> None:
        check_welcome(welcome, self.epoch, self._fragment)
        if self.sender.recovery is not None:
            self.sender.recovery.ack_delay_ms = welcome.ack_delay_ms
        self._ack_delay_ms = welcome.ack_delay_ms
        if self.receiver is not None or welcome.streams:
            receiver = self.listen()
            receiver.ack_delay_ms = welcome.ack_delay_ms
            if welcome.epoch == self.peer_epoch:
                receiver.rewind(welcome.streams)
            else:
                receiver.start({}, welcome.streams)
        self.peer_epoch = welcome.epoch
        self._resume(welcome.resume, welcome.window)
        self._open(welcome, now)

    def _resume(self, points: "dict[int, int]", window: int) -> None:
        for number, seq in self.sender.resume(points, window):
            self._events.append(Delivered(number, seq))

    def _open(self, welcome: Welcome, now: int) -> None:
        self.state = OPEN
        self.capabilities = welcome.capabilities
        self._link.repeat_due = None
        self._link.keepalive.start(welcome.keepalive_ms, now)
        self._events.append(Opened(welcome))

    def _receive_bye(self, payload: bytes) -> None:
        ending = decode_ending(payload)
        self._link.say(wire.BYE_ACK, b"")
        if self.state != OVER:
            self._finish(ending, True)

    def _answer_after_end(self, data: bytes) -> None:
        """A repeated BYE or HELLO means that our answer was lost: say it again."""
        link = self._link
        if self.state != OVER or not link.datagram or not data:
            return
        if data[0] == wire.BYE:
            link.control = []
            link.say(wire.BYE_ACK, b"")
        elif data[0] == wire.HELLO and link.answer:
            link.control = [link.answer]

    # -- endings ---------------------------------------------------------------------

    def _finish(self, ending: "Ending | None", by_peer: bool) -> None:
        self.state = OVER
        self._link.repeat_due = None
        if ending is not None:
            self._events.append(Closed(ending, by_peer))

    def _fail(self, reason: int, detail: str) -> None:
        """A rule was broken, or the peer fell silent: say why and end this link."""
        ending = Ending(reason if reason else PROTOCOL, 0, detail)
        self._link.say(wire.BYE, ending.to_payload())
        self._finish(ending, False)
