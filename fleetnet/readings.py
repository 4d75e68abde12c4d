"""Bodies of the telemetry messages: readings in batches, events; raw.py has raw bytes.

    READINGS  JSON  [base_ms, boot, [channel, ...], [[channel index, dt_ms, value], ...]]
    EVENT     JSON  [base_ms, boot, name, value]

``boot`` 0: ``base_ms`` is unix time in ms. ``boot`` above 0: ``base_ms`` is the uptime of
that boot (the number of HELLO), and the receiver dates it. ``dt_ms`` is 0 or more.
JSON because MicroPython's json module is C: ten times as fast as any codec in Python.

Source: docs/protocol.md section 3.2.
"""

import json

# IANA CoAP content-format number of bytes that are nothing else (RFC 7252 section 12.3).
OCTET_STREAM = 42

_BRACKETS = 24  # the fixed text of a batch, with room for a 13-digit base


def encode_value(value: object) -> str:
    """Return a reading's value as compact JSON.

    Raises:
        ValueError: not a number that JSON knows (NaN, infinity), or not JSON at all.
    """
    if isinstance(value, float) and value - value != 0:  # infinities and NaN give NaN
        raise ValueError("%r is no JSON number: leave the reading out, or send None" % value)
    return json.dumps(value, separators=(",", ":"))


class ReadingBatch:
    """Collects readings until they fill one message.

    Args:
        max_bytes: ceiling of the encoded body.
        max_readings: ceiling of readings in one body.
    """

    def __init__(self, max_bytes: int, max_readings: int):
        self._max_bytes = max_bytes
        self._max_readings = max_readings
        self.clear()

    def clear(self) -> None:
        self.base_ms = 0
        self.boot = 0
        self.count = 0
        self._channels: "list[str]" = []
        self._items: "list[str]" = []
        self._size = _BRACKETS

    def add(self, channel: str, value: object, time_ms: int, boot: int = 0) -> bool:
        """Add a reading; False when it belongs into the next batch, which is then empty.

        Raises:
            ValueError: the value is not JSON, or this reading alone is above max_bytes.
        """
        text = encode_value(value)
        if not self.count:
            self.base_ms = time_ms
            self.boot = boot
        dt_ms = time_ms - self.base_ms
        # A clock that was set in between begins a new batch, so that dt stays positive.
        if boot != self.boot or dt_ms < 0 or self.count >= self._max_readings:
            return False
        size = (len(text) if isinstance(value, (int, float)) else len(text.encode())) + 16
        is_new = channel not in self._channels
        if is_new:
            size += len(json.dumps(channel)) + 1
        if self._size + size > self._max_bytes:
            if not self.count:
                raise ValueError(
                    "reading of %d B, limit %d B: send it as a blob" % (size, self._max_bytes)
                )
            return False
        if is_new:
            self._channels.append(channel)
        self._items.append("[%d,%d,%s]" % (self._channels.index(channel), dt_ms, text))
        self._size += size
        self.count += 1
        return True

    def to_payload(self) -> bytes:
        """Return the body of READINGS."""
        names = json.dumps(self._channels, separators=(",", ":"))
        text = "[%d,%d,%s,[%s]]" % (self.base_ms, self.boot, names, ",".join(self._items))
        return text.encode()


def encode_event(name: str, value: object, time_ms: int, boot: int = 0) -> bytes:
    """Return the body of EVENT. Raises ValueError as encode_value."""
    return ("[%d,%d,%s,%s]" % (time_ms, boot, json.dumps(name), encode_value(value))).encode()
