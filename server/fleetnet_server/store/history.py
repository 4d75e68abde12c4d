"""What a page about a device shows of its past: curves, its log, what it reported as events.

Everything here is bounded in time and rows: it is asked again and again while somebody looks.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetnet.frame import EVENT, LOG, READINGS
from fleetnet_server.core.bodies import decode_event, decode_log
from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.ports import Readable
from fleetnet_server.store.query import decode_value
from fleetnet_server.store.retention import as_number
from fleetnet_server.store.selection import Selection
from fleetnet_server.store.summaries import StoredSum, stored
from fleetnet_server.store_place import PostgresPlace, StorePlace

Row = dict[str, Any]
Page = tuple[list[Row], list[Any] | None]

# A device that sends 100 readings a second for a day has more than can be read while somebody
# waits; what was read by then is shown, and that it is not all.
_CURVES_S = 2.0
_LOOK_EVERY = 256

# A device may name a new channel in every message. More than these fill no page.
_CHANNELS = 64

# Messages that one statement looks at (readings that are not compacted yet lie between): 3 ms.
# A page that found nothing for half a second is given as it is.
_WINDOW = 4000
_SEARCH_S = 0.5

# Of numbers beyond it sums are infinite. And the last of all numbers of messages.
_MOST_NUMBER = 1e300
_END = (1 << 63) - 1

Decode = Callable[[str, int | None, Any], list[Row]]

# Where a search goes on: (t0, id), or of the whole fleet (0, id), which are in order of arrival.
# Both have the same four parameters; the condition on ?1 and ?4 is always true.
_FLEET_WINDOW = (  # constants of this module only
    "SELECT 0, id, kind & 127 = ?3 AND problem IS NULL FROM messages"  # noqa: S608
    f" WHERE id < ?2 AND ?1 >= ?4 ORDER BY id DESC LIMIT {_WINDOW}"
)
_DEVICE_WINDOW = (
    "SELECT t0, id, kind & 127 = ?3 AND problem IS NULL FROM messages INDEXED BY messages_time"  # noqa: S608
    f" WHERE device = ?4 AND (t0, id) < (?1, ?2) ORDER BY t0 DESC, id DESC LIMIT {_WINDOW}"
)
# PostgreSQL has indexes of what is no readings: there each row of a window is wanted.
_OTHERS = (
    f"FROM messages WHERE kind & 127 <> {READINGS} AND kind & 127 = ?3 AND problem IS NULL"
)
_POSTGRES_FLEET_WINDOW = (
    f"SELECT 0, id, 1 {_OTHERS} AND id < ?2 AND ?1 >= ?4 ORDER BY id DESC LIMIT {_WINDOW}"
)
_POSTGRES_DEVICE_WINDOW = (
    f"SELECT t0, id, 1 {_OTHERS} AND device = ?4 AND (t0, id) < (?1, ?2)"
    f" ORDER BY t0 DESC, id DESC LIMIT {_WINDOW}"
)
_ONE = (
    "SELECT d.name, m.t0, m.body FROM messages AS m JOIN devices AS d ON d.id = m.device"  # noqa: S608
    f" WHERE m.id = ? AND m.kind & 127 <> {READINGS}"
)


class History:
    """Reads a store; call it on a thread.

    Raises, from each function:
        StoreUnavailable: the file cannot be read. StoreError: no such device.
    """

    def __init__(self, store: Readable, place: StorePlace):
        self._store = store
        self._place = place

    def curves(self, device: str, start_ms: int, end_ms: int, points: int) -> Row:
        """Return the numbers of every channel of a device, summed up by time.

        Args:
            start_ms, end_ms: unix ms; the end is not included. points: of a channel, at most.

        Returns "step_ms", "is_complete" (False: there was no time for all, the newest are
        missing), "channels_left_out", and "channels": of each its name, its newest value, and
        "points" [unix ms, lowest, mean, highest], of the middle of each step that has numbers.
        The minutes and hours that retention keeps are among them, at their middle; where only
        they are kept, the newest value is the newest mean.
        """
        step_ms = max(1, -(-(end_ms - start_ms) // points))
        if isinstance(self._place, PostgresPlace):
            from fleetnet_server.store.postgres.curves import Asked, curves

            asked = Asked(start_ms, end_ms - 1, step_ms, _CHANNELS, _MOST_NUMBER, _CURVES_S)
            channels, left, is_whole = curves(self._place, device, asked)
            return {
                "device": device, "start_ms": start_ms, "end_ms": end_ms, "step_ms": step_ms,
                "is_complete": is_whole, "channels_left_out": left, "channels": channels,
            }  # fmt: skip
        return self._file_curves(device, start_ms, end_ms, step_ms)

    def _file_curves(self, device: str, start_ms: int, end_ms: int, step_ms: int) -> Row:
        deadline = time.monotonic() + _CURVES_S
        found: dict[str, _Curve] = {}
        left_out: set[str] = set()
        is_complete = True
        readings = stored(self._place, Selection((device,), (), start_ms, end_ms))
        try:
            for count, one in enumerate(readings, 1):
                if one.unix_ms is None:
                    break
                curve = found.get(one.channel)
                if curve is None and len(found) < _CHANNELS:
                    curve = found[one.channel] = _Curve(start_ms, end_ms, step_ms)
                if curve is not None:
                    curve.take(one)
                elif len(left_out) < _CHANNELS:
                    left_out.add(one.channel)
                if count % _LOOK_EVERY == 0 and time.monotonic() > deadline:
                    is_complete = False
                    break
        finally:
            readings.close()  # type: ignore[attr-defined]
        return {
            "device": device, "start_ms": start_ms, "end_ms": end_ms, "step_ms": step_ms,
            "is_complete": is_complete, "channels_left_out": len(left_out),
            "channels": [found[name].shown(name) for name in sorted(found)],
        }  # fmt: skip

    def alarms(self, device: str | None, before: list[int] | None, limit: int) -> Page:
        """Return what devices reported as events, the newest first."""
        return self._newest(EVENT, _alarms, device, before, limit)

    def log(self, device: str, before: list[int] | None, limit: int) -> Page:
        """Return the dated lines of a device's log, the newest first; at least a message's."""
        return self._newest(LOG, _lines, device, before, limit)

    def _newest(
        self, kind: int, decode: Decode, device: str | None, before: list[int] | None, limit: int
    ) -> Page:
        """Search windows of messages, the newest first, until there are enough rows."""
        is_file = isinstance(self._place, Path)
        if device is None:
            window, number = _FLEET_WINDOW if is_file else _POSTGRES_FLEET_WINDOW, 0
        else:
            window = _DEVICE_WINDOW if is_file else _POSTGRES_DEVICE_WINDOW
            number = self._number(device)
        at = before or [_END, _END]
        deadline = time.monotonic() + _SEARCH_S
        found: list[Row] = []
        while True:
            rows = self._store.read(window, (at[0], at[1], kind, number))
            for t0, number_, is_wanted in rows:
                at = [t0, number_]
                if is_wanted:
                    found += self._decoded(decode, number_)
                    if len(found) >= limit:
                        return found, at
            if len(rows) < _WINDOW:
                return found, None
            if time.monotonic() > deadline:
                return found, at

    def _decoded(self, decode: Decode, message: int) -> list[Row]:
        rows = self._store.read(_ONE, (message,))
        return [row for name, t0, body in rows for row in decode(name, t0, body)]

    def _number(self, device: str) -> int:
        rows = self._store.read("SELECT id FROM devices WHERE name = ?", (device,))
        return int(rows[0][0]) if rows else 0


class _Curve:
    """The numbers of one channel by step, and its newest value of whatever type."""

    def __init__(self, start_ms: int, end_ms: int, step_ms: int) -> None:
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._step_ms = step_ms
        self._steps: dict[int, list[float]] = {}
        self._newest: tuple[int, Any] = (0, None)
        self._count = 0

    def take(self, one: Reading | StoredSum) -> None:
        """Take a dated reading, or what is kept of some."""
        if isinstance(one, StoredSum):
            # It may have begun before what is shown, or end behind it.
            middle = max(self._start_ms, min(one.unix_ms + one.length_ms // 2, self._end_ms - 1))
            self._count += one.count
            # A middle may lie behind a reading that is there as such: that one is exact.
            if middle > self._newest[0]:
                self._newest = (middle, one.mean)
            self._add(middle, one.count, one.low, one.high, one.mean)
            return
        unix_ms = one.unix_ms or 0
        self._count += 1
        self._newest = (unix_ms, one.value)
        number = float(one.value) if isinstance(one.value, bool) else as_number(one.value)
        if number is not None:
            self._add(unix_ms, 1, number, number, number)

    def _add(self, unix_ms: int, count: int, low: float, high: float, mean: float) -> None:
        # Beyond this, sums are infinite and no axis can be drawn.
        if max(abs(low), abs(high)) > _MOST_NUMBER:
            return
        step = (unix_ms - self._start_ms) // self._step_ms
        found = self._steps.get(step)
        if found is None:
            self._steps[step] = [count, low, high, mean]
            return
        found[0] += count
        found[1] = min(found[1], low)
        found[2] = max(found[2], high)
        # No sum, which could be infinite.
        found[3] += (mean - found[3]) * (count / found[0])

    def shown(self, name: str) -> Row:
        unix_ms, value = self._newest
        return {
            "name": name, "count": self._count, "unix_ms": unix_ms, "value": value,
            "points": [
                [self._start_ms + step * self._step_ms + self._step_ms // 2, low, mean, high]
                for step, (_count, low, high, mean) in sorted(self._steps.items())
            ],
        }  # fmt: skip


def _alarms(device: str, t0: int | None, body: Any) -> list[Row]:
    _base_ms, _boot, name, raw = decode_event(body)
    return [{"device": device, "name": name, "unix_ms": t0, "value": decode_value(raw)}]


def _lines(device: str, t0: int | None, body: Any) -> list[Row]:
    _base_ms, _boot, lines = decode_log(body)
    first_ms = min((line[0] for line in lines), default=0)
    return [
        {"unix_ms": None if t0 is None else t0 + dt_ms - first_ms, "level": level, "text": text}
        for dt_ms, level, text in reversed(lines)
    ]
