"""What the bridge counts; read by metrics, `fleetnet mqtt show` and the log."""

import time
from collections import Counter

import structlog

_log = structlog.get_logger("fleetnet.mqtt")

# Of one reason in the log: thousands a second must not fill a disk.
_SAID_S = 60.0


class Counters:
    """Counters of one bridge.

    Attributes:
        sent: MQTT messages that the broker took, by what they are ("readings", "state", ...).
        readings: in those. dropped: messages that will not be sent, by reason.
        requests: that came in, by how they ended. connections: that were opened.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.readings = 0
        self.dropped: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._said: dict[str, float] = {}

    def drop(self, why: str, count: int = 1, **detail: object) -> None:
        """Count messages that are not sent, and say so once a minute for each reason."""
        if not count:
            return
        self.dropped[why] += count
        now = time.monotonic()
        if now - self._said.get(why, -_SAID_S) >= _SAID_S:
            self._said[why] = now
            _log.warning("MQTT messages dropped", why=why, total=self.dropped[why], **detail)
