"""The sending half of a session: what is queued, in flight, lost, delivered.

Used by session.py only. The window bounds the *span* of sequence numbers: a frame is
never overtaken by more than the receiver can keep. On a stream link every frame is sent
once a link; on a datagram link frames are sent again as recovery.py says.

Memory: one object a frame, at most limits.WINDOW a stream; payloads are shared, not copied.
"""

from fleetnet import limits
from fleetnet.errors import LimitError, ProtocolError
from fleetnet.frame import MORE, SEQUENCED, encode_frame
from fleetnet.ticks import ticks_add, ticks_diff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.recovery import Recovery

# States of a frame.
_WAITING = 0  # to be sent, again or for the first time on this link
FLYING = 1  # sent, nothing heard
_HELD = 2  # the peer has it, perhaps only in memory: do not resend, do not forget

# On a stream link nothing is sent again, but so long without news is worth a PING: a TCP
# peer that vanished, or our own new address, shows no other way for minutes.
_STALL_MS = 5_000

# A stream link asks for nothing again (no timer may be set further ahead than 6 days).
_NEVER_MS = 1 << 28


class Outgoing:
    """One sequenced frame until the peer holds it durably."""

    __slots__ = ("flags", "kind", "number", "payload", "resent", "sent_at", "seq", "size", "state")

    def __init__(self, seq: int, kind: int, flags: int, payload: bytes):
        self.seq = seq
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.state = _WAITING
        self.number = 0
        self.size = 0
        self.sent_at = 0
        self.resent = False


class SendStream:
    """Sequence state of one stream; ``frames`` is ascending and all above ``cum``."""

    def __init__(self, number: int, first_seq: int):
        self.number = number
        self.next_seq = first_seq
        self.cum = first_seq - 1
        self.frames: "list[Outgoing]" = []
        self.waiting = 0
        self.forward = 0

    def oldest(self) -> int:
        return self.frames[0].seq if self.frames else self.next_seq


