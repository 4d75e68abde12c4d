"""One session between a device and its back-end, over any sequence of links.

Rules of this file: no I/O, no clock, no randomness of its own; the owner passes ``now``
(ticks.py) into every call that needs it and random bytes into the constructor. Five
verbs move it: ``receive_data``, ``data_to_send``, ``take_events``, ``next_timer``,
``handle_timer``. Whatever the network delivers, these verbs do not raise.

The initiator (device) keeps one Session for as long as it runs and calls ``open_link``
for each connection; the acceptor (server, hub) makes one for each link and gives it the
store's resume points.

Source: docs/protocol.md sections 4 to 8.
"""

from fleetnet import frame as wire
from fleetnet.errors import GOING_AWAY, IDLE, UNKNOWN_KIND, ProtocolError
from fleetnet.events import Delivered, Received, TimeHeard
from fleetnet.handshake import Ending
from fleetnet.lifecycle import CLOSING, DOWN, GREETING, OPEN, OVER, Lifecycle
from fleetnet.ticks import ticks_diff
from fleetnet.varint import take_varint

__all__ = ("CLOSING", "DOWN", "GREETING", "OPEN", "OVER", "Session")

# How much one call of data_to_send hands out: two TLS records, or a few datagrams, so
# that a slow link never holds a whole window in copies.
_BUDGET = 8192


class Session(Lifecycle):
    """See the module's docstring, and Lifecycle for the constructor, links and endings."""

    # -- the owner's side ----------------------------------------------------------

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
        self.live_dropped += self._link.offer_live(wire.encode_frame(kind, stream, 0, payload))
        return True

    def acknowledge(self, stream: int, seq: int, now: int) -> None:
        """The messages of ``stream`` up to ``seq`` are durable here: tell the peer."""
        if self.receiver is not None and (self.state == OPEN or self.state == CLOSING):
            self.receiver.acknowledge(stream, seq, now)

    # -- the five verbs --------------------------------------------------------------

    def receive_data(self, data: bytes, now: int) -> None:
        """Take what the link delivered: one datagram, or any piece of the stream."""
        if self.state in (DOWN, OVER):
            self._answer_after_end(data)
            return
        link = self._link
        link.keepalive.heard(now)
        receiver = self.receiver
        try:
            for kind, flags, seq, payload in link.split(data):
                if flags & wire.SEQUENCED and self.state == OPEN:
                    if kind & 0x7F < wire.MESSAGE:
                        raise ProtocolError("control frame %d with a sequence number" % kind)
                    if receiver is None:
                        receiver = self.listen()
                    receiver.receive(flags & wire.STREAM_MASK, seq, kind, flags, payload, now)
                else:
                    self._receive_other(kind, flags, payload, now)
        except ProtocolError as error:
            self._fail(error.reason, str(error))

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
        link = self._link
        frames = link.control
        link.control = []
        if self.state == OPEN or self.state == CLOSING:
            self._add_acknowledgements(frames, now)
            if self.state == OPEN:
                frames.extend(self.sender.frames_to_send(now, _BUDGET))
                if link.live:
                    frames.extend(link.live)
                    link.live = []
                if not frames and self.bulk is not None:
                    # One chunk at a time: whatever is queued next overtakes the rest.
                    piece = self.bulk.next_frame(now)
                    if piece is not None:
                        frames.append(wire.encode_frame(piece[0], wire.BLOBS, 0, piece[1]))
        return link.pack(frames)

    def next_timer(self) -> "int | None":
        """Return the tick at which handle_timer wants to run, or None."""
        due = self._link.repeat_due
        if self.state == OPEN or self.state == CLOSING:
            for other in (
                None if self.receiver is None else self.receiver.ack_due,
                # Behind our BYE nothing is sent again.
                self.sender.timer if self.state == OPEN else None,
                self.bulk.next_timer() if self.bulk is not None and self.state == OPEN else None,
                self.sender.forward_due,
                self._link.keepalive.due,
            ):
                if other is not None and (due is None or ticks_diff(other, due) < 0):
                    due = other
        elif self.state == GREETING and due is None:
            due = self._link.keepalive.due
        return due

    def handle_timer(self, now: int) -> None:
        """Do what is due at ``now``; harmless when nothing is."""
        if self.state in (DOWN, OVER):
            return
        link = self._link
        if not link.repeat(now):
            self._finish(link.ending or Ending(GOING_AWAY), False)
            return
        if self.state == OPEN:
            timer = self.sender.timer
            if timer is not None and ticks_diff(timer, now) <= 0:
                self.sender.handle_timer(now)
                link.keepalive.hurry(now)
            timer = self.bulk.next_timer() if self.bulk is not None else None
            if self.bulk is not None and timer is not None and ticks_diff(timer, now) <= 0:
                self.bulk.handle_timer(now)
                link.keepalive.hurry(now)
        ping = link.keepalive.handle_timer(now)
        if ping:
            link.say(wire.PING, ping)
        if link.keepalive.is_dead:
            self._fail(IDLE, "nothing was heard for %d ms" % link.keepalive.silence_ms(now))

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
            self.sender.window, entries = wire.decode_ack(payload)
            for number, durable, bitmap in entries:
                if self.sender.acknowledge(number, durable, bitmap, now):
                    self._events.append(Delivered(number, durable))
        elif kind == wire.PING:
            wall_ms = self._wall_ms() if self._wall_ms is not None else 0
            self._link.say(wire.PONG, self.listen().answer_ping(payload, wall_ms, now))
        elif kind == wire.PONG:
            unix_ms, _ = take_varint(payload, 2, 7)
            if unix_ms:
                self._events.append(TimeHeard(unix_ms))
        elif kind == wire.FORWARD:
            self.listen().take_forward(payload, now)
        elif kind == wire.BYE_ACK:
            if self.state == CLOSING:
                self._finish(self._link.ending, False)
        elif kind not in (wire.WELCOME, wire.REFUSE):
            raise ProtocolError("unknown critical frame kind 0x%02x" % kind, UNKNOWN_KIND)

    # -- sending ---------------------------------------------------------------------

    def _add_acknowledgements(self, frames: "list[bytes]", now: int) -> None:
        receiver = self.receiver
        due = None if receiver is None else receiver.ack_due
        if receiver is not None and due is not None and ticks_diff(due, now) <= 0:
            payload = receiver.ack_payload()
            if payload:
                frames.append(wire.encode_frame(wire.ACK, 0, 0, payload))
        forwards = self.sender.forwards_to_send(now)
        if forwards:
            frames.append(wire.encode_frame(wire.FORWARD, 0, 0, wire.encode_forward(forwards)))
