"""Messages and their readings go into their tables, by COPY, in a transaction of the caller's."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fleetnet_server.core.bodies import Message
from fleetnet_server.store.postgres.expanding import (
    COPY_MESSAGES,
    COPY_READINGS,
    Expanded,
    expand,
    message_rows,
    reading_blocks,
)
from fleetnet_server.store.postgres.refused import with_problem
from fleetnet_server.store.postgres.series import MOST_OF_A_DEVICE, SeriesNumbers

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.store")

# Of a message that is stored without its readings.
_BEYOND = f"a device has {MOST_OF_A_DEVICE:,} channels at most"


def store_messages(
    connection: "PgRawConnection", stored: Sequence[Message], series: SeriesNumbers
) -> None:
    """Store messages and their readings."""
    found, beyond = expand_all(connection, stored, series)
    if beyond:
        stored = [with_problem(one, _BEYOND) if one in beyond else one for one in stored]
    _copy(connection, COPY_MESSAGES, (message_rows(stored),))
    store_readings(connection, found, series)


def store_readings(
    connection: "PgRawConnection", found: Sequence[Expanded], series: SeriesNumbers
) -> None:
    """Store readings, whose series are known."""
    if found:
        _copy(connection, COPY_READINGS, reading_blocks(found, series.known))


def expand_all(
    connection: "PgRawConnection", stored: Sequence[Message], series: SeriesNumbers
) -> tuple[list[Expanded], set[Message]]:
    """Return the readings of messages, and the messages that have too many new channels."""
    found: list[Expanded] = [one for message in stored if (one := expand(message))]
    wanted = [(one.message.device_id, one.channels) for one in found]
    refused = series.admit(connection, wanted)
    if not refused:
        return found, set()
    beyond = {found[index].message for index in refused}
    for device in sorted({one.device_id for one in beyond}):
        _log.warning("device %d: messages are stored without their readings: %s", device, _BEYOND)
    return [one for index, one in enumerate(found) if index not in refused], beyond


def _copy(connection: "PgRawConnection", sql: str, blocks: Iterable[bytes]) -> None:
    with connection.cursor() as cursor, cursor.copy(sql) as copy:
        for block in blocks:
            copy.write(block)
