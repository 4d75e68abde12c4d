"""One commit: a batch of messages, and what waited for it, in one transaction of PostgreSQL.

    leases FOR SHARE, streams FOR UPDATE    in order of their keys, one round trip
    series, boots                           when some are new
    COPY messages, COPY readings            binary
    streams, gaps, answers, audit, COMMIT   one round trip

Every server locks in this order, and the control tables (locks.FEED) last. When the connection
breaks at COMMIT nobody knows whether it happened: the next try ends what is left of the last one,
and looks for its mark in ``commits``. The watermarks are there either way.

Only answers wait for the control tables, and not for long: rows of the audit log that would have
to wait are left for a later commit. So whoever stands still with that lock holds up no readings.
"""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet.frame import CONFIG_STATE, OPTIONAL, RESULT
from fleetnet_server.core.bodies import Message, decode_answer
from fleetnet_server.core.ports import Committed
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.answers import apply_answers
from fleetnet_server.store.fleet_store import Deferred
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.dating import (
    date_batch,
    date_waiting,
    keep_offsets,
    take_turns,
)
from fleetnet_server.store.postgres.expanding import as_text
from fleetnet_server.store.postgres.lease_rows import FENCES
from fleetnet_server.store.postgres.leases import IDLE_S, Leases
from fleetnet_server.store.postgres.locks import TAKE_FEED, TRY_FEED
from fleetnet_server.store.postgres.refused import Refused
from fleetnet_server.store.postgres.series import SeriesNumbers
from fleetnet_server.store.postgres.storing import expand_all, store_messages, store_readings
from fleetnet_server.store.postgres.watermarks import (
    DIG_HOLES,
    DIG_HOLES_OF_HUBS,
    FILL_HOLES,
    HOLES,
    LOCK_STREAMS,
    MOVE_STREAMS,
    NEW_STREAMS,
    Marks,
    Stream,
    columns,
)
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

_KEEP_GAPS = (
    "INSERT INTO gaps(device, epoch, stream, first, last, noted_ms)"
    " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],"
    " %s::bigint[]) ON CONFLICT (epoch, stream, first)"
    " DO UPDATE SET last = excluded.last, noted_ms = excluded.noted_ms"
)
_KEEP_CARRIED = (
    "INSERT INTO carried(epoch, stream, last)"
    " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) ORDER BY 1, 2"
    " ON CONFLICT (epoch, stream) DO UPDATE SET last = greatest(carried.last, excluded.last)"
)
_KEEP_AUDIT = (
    "INSERT INTO audit(at_ms, actor, action, device, detail)"
    " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])"
)
_ANSWERS = (RESULT, CONFIG_STATE)
# Answers wait so long for the control tables: less than devices wait before they are sent away.
_FEED_WAIT = "SET LOCAL lock_timeout = '2s'"
# Rows of the audit log: with messages, which others wait for; alone, lest they try all the time.
_AUDIT_WAIT_MS = (1, 500)
_MARK = (
    "INSERT INTO commits(node, attempt) VALUES(%s, %s)"
    " ON CONFLICT (node) DO UPDATE SET attempt = excluded.attempt"
)
_MARKED = "SELECT 1 FROM commits WHERE node = %s AND attempt = %s"
# A connection that is gone for us may stand for the server, with the locks of its transaction.
# Process ids come again, so the time of its begin goes with it.
_WHO_AM_I = (
    "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
_END_IT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid = %s AND backend_start::text = %s"
)


class _Unsure(NamedTuple):
    """A transaction of which nobody knows how it ended; ``outcome`` is None before COMMIT."""

    attempt: int
    process: tuple[int, str]
    batch: Sequence[Message]
    waited: Deferred
    outcome: Committed | None


