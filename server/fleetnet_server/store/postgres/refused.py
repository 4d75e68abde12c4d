"""Messages that the database refuses: found, and stored as they came.

Bodies are checked where they arrive. Should PostgreSQL refuse one nevertheless, its whole commit
fails, at each try, and no device of that node gets an acknowledgement any more. So the batch is
tried in halves, each in a transaction that is rolled back, down to the messages that are refused.
They are stored with a problem, and without their readings; the rest is stored as ever, all in the
one commit that is tried again then.
"""

import logging
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.store")

# Classes of SQLSTATE (PostgreSQL, appendix A): a value, a constraint, a limit of the program.
_OF_A_ROW = ("22", "23", "54")
# What a row of COPY BINARY cannot hold.
_NO_ROW = (struct.error, ValueError, OverflowError)
# Commits in a row that may meet a partition which is being made: a leader that comes to an empty
# database makes one for each week of a year.
_CHANCES = 100
# Characters of the database's own words in a problem: they may hold parts of the body.
_MOST_TEXT = 200

_NAMES = "SELECT id, name FROM devices WHERE id = ANY(%s::bigint[])"


class Refused:
    """The messages of one batch that are refused; the writer brings it again and again."""

    def __init__(self, place: PostgresPlace):
        self._place = place
        self._batch: Sequence[Message] | None = None
        self._problems: dict[int, str] = {}
        self._tried: Sequence[Message] | None = None
        self._tries = 0

    def apply(self, batch: Sequence[Message]) -> Sequence[Message]:
        """Return the batch, those that were found in it with their problems."""
        if batch is not self._batch:
            self._batch, self._problems = None, {}
            return batch
        return [
            with_problem(one, self._problems[index]) if index in self._problems else one
            for index, one in enumerate(batch)
        ]

    def find(
        self, batch: Sequence[Message], error: BaseException,
        write: Callable[["PgRawConnection", Sequence[Message]], None],
    ) -> bool:  # fmt: skip
        """Say whether to commit again, as the error is a message's own, which ``apply`` changes.

        Args:
            write: stores messages in a transaction of the caller's.

        Raises:
            StoreUnavailable, StoreError: nothing was found out.
        """
        if _is_chance(error):
            self._tries = self._tries + 1 if batch is self._tried else 1
            self._tried = batch
            return self._tries <= _CHANCES
        if batch is self._batch or not batch or _said(error) is None:
            return False
        connection: PgRawConnection = connect(self._place)
        try:
            found = _find(connection, batch, write)
            devices = list({batch[index].device_id for index in found})
            names: dict[int, str] = dict(connection.execute(_NAMES, (devices,)).fetchall())
        finally:
            connection.close()
        for index, problem in found.items():
            one = batch[index]
            _log.error(
                "message %d of stream %d of %s is stored as it came, without its readings: %s",
                one.seq, one.stream, names.get(one.device_id, f"device {one.device_id}"), problem,
            )  # fmt: skip
        if found:
            self._batch, self._problems = batch, found
        return bool(found)


def with_problem(message: Message, problem: str) -> Message:
    """Return a message as one that cannot be read."""
    fields = message._replace(t0=message.received, t1=message.received, problem=problem)
    if type(message) is not Relayed:
        return fields
    relayed = Relayed(*fields)
    relayed.carrier, relayed.hub = message.carrier, message.hub
    return relayed


def _find(
    connection: "PgRawConnection", batch: Sequence[Message],
    write: Callable[["PgRawConnection", Sequence[Message]], None],
) -> dict[int, str]:  # fmt: skip
    found: dict[int, str] = {}
    parts = [range(len(batch))]
    while parts:
        part = parts.pop()
        problem = _try(connection, [batch[index] for index in part], write)
        if problem is None:
            continue
        if len(part) == 1:
            found[part[0]] = problem
        else:
            half = len(part) // 2
            parts += [part[half:], part[:half]]
    return found


def _try(
    connection: "PgRawConnection", part: Sequence[Message],
    write: Callable[["PgRawConnection", Sequence[Message]], None],
) -> str | None:  # fmt: skip
    """Return why a part is refused."""
    for _ in range(_CHANCES):
        connection.execute("BEGIN")
        try:
            write(connection, part)
        except Exception as error:
            if _is_chance(error):
                continue
            if (said := _said(error)) is not None:
                return said
            raise
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")
        return None
    raise StoreUnavailable("partitions are made all the time: the batch is tried again later")


def _is_chance(error: BaseException) -> bool:
    """Say whether a row was on its way to DEFAULT while its partition was made.

    PostgreSQL says that it violates a constraint then, which has no name as others have.
    """
    for one in (error, error.__cause__):
        if getattr(one, "sqlstate", None) == "23514":
            return getattr(getattr(one, "diag", None), "constraint_name", None) is None
    return False


def _said(error: BaseException) -> str | None:
    """Return what an error says of a row; None: it is of something else."""
    for one in (error, error.__cause__):
        if one is None:
            continue
        if isinstance(one, _NO_ROW):
            return f"no row can hold it: {one}"[:_MOST_TEXT]
        if (getattr(one, "sqlstate", None) or "").startswith(_OF_A_ROW):
            text = " ".join(str(one).split())
            return f"the database refuses it: {text}"[:_MOST_TEXT]
    return None
