"""The numbers of series (device, channel), as the one thread that compacts knows them."""

from collections.abc import Iterable

import apsw
import msgspec

# Devices whose series are remembered; some 200 B for each series.
_MAX_DEVICES = 20_000

_OF_DEVICES = (
    "SELECT json_group_array(json_array(s.device, s.channel, s.id, s.spans)) FROM series AS s"
    " WHERE s.device IN (SELECT value FROM json_each(?1))"
)
_decode = msgspec.json.Decoder(list[tuple[int, str, int, int]]).decode


class _One:
    """A series."""

    __slots__ = ("number", "spans")

    def __init__(self, number: int, spans: int):
        self.number = number
        self.spans = spans


class Series:
    """Numbers of series; new ones wait for ``write``. Drop it when a transaction failed."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, _One]] = {}
        self._next = 0
        self._new: list[tuple[int, int, str]] = []
        self._changed: dict[int, _One] = {}

    def load(self, reader: apsw.Connection, devices: set[int]) -> None:
        """Read the series of devices that are not known yet."""
        if len(self._known) > _MAX_DEVICES:
            self._known.clear()
        if not self._next:
            self._next = 1 + int(reader.execute("SELECT coalesce(max(id), 0) FROM series").get)
        missing = [device for device in devices if device not in self._known]
        if not missing:
            return
        for device in missing:
            self._known[device] = {}
        text = reader.execute(_OF_DEVICES, (msgspec.json.encode(missing).decode(),)).get
        for device, channel, number, spans in _decode(text):
            self._known[device][channel] = _One(number, spans)

    def number(self, device: int, channel: str, span: int) -> int:
        """Return the number of a series of a loaded device, which gets a chunk of ``span``."""
        channels = self._known[device]
        one = channels.get(channel)
        if one is None:
            one = channels[channel] = _One(self._next, 0)
            self._new.append((self._next, device, channel))
            self._next += 1
        if not one.spans >> span & 1:
            one.spans |= 1 << span
            self._changed[one.number] = one
        return one.number

    def write(self, connection: apsw.Connection) -> None:
        """Write what is new, inside a transaction of the caller's."""
        if self._new:
            _each(connection, "INSERT INTO series(id, device, channel) SELECT"
                  " json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
                  " json_extract(value, '$[2]') FROM json_each(?)", self._new)  # fmt: skip
        if self._changed:
            _each(connection, "UPDATE series SET spans = spans | json_extract(j.value, '$[1]')"
                  " FROM json_each(?) AS j WHERE series.id = json_extract(j.value, '$[0]')",
                  [(one.number, one.spans) for one in self._changed.values()])  # fmt: skip

    def committed(self) -> None:
        """What waited is in the file."""
        self._new.clear()
        self._changed.clear()


def _each(connection: apsw.Connection, sql: str, rows: Iterable[object]) -> None:
    connection.execute(sql, (msgspec.json.encode(list(rows)).decode(),))
