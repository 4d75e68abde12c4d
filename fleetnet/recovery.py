"""What a sender needs on a datagram link only: finding losses, and how much may be in flight.

Used by sender.py, which imports it with the first datagram link: over TLS a device does
without. Sources: RFC 9002 sections 6.1 and 7, RFC 6298 section 5, RFC 8985 section 6.2.

Memory: one object for a link.
"""

from fleetnet import limits
from fleetnet.rtt import RttEstimator
from fleetnet.sender import FLYING
from fleetnet.ticks import ticks_add, ticks_diff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.sender import Outgoing, Sender

# Frames overtaken by this many later ones are lost (RFC 9002 section 6.1.1).
_REORDERING = 3

# So much reordering in time is taken for granted.
_REORDERING_MS = 10

# Bytes in flight on a datagram link (RFC 9002 section 7.2): four datagrams to begin with,
# two after losses, a whole window at most.
_INITIAL_FLIGHT = 4 * limits.DATAGRAM_PAYLOAD
_MIN_FLIGHT = 2 * limits.DATAGRAM_PAYLOAD
_MAX_FLIGHT = limits.WINDOW * limits.DATAGRAM_PAYLOAD


class Recovery(RttEstimator):
    """Round trip, timeout and flight of one link.

    Attributes:
        flight_limit: bytes that may be in flight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flight_limit = _INITIAL_FLIGHT
        self._threshold = _MAX_FLIGHT
        self._recovery = 0

    def take_news(self, sender: "Sender", newest: "Outgoing | None", news: int, now: int) -> None:
        """Sample the round trip, widen the flight, find losses, restart the timer.

        Args:
            newest: of the frames that an acknowledgement was about, the one sent last.
            news: bytes that it took out of flight.
        """
        self.relax()
        if newest is not None:
            if not newest.resent:
                self.sample(max(0, ticks_diff(now, newest.sent_at)))
            self._find_lost(sender, newest)
        if self.flight_limit < self._threshold:
            self.flight_limit += news
        else:
            self.flight_limit += limits.DATAGRAM_PAYLOAD * news // self.flight_limit
        self.flight_limit = min(self.flight_limit, _MAX_FLIGHT)
        sender.timer = ticks_add(now, self.rto_ms()) if sender.in_flight else None

    def _find_lost(self, sender: "Sender", newest: "Outgoing") -> None:
        """Find frames overtaken by several later ones, or by one sent well behind them.

        Source: RFC 9002 section 6.1.1; RFC 8985 section 6.2 (a quarter of a round trip).
        """
        worst = 0
        threshold = newest.number - _REORDERING
        window_ms = max(self.srtt_ms >> 2, _REORDERING_MS)
        for stream in sender.order:
            for frame in stream.frames:
                if frame.state != FLYING or frame.number > newest.number:
                    continue
                behind_ms = ticks_diff(newest.sent_at, frame.sent_at)
                if frame.number <= threshold or behind_ms >= window_ms:
                    worst = max(worst, frame.number)
                    sender.requeue(stream, frame)
        if worst:
            self.hasty = limits.HASTY_ACKS
        if worst > self._recovery:
            # One halving for all losses of one flight (RFC 9002 section 7.3.2).
            self._recovery = sender.number
            self._threshold = max(self.flight_limit >> 1, _MIN_FLIGHT)
            self.flight_limit = self._threshold

    def time_out(self, sender: "Sender") -> None:
        """The timeout fired: everything in flight counts as lost."""
        for stream in sender.order:
            for frame in stream.frames:
                if frame.state == FLYING:
                    sender.requeue(stream, frame)
        self.back_off()
        self.hasty = limits.HASTY_ACKS
        self._threshold = max(self.flight_limit >> 1, _MIN_FLIGHT)
        self.flight_limit = _MIN_FLIGHT
        self._recovery = sender.number
        sender.timer = None
