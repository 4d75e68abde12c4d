"""The receiving half of a session: order, duplicates, fragments, what to acknowledge.

Used by session.py only. Messages leave in the order of their stream. The cumulative
acknowledgement moves when the owner says that a message is durable, never before; the
bitmap reports what arrived, perhaps only in memory.

Memory: out-of-order frames up to limits.EARLY_BYTES, one message in fragments a stream.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.events import Received
from fleetnet.frame import MORE
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet.varint import put_varint, take_varint


class Gap:
    """The event: the peer gave up ``first`` .. ``last`` of ``stream``; they will never come."""

    def __init__(self, stream: int, first: int, last: int):
        self.stream = stream
        self.first = first
        self.last = last


def put_ack(out: bytearray, number: int, durable: int, bitmap: bytes) -> None:
    """Append one stream's entry of ACK; ``bitmap`` has at most 255 bytes."""
    out.append(number)
    put_varint(out, durable)
    out.append(len(bitmap))
    out.extend(bitmap)


def decode_forward(payload: bytes) -> "dict[int, int]":
    """Read FORWARD: stream -> oldest that will still come.

    Raises:
        ProtocolError: cut off, or a stream or a sequence number out of range, or
            a stream named twice.
    """
    at = 0
    entries: "dict[int, int]" = {}
    while at < len(payload):
        number = payload[at]
        oldest, at = take_varint(payload, at + 1)
        if not 0 < number <= limits.MAX_STREAM or not 0 < oldest <= limits.MAX_SEQUENCE + 1:
            raise ProtocolError("FORWARD of stream %d to %d" % (number, oldest))
        if number in entries:
            raise ProtocolError("FORWARD names stream %d twice" % number)
        entries[number] = oldest
    return entries


class ReceiveStream:
    """Sequence state of one stream of the peer."""

    __slots__ = ("dirty", "durable", "early", "gaps", "next", "parts", "reported")

    def __init__(self, durable: int):
        self.durable = durable
        self.next = durable + 1
        self.reported = durable
        self.dirty = False
        self.early: "dict[int, tuple[int, int, bytes]]" = {}
        self.parts: "list[bytes]" = []
        self.gaps: "list[tuple[int, int]]" = []