class Ingest:
    """Commits batches of one node, on one thread.

    Args:
        leases: of the node; None: no lease is needed.
    """

    def __init__(self, place: PostgresPlace, leases: Leases | None):
        self._place = place
        self._leases = leases
        # Commands have no name, and share one mark, which another of them may have moved on: then
        # what was stored counts as known before.
        self._node = "" if leases is None else leases.node
        self._connection: PgRawConnection | None = None
        self._series = SeriesNumbers()
        self._streams: set[Stream] = set()
        self._refused = Refused(place)
        self._unsure: _Unsure | None = None
        self._process = (0, "")

    def commit(self, batch: Sequence[Message], waited: Deferred) -> tuple[Committed, Deferred]:
        """Store a batch behind what waited.

        Returns:
            What became of the batch; and what of ``waited`` is stored now: less than all when
            it is an earlier try of the same batch that succeeded, or another program holds the
            audit log.

        Raises:
            StoreUnavailable, StoreError: as far as is known nothing was stored; call it again.
        """
        try:
            with explained(self._place, "written"):
                done = self._settle()
                if done is None or done.outcome is None:
                    outcome, left = self._commit(self._open(), batch, waited)
                    return outcome, _without(waited, left)
                if done.batch is batch:
                    return done.outcome, done.waited
                # The batch was given up; what waited with it is stored, and heads what waits now.
                known = set(done.waited.gaps)
                gaps = [gap for gap in waited.gaps if gap not in known]  # one may have grown
                audit = waited.audit[len(done.waited.audit) :]
                rest = Deferred(gaps, audit, waited.offsets)
                outcome, left = self._commit(self._open(), batch, rest)
                return outcome, _without(waited, left)
        except BaseException as error:
            self.close()
            with explained(self._place, "written"):
                if not self._refused.find(batch, error, self._try):
                    raise
            self._unsure = None  # whatever fails so is not stored
        return self.commit(batch, waited)

    def close(self) -> None:
        """End the connection; the next commit makes another."""
        connection, self._connection = self._connection, None
        # What the transaction had made may be gone with it.
        self._series = SeriesNumbers()
        self._streams = set()
        if connection is not None:
            connection.close()

    def _open(self) -> "PgRawConnection":
        if self._connection is None:
            self._connection = connect(self._place)
            self._connection.execute("SET synchronous_commit = on")
            # Its locks keep sessions from beginning at other nodes, should this one die.
            self._connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
            row = self._connection.execute(_WHO_AM_I).fetchone()
            assert row is not None
            self._process = (row[0], row[1])
        return self._connection

    def _settle(self) -> _Unsure | None:
        """Return the last try when its end was unknown, and it is stored after all."""
        unsure = self._unsure
        if unsure is None:
            return None
        connection = self._open()
        if connection.execute(_END_IT, unsure.process).fetchone() is not None:
            raise StoreUnavailable(
                f"{self._place} still has the commit before this one under way: it is ended, "
                "and the batch is tried again"
            )
        is_marked = connection.execute(_MARKED, (self._node, unsure.attempt)).fetchone()
        self._unsure = None
        return unsure if is_marked is not None else None

    def _commit(
        self, connection: "PgRawConnection", batch: Sequence[Message], waited: Deferred
    ) -> tuple[Committed, int]:
        """Return what became of the batch, and how many rows of the audit log wait longer."""
        keys = {(message.epoch_id, message.stream) for message in batch}
        keys.update((gap[1], gap[2]) for gap in waited.gaps)
        attempt = secrets.randbits(63)
        self._unsure = _Unsure(attempt, self._process, batch, waited, None)
        batch = self._refused.apply(batch)
        marks, lost = self._lock(connection, batch, sorted(keys))
        kept = [one for index, one in enumerate(batch) if index not in lost] if lost else batch
        self._load_holes(connection, marks, kept, waited)
        for _device, epoch, stream, first, last, _noted in waited.gaps:
            marks.give_up((epoch, stream), first, last)
        new = [
            index
            for index, message in enumerate(batch)
            if index not in lost
            and marks.take((message.epoch_id, message.stream), message.seq, message.received)
        ]
        stored: Sequence[Message] = [batch[index] for index in new]
        take_turns(connection, stored, waited.offsets)
        fresh = keep_offsets(connection, waited.offsets) if waited.offsets else {}
        stored = date_batch(connection, stored)
        # What was stored before is dated first: it does not see this batch, which is dated.
        if fresh:
            date_waiting(connection, fresh, lambda dated: self._copy_dated(connection, dated))
        if stored:
            store_messages(connection, stored, self._series)
        outcome = Committed(new, frozenset(lost))
        self._unsure = self._unsure._replace(outcome=outcome)
        with connection.pipeline():
            connection.execute(_MARK, (self._node, attempt))
            left = self._finish(connection, marks, kept, waited)
        self._unsure = None
        self._streams |= keys
        return outcome, left

    def _lock(
        self, connection: "PgRawConnection", batch: Sequence[Message], keys: list[Stream]
    ) -> tuple[Marks, set[int]]:
        """Begin; return the streams, and the messages of devices that are elsewhere."""
        holders: list[int] = []
        if self._leases is not None:
            holders = [
                one.hub if type(one) is Relayed else one.device_id for one in batch
            ]
        devices = sorted(set(holders))
        unknown = [key for key in keys if key not in self._streams]
        with connection.pipeline():
            connection.execute("BEGIN")
            held = connection.execute(FENCES, (devices,)) if devices else None
            if unknown:
                connection.execute(NEW_STREAMS, columns(unknown))
            locked = connection.execute(LOCK_STREAMS, columns(keys)) if keys else None
            fences = held.fetchall() if held is not None else []
            marks = locked.fetchall() if locked is not None else []
        lost: set[int] = set()
        if self._leases is not None:
            gone = self._leases.lost(set(devices), fences)
            lost = {index for index, device in enumerate(holders) if device in gone}
        return Marks({(epoch, stream): last for epoch, stream, last in marks}), lost

    def _load_holes(
        self, connection: "PgRawConnection", marks: Marks, kept: Sequence[Message], waited: Deferred
    ) -> None:
        """Read the holes in which a message or a gap of this commit could lie."""
        spans: dict[Stream, tuple[int, int]] = {}
        below = [
            ((one.epoch_id, one.stream), one.seq, one.seq)
            for one in kept
            if one.seq <= marks.last[one.epoch_id, one.stream]
        ]
        gaps = [((gap[1], gap[2]), gap[3], gap[4]) for gap in waited.gaps]
        for stream, first, last in (*below, *gaps):
            low, high = spans.get(stream, (first, last))
            spans[stream] = min(low, first), max(high, last)
        if spans:
            wanted = columns((*stream, *span) for stream, span in spans.items())
            marks.load(connection.execute(HOLES, wanted).fetchall())

    def _copy_dated(self, connection: "PgRawConnection", dated: Sequence[Message]) -> None:
        """Store the readings of messages that were there without a date."""
        found, _beyond = expand_all(connection, dated, self._series)
        store_readings(connection, found, self._series)

    def _try(self, connection: "PgRawConnection", part: Sequence[Message]) -> None:
        """Write what a part of a batch writes; see refused.py."""
        store_messages(connection, date_batch(connection, part), SeriesNumbers())
        if answers := _answers(part):
            connection.execute(_FEED_WAIT)
            connection.execute(TAKE_FEED)
            _apply(connection, answers)

    def _finish(
        self, connection: "PgRawConnection", marks: Marks, kept: Sequence[Message], waited: Deferred
    ) -> int:
        if marks.moved:
            moved = [(*key, marks.last[key], received) for key, received in marks.moved.items()]
            connection.execute(MOVE_STREAMS, columns(moved))
        gone, dug, leapt = marks.changed_holes()
        if gone:
            connection.execute(FILL_HOLES, columns(gone))
        if dug:
            connection.execute(DIG_HOLES, columns(dug))
        if leapt:
            connection.execute(DIG_HOLES_OF_HUBS, columns(leapt))
        if waited.gaps:
            last_word = {(gap[1], gap[2], gap[3]): gap for gap in waited.gaps}
            connection.execute(_KEEP_GAPS, columns(last_word[key] for key in sorted(last_word)))
        carried = _carried(kept)
        if carried:
            connection.execute(_KEEP_CARRIED, columns(carried))
        answers = _answers(kept)
        audit = waited.audit
        if answers:
            connection.execute(_FEED_WAIT)
            connection.execute(TAKE_FEED)
            _apply(connection, answers)
        elif audit and not _try_feed(connection, _AUDIT_WAIT_MS[not kept]):
            audit = ()
        if audit:
            texts = [tuple(map(_kept_text, row)) for row in audit]
            connection.execute(_KEEP_AUDIT, [list(column) for column in zip(*texts, strict=True)])
        if self._unsure is not None:
            self._unsure = self._unsure._replace(waited=waited._replace(audit=audit))
        connection.execute("COMMIT")
        return len(waited.audit) - len(audit)


