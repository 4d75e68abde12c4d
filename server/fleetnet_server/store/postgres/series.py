"""The numbers of series (device, channel), as the one thread that commits knows them."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

# Numbers that are remembered; some 200 B each.
_MOST = 500_000

# Channels that a device has are dozens. Each has a row for ever, here and in each program's memory,
# and a device that makes up names would fill both.
MOST_OF_A_DEVICE = 10_000

_FIND = (
    "SELECT s.device, s.channel, s.id FROM series AS s"
    " JOIN unnest(%s::bigint[], %s::text[]) AS wanted(device, channel)"
    " ON s.device = wanted.device AND s.channel = wanted.channel"
)
# In order, so that no two servers wait for each other in a circle.
_MAKE = (
    "INSERT INTO series(device, channel) SELECT device, channel"
    " FROM unnest(%s::bigint[], %s::text[]) AS wanted(device, channel) ORDER BY 1, 2"
    " ON CONFLICT (device, channel) DO NOTHING"
)
_COUNT = "SELECT device, count(*) FROM series WHERE device = ANY(%s::bigint[]) GROUP BY device"


class SeriesNumbers:
    """Numbers of series. Make another one when a transaction failed: its new ones are gone."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, str], int] = {}

    def learn(
        self, connection: "psycopg.Connection[tuple[Any, ...]]", wanted: Iterable[tuple[int, str]]
    ) -> None:
        """Let ``known`` have all that are wanted, inside a transaction of the caller's."""
        self._make(connection, self._look_up(connection, set(wanted)))

    def admit(
        self,
        connection: "psycopg.Connection[tuple[Any, ...]]",
        messages: Sequence[tuple[int, Collection[str]]],
    ) -> set[int]:
        """Let ``known`` have the channels of messages: (device, channels).

        Returns:
            The indexes of those that would give their device more than MOST_OF_A_DEVICE.
        """
        wanted = {(device, name) for device, names in messages for name in names}
        missing = self._look_up(connection, wanted)
        if not missing:
            return set()
        devices = sorted({device for device, _name in missing})
        counts = Counter(dict(connection.execute(_COUNT, (devices,)).fetchall()))
        new: set[tuple[int, str]] = set()
        refused = set()
        for index, (device, names) in enumerate(messages):
            added = {(device, name) for name in names} & missing - new
            if added and counts[device] + len(added) > MOST_OF_A_DEVICE:
                refused.add(index)
                continue
            counts[device] += len(added)
            new |= added
        self._make(connection, new)
        return refused

    def _look_up(
        self, connection: "psycopg.Connection[tuple[Any, ...]]", wanted: set[tuple[int, str]]
    ) -> set[tuple[int, str]]:
        """Return those that are not there yet."""
        missing = wanted - self.known.keys()
        if not missing:
            return missing
        if len(self.known) > _MOST:
            self.known.clear()
            missing = wanted
        self._find(connection, missing)
        return missing - self.known.keys()

    def _make(
        self, connection: "psycopg.Connection[tuple[Any, ...]]", new: set[tuple[int, str]]
    ) -> None:
        if new:
            connection.execute(_MAKE, _columns(sorted(new)))
            self._find(connection, new)

    def _find(
        self, connection: "psycopg.Connection[tuple[Any, ...]]", keys: Iterable[tuple[int, str]]
    ) -> None:
        for device, channel, number in connection.execute(_FIND, _columns(keys)):
            self.known[device, channel] = number


def _columns(keys: Iterable[tuple[int, str]]) -> list[list[Any]]:
    return [list(column) for column in zip(*keys, strict=True)]