class Receiver:
    """All streams of the peer's direction on one link.

    ``events`` is the session's queue; Received and Gap are appended to it.
    """

    def __init__(self, events: "list[object]", max_message: int):
        self.streams: "dict[int, ReceiveStream]" = {}
        self.window = limits.WINDOW
        self.ack_due: "int | None" = None
        self._tell_window = False
        self._hasty = 0
        self.ack_delay_ms = 100
        self.duplicates = 0
        self.dropped = 0
        self._events = events
        self._max_message = max_message
        self._datagram = False
        self._early_bytes = 0

    def open_link(self, datagram: bool) -> None:
        """Begin on a new link: what is not durable will be sent again."""
        self._datagram = datagram
        self.ack_due = None
        self._early_bytes = 0
        for stream in self.streams.values():
            stream.early = {}
            stream.parts = []
            stream.dirty = False

    def start(self, durable: "dict[int, int]", sent: "dict[int, tuple[int, int]]") -> None:
        """Set the resume points, and jump over what the peer no longer has.

        Args:
            durable: stream -> last durable sequence (from the store).
            sent: stream -> (oldest, next) of the peer's greeting.
        """
        self.streams = {}
        for number, seq in durable.items():
            self.streams[number] = ReceiveStream(seq)
        for number, (oldest, _) in sent.items():
            self.forward(number, oldest)

    def rewind(self, sent: "dict[int, tuple[int, int]]") -> None:
        """Continue the same epoch on a new link from the durable points."""
        for stream in self.streams.values():
            stream.next = stream.durable + 1
            stream.gaps = []
        for number, (oldest, _) in sent.items():
            self.forward(number, oldest)

    def resume_points(self) -> "dict[int, int]":
        """Return stream -> last durable sequence, for a greeting."""
        return {number: stream.durable for number, stream in self.streams.items()}

    def receive(
        self, number: int, seq: int, kind: int, flags: int, payload: bytes, now: int
    ) -> None:
        """Take one sequenced frame.

        Raises:
            ProtocolError: a message in fragments above the limit.
        """
        stream = self.streams.get(number)
        if stream is None:
            stream = self._new_stream(number)
        if seq > stream.durable + limits.WINDOW:
            self._beyond_window(number, seq)
            return
        if seq == stream.next:
            stream.next = seq + 1
            if flags & MORE or stream.parts:
                self._assemble(stream, number, seq, kind, flags, payload)
            else:
                self._events.append(Received(number, seq, kind, payload))
            if stream.early:
                self._release(stream, number)
            if self._datagram:
                stream.dirty = True
                if self.ack_due is None:
                    self.ack_due = ticks_add(now, self._delay_ms())
            return
        stream.dirty = True
        self._hasty = limits.HASTY_ACKS  # a hole, or a repetition: frames are being lost
        if seq < stream.next or seq in stream.early:
            self.duplicates += 1
            self._ack_within(now, 0)  # our acknowledgement was lost
            return
        if len(payload) > limits.EARLY_BYTES - self._early_bytes:
            self.dropped += 1
            return
        stream.early[seq] = (kind, flags, payload)
        self._early_bytes += len(payload)
        self._ack_within(now, 0)  # a hole: tell the sender at once

    def _new_stream(self, number: int) -> ReceiveStream:
        if not number:
            raise ProtocolError("sequenced frame on stream 0")
        stream = self.streams[number] = ReceiveStream(0)
        return stream

    def _beyond_window(self, number: int, seq: int) -> None:
        """A datagram can be dropped and comes again; on a stream it would be lost for ever."""
        self.dropped += 1
        if not self._datagram:
            raise ProtocolError("stream %d: message %d is beyond the window" % (number, seq), LIMIT)

    def _release(self, stream: ReceiveStream, number: int) -> None:
        """Deliver the early frames whose turn has come."""
        while True:
            entry = stream.early.pop(stream.next, None)
            if entry is None:
                return
            kind, flags, payload = entry
            self._early_bytes -= len(payload)
            seq = stream.next
            stream.next = seq + 1
            self._assemble(stream, number, seq, kind, flags, payload)

    def _assemble(
        self, stream: ReceiveStream, number: int, seq: int, kind: int, flags: int, payload: bytes
    ) -> None:
        if flags & MORE or stream.parts:
            stream.parts.append(payload)
            if sum([len(part) for part in stream.parts]) > self._max_message:
                raise ProtocolError("message above %d B" % self._max_message, LIMIT)
            if flags & MORE:
                return
            payload = b"".join(stream.parts)
            stream.parts = []
        self._events.append(Received(number, seq, kind, payload))

    def forward(self, number: int, oldest: int) -> None:
        """The peer gave up what is below ``oldest``: report the gap and go on behind it.

        What arrived early below ``oldest`` goes too: behind a hole, the tail of a message
        in fragments looks like a whole one.
        """
        stream = self.streams.get(number)
        if stream is None:
            stream = self._new_stream(number)
        stream.dirty = True
        if stream.next >= oldest:
            return
        for seq in [seq for seq in stream.early if seq < oldest]:
            self._early_bytes -= len(stream.early.pop(seq)[2])
        # The head of a message whose rest was given up is lost with it.
        first = stream.next - len(stream.parts)
        stream.parts = []
        stream.next = oldest
        self._events.append(Gap(number, first, oldest - 1))
        if stream.gaps and stream.gaps[-1][1] == first - 1:
            first = stream.gaps.pop()[0]
        stream.gaps.append((first, oldest - 1))
        self._release(stream, number)
        self._cross_gaps(stream)

    def take_forward(self, payload: bytes, now: int) -> None:
        """Take FORWARD. Raises ProtocolError as decode_forward."""
        for number, oldest in decode_forward(payload).items():
            self.forward(number, oldest)
        self.acknowledge_soon(now)

    def _cross_gaps(self, stream: ReceiveStream) -> None:
        """Move the durable point over gaps that it has reached."""
        while stream.gaps and stream.gaps[0][0] <= stream.durable + 1:
            stream.durable = max(stream.durable, stream.gaps.pop(0)[1])

    def acknowledge(self, number: int, seq: int, now: int) -> None:
        """The owner holds everything of this stream up to ``seq`` durably."""
        stream = self.streams.get(number)
        if stream is None:
            return  # of an epoch that is over
        if seq >= stream.next:
            seq = stream.next - 1  # what comes again on this link is acknowledged again
        if seq <= stream.durable:
            return
        stream.durable = seq
        if stream.gaps:
            self._cross_gaps(stream)
        stream.dirty = True
        # A quarter of the window waits for no timer, so that the sender never stalls.
        if stream.durable - stream.reported >= self.window >> 2:
            self._ack_within(now, 0)
        elif self.ack_due is None or self._hasty:
            self._ack_within(now, self._delay_ms())

    def acknowledge_soon(self, now: int) -> None:
        """Report every stream at once (the peer probes, or the window has changed)."""
        for stream in self.streams.values():
            stream.dirty = True
        self._tell_window = True
        self._ack_within(now, 0)

    def answer_ping(self, ping: bytes, unix_ms: int, now: int) -> bytes:
        """Return the payload of PONG, and report every stream; ``unix_ms``: our clock, or 0.

        Raises:
            ProtocolError: a PING without its count.
        """
        if len(ping) < 2:
            raise ProtocolError("PING without its count")
        pong = bytearray(ping[:2])
        put_varint(pong, unix_ms)
        self.acknowledge_soon(now)
        return bytes(pong)

    def _delay_ms(self) -> int:
        """Return how long an acknowledgement may wait: hardly, while frames are lost."""
        return self.ack_delay_ms >> 3 if self._hasty else self.ack_delay_ms

    def _ack_within(self, now: int, delay_ms: int) -> None:
        due = ticks_add(now, delay_ms)
        if self.ack_due is None or ticks_diff(due, self.ack_due) < 0:
            self.ack_due = due

    def ack_payload(self) -> bytes:
        """Encode ACK for the streams with news; b"" when there is none.

        Source: docs/protocol.md section 6.1.
        """
        self.ack_due = None
        if self._hasty:
            self._hasty -= 1
        out = bytearray()
        put_varint(out, self.window)
        size = len(out)
        for number in sorted(self.streams):
            stream = self.streams[number]
            if not stream.dirty:
                continue
            stream.dirty = False
            stream.reported = stream.durable
            bitmap = self._bitmap(stream) if self._datagram else b""
            put_ack(out, number, stream.durable, bitmap)
        if len(out) == size and not self._tell_window:
            return b""
        self._tell_window = False
        return bytes(out)

    def _bitmap(self, stream: ReceiveStream) -> bytes:
        base = stream.durable + 1
        # Behind a gap, next may be any distance away; the sender asks about a window only.
        end = arrived = min(stream.next, base + limits.WINDOW)
        bits = (1 << (arrived - base)) - 1
        for seq in stream.early:
            end = max(end, seq + 1)
            bits |= 1 << (seq - base)
        return bits.to_bytes((end - base + 7) >> 3, "little")
