"""The window of messages that compaction works on, and how large it and its steps are."""

from array import array
from typing import NamedTuple

import apsw
import msgspec

# A row that was received so far in the future came before a clock was set back: it is old.
_SKEW_MS = 60_000
_SCAN_ROWS = 10_000

# Each answer is one row: the bindings give up the interpreter lock at every step, and a busy
# event loop keeps it for 5 ms each time.
_SCAN = (
    "SELECT json_group_array(json_array(id, device, size, received)) FROM (SELECT id, device,"  # noqa: S608
    " length(body) AS size, received FROM messages WHERE id > ?1"
    f" AND id < (SELECT max(id) FROM messages) ORDER BY id LIMIT {_SCAN_ROWS})"
)
_decode_scan = msgspec.json.Decoder(list[tuple[int, int, int, int]]).decode


class Pace(NamedTuple):
    """How compaction works.

    Attributes:
        delay_ms: rows younger than this are left alone, so that whoever follows new
            messages meets them.
        wait_ms: a window that is not full is opened when its oldest row is this old.
        window_rows: messages of a window. More: larger chunks and less writing for each
            reading, some 20 B of memory for each message.
        device_rows, device_bytes: of one device in a window, which is one step at most.
        step_rows, step_bytes: messages of a step; a commit of new messages waits for it.
    """

    delay_ms: int = 10_000
    wait_ms: int = 900_000
    window_rows: int = 100_000
    device_rows: int = 4_000
    device_bytes: int = 4 << 20
    step_rows: int = 2_000
    step_bytes: int = 2 << 20


class Window:
    """Which messages of which devices lie behind ``before``, up to ``last``."""

    def __init__(self, before: int):
        self.before = self.last = before
        self.oldest_ms = 0
        self._ids: dict[int, array[int]] = {}
        self._bytes: dict[int, int] = {}
        self._rows = 0
        self._order: list[int] | None = None

    def scan(
        self, reader: apsw.Connection, pace: Pace, now_ms: int, most: int = (1 << 63) - 1
    ) -> bool:
        """Look at rows up to ``most`` that are old enough; True: the window is full."""
        while True:
            rows = _decode_scan(reader.execute(_SCAN, (self.last,)).get)
            for number, device, size, received in rows:
                if number > most or now_ms - pace.delay_ms < received <= now_ms + _SKEW_MS:
                    return False
                if not self._rows:
                    self.oldest_ms = received if received <= now_ms else 0
                self._add(number, device, size)
                if (
                    self._rows >= pace.window_rows
                    or len(self._ids[device]) >= pace.device_rows
                    or self._bytes[device] >= pace.device_bytes
                ):
                    return True
            if len(rows) < _SCAN_ROWS:
                return False

    def scan_to(self, reader: apsw.Connection, last: int) -> None:
        """Look at all rows up to ``last``."""
        while True:
            rows = _decode_scan(reader.execute(_SCAN, (self.last,)).get)
            for number, device, size, _received in rows:
                if number > last:
                    self.last = last
                    return
                self._add(number, device, size)
            if len(rows) < _SCAN_ROWS:
                self.last = last
                return

    def take(self, device: int, pace: Pace) -> tuple[list[int], int, bool]:
        """Return messages of the next devices, the last of these, whether it is the end."""
        if self._order is None:
            self._order = sorted(one for one in self._ids if one > device)
            self._order.reverse()
        ids: list[int] = []
        size = 0
        while self._order:
            following = self._order[-1]
            if ids and (
                len(ids) + len(self._ids[following]) > pace.step_rows
                or size + self._bytes[following] > pace.step_bytes
            ):
                break
            device = self._order.pop()
            ids += self._ids.pop(device)
            size += self._bytes[device]
        return ids, device, not self._order

    def _add(self, number: int, device: int, size: int) -> None:
        self.last = number
        self._rows += 1
        self._ids.setdefault(device, array("q")).append(number)
        self._bytes[device] = self._bytes.get(device, 0) + size