def _try_feed(connection: "PgRawConnection", wait_ms: int) -> bool:
    row = connection.execute(TRY_FEED, (wait_ms,)).fetchone()
    return row is not None and bool(row[0])


def _without(waited: Deferred, left: int) -> Deferred:
    """Return what of it is stored when so many rows of the audit log are not."""
    return waited._replace(audit=waited.audit[: len(waited.audit) - left]) if left else waited


def _carried(batch: Sequence[Message]) -> list[tuple[int, int, int]]:
    """Return up to where hubs' streams are stored: (epoch, stream, sequence)."""
    found: dict[Stream, int] = {}
    for message in batch:
        if type(message) is Relayed:
            epoch, stream, seq = message.carrier
            found[epoch, stream] = max(seq, found.get((epoch, stream), 0))
    return [(*key, seq) for key, seq in sorted(found.items())]


def _answers(batch: Sequence[Message]) -> list[Message]:
    return [one for one in batch if one.kind & ~OPTIONAL in _ANSWERS and not _is_nobodys(one)]


def _is_nobodys(message: Message) -> bool:
    """Say whether a result is of an id that no command can have: PostgreSQL refuses a NUL."""
    if message.kind & ~OPTIONAL != RESULT or message.problem is not None:
        return False
    return "\0" in str(decode_answer(RESULT, message.body).key)


def _apply(connection: "PgRawConnection", answers: Sequence[Message]) -> None:
    from fleetnet_server.store.postgres.dialect import PgConnection

    if answers:
        apply_answers(PgConnection(connection), answers)


def _kept_text(value: Any) -> Any:
    return as_text(value) if isinstance(value, str) else value
