"""Round-trip estimation and the retransmission timeout.

Source: RFC 6298 section 2, with a floor for radio links and the peer's announced
acknowledgement delay added, as RFC 9002 section 5.3 does.
"""

from fleetnet import limits


class RttEstimator:
    """Smoothed round trip and timeout, all in whole ms (kept times 8 and times 4).

    Attributes:
        ack_delay_ms: how long the peer may hold an acknowledgement back.
        hasty: for so many acknowledgements the peer does not, as frames were lost
            (docs/protocol.md section 6.3).
    """

    def __init__(self) -> None:
        self.ack_delay_ms = 0
        self.hasty = 0
        self._srtt8 = 0
        self._var4 = 0
        self._backoff = 0

    @property
    def srtt_ms(self) -> int:
        """Smoothed round trip in ms; 0 before the first sample."""
        return self._srtt8 >> 3

    def sample(self, rtt_ms: int) -> None:
        """Take a measured round trip of a frame that was sent once (Karn's rule)."""
        if not self._srtt8:
            self._srtt8 = rtt_ms << 3 or 1
            self._var4 = rtt_ms << 1
        else:
            error = rtt_ms - (self._srtt8 >> 3)
            self._srtt8 += error
            self._var4 += abs(error) - (self._var4 >> 2)
        self._backoff = 0

    def back_off(self) -> None:
        """Double the timeout, as a retransmission timer that fires must."""
        if self._backoff < 6:
            self._backoff += 1

    def relax(self) -> None:
        """The peer answers again: drop the doubling."""
        self._backoff = 0
        if self.hasty:
            self.hasty -= 1

    def rto_ms(self) -> int:
        """Return the timeout to arm now."""
        if self._srtt8:
            delay_ms = self.ack_delay_ms >> 3 if self.hasty else self.ack_delay_ms
            rto = (self._srtt8 >> 3) + max(self._var4, 20) + delay_ms
        else:
            rto = limits.INITIAL_RTO_MS
        return min(max(rto, limits.MIN_RTO_MS) << self._backoff, limits.MAX_RTO_MS)