class Sender:
    """All streams of one direction, over any sequence of links.

    Attributes:
        streams: by number; order: the same, the most urgent first.
        recovery: of the datagram link; None on a stream link.
        number: of frames sent so far, repetitions included.
        in_flight: bytes on their way; resent: frames that were sent again.
        has_gaps: the peer has perhaps not heard yet what was given up.
        timer, forward_due: ticks at which handle_timer and forwards_to_send want to run.
    """

    def __init__(self, fragment_payload: int):
        self.streams: "dict[int, SendStream]" = {}
        self.recovery: "Recovery | None" = None
        self.window = limits.WINDOW
        self.number = 0
        self.in_flight = 0
        self.resent = 0
        self.has_gaps = False
        self.timer: "int | None" = None
        self.forward_due: "int | None" = None
        self.order: "list[SendStream]" = []
        self._fragment = fragment_payload

    def open_stream(self, number: int, first_seq: int = 1) -> SendStream:
        """Return a stream, beginning at ``first_seq`` when it is new."""
        stream = self.streams.get(number)
        if stream is None:
            if not 0 < number <= limits.MAX_STREAM:
                raise LimitError("stream %d is not 1..%d" % (number, limits.MAX_STREAM))
            stream = self.streams[number] = SendStream(number, first_seq)
            self.order = []
            for each in sorted(self.streams):
                self.order.append(self.streams[each])
        return stream

    def frames_of(self, size: int) -> int:
        """Return how many frames a payload of ``size`` bytes takes."""
        return (size + self._fragment - 1) // self._fragment or 1

    def room(self, number: int) -> int:
        """Return how many frames of this stream can be queued now."""
        stream = self.streams.get(number)
        if stream is None:
            return limits.WINDOW
        return max(0, stream.cum + limits.WINDOW + 1 - stream.next_seq)

    def queue(self, number: int, kind: int, payload: bytes) -> int:
        """File one message, in fragments where needed; return its sequence number.

        Raises:
            LimitError: no room in the window, message too large, or the epoch's
                sequence numbers are used up.
        """
        if len(payload) > limits.MAX_MESSAGE:
            raise LimitError("message of %d B, limit %d B" % (len(payload), limits.MAX_MESSAGE))
        stream = self.open_stream(number)
        size = self._fragment
        count = self.frames_of(len(payload))
        if count > self.room(number):
            raise LimitError("stream %d has no room for %d frames" % (number, count))
        if stream.next_seq + count > limits.MAX_SEQUENCE:
            raise LimitError("stream %d is at its last sequence number: begin an epoch" % number)
        flags = SEQUENCED | number
        frames = []
        for index in range(count):
            part = payload if count == 1 else payload[index * size : (index + 1) * size]
            more = MORE if index < count - 1 else 0
            frames.append(Outgoing(stream.next_seq + index, kind, flags | more, part))
        # All or nothing: without memory for the last fragment the peer must not see the first.
        stream.frames.extend(frames)
        stream.next_seq += count
        stream.waiting += count
        return stream.next_seq - 1

    def open_link(self, datagram: bool) -> None:
        """Begin on a new link: nothing is in flight on it yet."""
        self.recovery = None
        if datagram:
            from fleetnet.recovery import Recovery

            self.recovery = Recovery()
        self.in_flight = 0
        self.timer = self.forward_due = None
        for stream in self.order:
            stream.waiting = len(stream.frames)
            for frame in stream.frames:
                frame.state = _WAITING

    def resume(self, points: "dict[int, int]", window: int) -> "list[tuple[int, int]]":
        """Take the peer's last durable sequence numbers; return (stream, seq) delivered."""
        delivered = []
        self.window = window
        for stream in self.order:
            point = points.get(stream.number, 0)
            if point >= stream.next_seq:
                raise ProtocolError(
                    "stream %d resumes at %d, beyond what was sent" % (stream.number, point)
                )
            if point > stream.cum:
                self._forget(stream, point)
                delivered.append((stream.number, point))
        for number, point in points.items():
            if number not in self.streams:
                self.open_stream(number, point + 1)
        return delivered

    def frames_to_send(self, now: int, budget: int) -> "list[bytes]":
        """Return encoded frames, most urgent stream first, about ``budget`` bytes of them."""
        out: "list[bytes]" = []
        recovery = self.recovery
        for stream in self.order:
            if not stream.waiting:
                continue
            last = stream.cum + self.window
            for frame in stream.frames:
                if frame.state != _WAITING:
                    continue
                if frame.seq > last or budget <= 0:
                    break
                if recovery is not None and self.in_flight >= recovery.flight_limit:
                    return out
                out.append(self._launch(stream, frame, now))
                budget -= len(out[-1])
        if recovery is not None and self.timer is None and self._is_blocked():
            # The window is shut; should the frame that opens it be lost, ask again.
            self.timer = ticks_add(now, recovery.rto_ms())
        return out

    def _launch(self, stream: SendStream, frame: Outgoing, now: int) -> bytes:
        self.number += 1
        if frame.number:
            frame.resent = True
            self.resent += 1
        frame.number = self.number
        frame.sent_at = now
        frame.state = FLYING
        stream.waiting -= 1
        encoded = encode_frame(frame.kind, frame.flags, frame.seq, frame.payload)
        frame.size = len(encoded)
        self.in_flight += frame.size
        if self.timer is None:
            recovery = self.recovery
            self.timer = ticks_add(now, _STALL_MS if recovery is None else recovery.rto_ms())
        return encoded

    def acknowledge(self, number: int, cum: int, bitmap: bytes, now: int) -> bool:
        """Take one stream's acknowledgement; return True when more became durable.

        Raises:
            ProtocolError: unknown stream, or a sequence number that was never sent.
        """
        stream = self.streams.get(number)
        if stream is None or cum >= stream.next_seq:
            raise ProtocolError("stream %d acknowledges %d, never sent" % (number, cum))
        if cum < stream.cum:
            return False  # an older acknowledgement that came late
        advanced = cum > stream.cum
        newest, news = self._forget(stream, cum)
        for frame in stream.frames if bitmap else ():
            bit = frame.seq - cum - 1
            if bit >> 3 >= len(bitmap):
                break
            if bitmap[bit >> 3] >> (bit & 7) & 1 and frame.state != _HELD:
                newest, news = self._hold(stream, frame, newest, news)
        if news and self.recovery is not None:
            self.recovery.take_news(self, newest, news, now)
        elif news:
            self.timer = ticks_add(now, _STALL_MS) if self.in_flight else None
        return advanced

    def _hold(
        self, stream: SendStream, frame: Outgoing, newest: "Outgoing | None", news: int
    ) -> "tuple[Outgoing | None, int]":
        """Count one frame as arrived at the peer; keep track of the latest one sent."""
        if frame.state == FLYING:
            self.in_flight -= frame.size
            news += frame.size
            if newest is None or frame.number > newest.number:
                newest = frame
        elif frame.state == _WAITING:
            stream.waiting -= 1
        frame.state = _HELD
        return newest, news

    def _forget(self, stream: SendStream, cum: int) -> "tuple[Outgoing | None, int]":
        """Drop the frames up to ``cum``; return (latest sent of them, bytes that flew)."""
        newest = None
        news = count = 0
        for frame in stream.frames:
            if frame.seq > cum:
                break
            newest, news = self._hold(stream, frame, newest, news)
            count += 1
        if count:
            del stream.frames[:count]
        stream.cum = max(stream.cum, cum)
        if stream.forward and stream.cum >= stream.forward - 1:
            stream.forward = 0
        return newest, news

    def requeue(self, stream: SendStream, frame: Outgoing) -> None:
        """Count a frame in flight as lost."""
        frame.state = _WAITING
        stream.waiting += 1
        self.in_flight -= frame.size

    def handle_timer(self, now: int) -> None:
        """The timeout fired: on a datagram link everything in flight counts as lost."""
        if self.recovery is not None:
            self.recovery.time_out(self)
        else:
            self.timer = ticks_add(now, _STALL_MS) if self.in_flight else None

    def _is_blocked(self) -> bool:
        """Say whether frames wait although nothing is in flight: the window is shut."""
        if self.in_flight:
            return False
        for stream in self.order:
            if stream.waiting:
                return True
        return False

    def skip(self, number: int, oldest: int) -> bool:
        """Give the numbers below ``oldest`` to no message; the peer is told by FORWARD.

        False, and nothing is done, while frames of the stream are not delivered.

        Raises:
            LimitError: ``oldest`` is beyond the epoch's last sequence number.
        """
        stream = self.open_stream(number)
        if oldest <= stream.next_seq:
            return True
        if oldest > limits.MAX_SEQUENCE:
            raise LimitError("stream %d is at its last sequence number: begin an epoch" % number)
        if stream.frames:
            return False
        stream.next_seq = oldest
        self.give_up(number, oldest)
        return True

    def give_up(self, number: int, oldest: int) -> None:
        """Drop the frames of a stream below ``oldest``; the peer is told by FORWARD.

        A message that is cut by ``oldest`` goes as a whole.
        """
        stream = self.open_stream(number)
        oldest = min(oldest, stream.next_seq)
        count = 0
        for frame in stream.frames:
            if frame.seq >= oldest:
                break
            if frame.flags & MORE and frame.seq == oldest - 1:
                oldest += 1
            if frame.state == FLYING:
                self.in_flight -= frame.size
            elif frame.state == _WAITING:
                stream.waiting -= 1
            count += 1
        if count:
            del stream.frames[:count]
        if oldest > stream.cum + 1:
            stream.forward = oldest
            self.has_gaps = True
            self.forward_due = None

    def forwards_to_send(self, now: int) -> "dict[int, int]":
        """Return stream -> oldest still to come, when it is time to (re)send FORWARD."""
        pending: "dict[int, int]" = {}
        if not self.has_gaps:
            return pending
        for stream in self.order:
            if stream.forward:
                pending[stream.number] = stream.forward
        if not pending:
            self.has_gaps = False
            self.forward_due = None
            return pending
        if self.forward_due is not None and ticks_diff(self.forward_due, now) > 0:
            return {}
        # A stream link loses nothing: once is enough there.
        recovery = self.recovery
        self.forward_due = ticks_add(now, _NEVER_MS if recovery is None else recovery.rto_ms())
        return pending
