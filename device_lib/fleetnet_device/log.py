"""The device's own log at the back-end: the newest lines, in batches, behind everything else.

    device.log("warning", "focus motor is slow")
    logging.getLogger().addHandler(device.part("log").handler())

Lines wait in a small ring; when it is full the oldest goes and is counted. They never push
readings out of the outbox: while the server is away they stay here.

Source: docs/protocol.md section 3.5.
"""

from fleetnet.commands import LEVELS, encode_log
from fleetnet.frame import LOG, LOGS
from fleetnet.limits import MAX_TEXT
from fleetnet.ports import port
from fleetnet_device.limits import LOG_BATCH_LINES, MAX_LOG_LINES

# Lines of one moment leave together.
_LINGER_MS = 1_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.device import Device

    Line = tuple[int, int, str, str]


class Part:
    """The log of one device.

    Attributes:
        dropped: lines that found no room.
    """

    capability = 0
    kinds = ()

    def __init__(self, device: "Device"):
        self._device = device
        self._lines: "list[Line]" = []
        self._is_sending = False
        self._readings_dropped = 0
        self._told = 0
        self.dropped = 0

    def add(self, level: str, text: str) -> None:
        """Keep a line of at most 200 characters.

        Raises:
            ValueError: no such level (debug, info, warning, error, critical).
        """
        if level not in LEVELS:
            raise ValueError("level %r is none of %s" % (level, ", ".join(LEVELS)))
        time_ms, boot = self._device.clock.stamp()
        if len(self._lines) >= MAX_LOG_LINES:
            self._lines.pop(0)
            self.dropped += 1
        self._lines.append((time_ms, boot, level, text[:MAX_TEXT]))
        self._send_soon()

    def handler(self, level: int = 20) -> "Handler":
        """Return a handler for ``logging``, MicroPython's or CPython's, from ``level`` on."""
        return Handler(self, level)

    # -- what the device calls -------------------------------------------------------

    def opened(self, welcome: object) -> None:
        """A session is open: what was lost meanwhile goes into the log, and the log leaves."""
        dropped = self._device.dropped
        if dropped > self._readings_dropped:
            lost = dropped - self._readings_dropped
            self._readings_dropped = dropped
            self.add("warning", "%d readings dropped: the outbox was full" % lost)
        self._send_soon()

    def _send_soon(self) -> None:
        if self._lines and self._device.is_open and not self._is_sending:
            self._is_sending = True
            self._device.spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._lines and self._device.is_open:
                await port.sleep_ms(_LINGER_MS)
                if self._device.is_open:
                    self._send_batch()
        finally:
            self._is_sending = False

    def _send_batch(self) -> None:
        if self.dropped > self._told:
            text = "%d lines of the log dropped" % (self.dropped - self._told)
            self._told = self.dropped
            time_ms, boot = self._lines[0][:2]
            self._lines.insert(0, (time_ms, boot, "warning", text))
        base_ms, boot = self._lines[0][:2]
        batch: "list[tuple[int, str, str]]" = []
        while self._lines and len(batch) < LOG_BATCH_LINES:
            time_ms, line_boot, level, text = self._lines[0]
            # A clock that was set in between begins another batch.
            if line_boot != boot or time_ms < base_ms:
                break
            batch.append((time_ms - base_ms, level, text))
            self._lines.pop(0)
        self._device.put(LOGS, LOG, encode_log(base_ms, boot, batch))


class Handler:
    """What both interpreters' ``logging`` ask of a handler."""

    def __init__(self, part: Part, level: int):
        self._part = part
        self.level = level

    def emit(self, record: "Any") -> None:
        """Take a record of either interpreter's ``logging``."""
        level = LEVELS[min(max(record.levelno // 10 - 1, 0), len(LEVELS) - 1)]
        message = record.getMessage() if hasattr(record, "getMessage") else record.message
        self._part.add(level, "%s: %s" % (record.name, message))

    def handle(self, record: "Any") -> None:
        """CPython calls this one; never raises, as a log must not disturb what it tells."""
        try:
            self.emit(record)
        except Exception as error:
            self._part.add("error", "a record of the log: %s" % error)
