"""Copies a store from SQLite to PostgreSQL, or back: every table, in steps that can be interrupted.

    copy_store(folder / "fleet.db", place)

Both sides stand still: no server may use them. The source is read as it was when the program
began; a program that goes on with an interrupted copy refuses a source that changed since. In the
end both sides are read again and compared: rows of every table by their number and contents,
readings of every series by their number and sums. Blobs stay files where they are.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import ConfigError, StoreError
from fleetnet_server.store.copy_sqlite import (
    CHUNK_KEY,
    SHOWN,
    SqliteSide,
    is_shown_readings,
    open_source,
)
from fleetnet_server.store.copy_steps import (
    PAGE_ROWS,
    TABLES,
    WHOLE,
    Advance,
    Page,
    Place,
    Row,
    State,
    Step,
    Store,
    Target,
    count_rows,
    in_pages,
    table_step,
)
from fleetnet_server.store.copy_target import SqliteTarget, open_target
from fleetnet_server.store.copy_verifying import Verified, verify
from fleetnet_server.store.registry import PROGRAM
from fleetnet_server.store_place import PostgresPlace, StorePlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.copy_side import PgSide
    from fleetnet_server.store.postgres.copy_target import PgTarget

# Of one transaction: some 50,000 readings, half a second. A message has 64 KiB at most.
_PAGE_CHUNKS = 512
_PAGE_READINGS = 50_000
_PAGE_MESSAGES = 1_000

_MESSAGES = (
    "SELECT m.id, m.device, m.epoch, m.stream, m.seq, m.kind, m.t0, m.t1, m.received, m.body,"  # noqa: S608
    f" m.problem, {SHOWN} FROM messages AS m WHERE m.id > ? ORDER BY m.id"
)
_BRIDGES = (
    "SELECT name, (SELECT count(*) FROM messages WHERE id <= b.message), moved_ms, until_ms, sent,"
    " dropped FROM bridges AS b ORDER BY name"
)


class Copied(NamedTuple):
    """What a copy did.

    Attributes:
        copied: rows and readings that this call wrote.
        resumed: an earlier call had begun it.
        seconds: of writing.
        verified: what was compared; None: an earlier call had done all of it.
    """

    copied: int = 0
    resumed: bool = True
    seconds: float = 0.0
    verified: Verified | None = None


def copy_store(
    source: StorePlace, target: StorePlace, advance: Advance = lambda share, note: None,
    actor: str = PROGRAM,
) -> Copied:  # fmt: skip
    """Copy ``source`` into ``target``, which is empty, or an interrupted copy of the same source.

    Args:
        advance: function (share done, text). actor: for the audit log of the copy.

    Raises:
        ConfigError: not one of them is SQLite and the other PostgreSQL; psycopg is missing.
        StoreError: no store there, one that is served, a target with a fleet, a source that
            changed, or a difference that the verification found.
        StoreUnavailable: one of them cannot be read or written; call again to go on.
    """
    if isinstance(source, Path) and isinstance(target, PostgresPlace):
        if not source.is_file():
            raise StoreError(f"no store at {source}: name the file of the store")
        from fleetnet_server.store.postgres.copy_target import PgTarget

        with closing(PgTarget(target)) as into, closing(open_source(source)) as file:
            return _copy(file, into, _to_postgres(file, into), advance, (source, target, actor))
    if isinstance(source, PostgresPlace) and isinstance(target, Path):
        from fleetnet_server.store.postgres.copy_side import PgSide

        with closing(PgSide(source)) as side, closing(open_target(target)) as made:
            side.freeze()
            return _copy(side, made, _to_sqlite(side, made), advance, (source, target, actor))
    raise ConfigError(
        "a copy goes from a file to postgresql://..., or back; for two files: `fleetnet store "
        "backup` and `restore`, for two databases: pg_dump and pg_restore"
    )


def _copy(
    source: Store, target: Target, steps: Sequence[Step], advance: Advance,
    about: tuple[StorePlace, StorePlace, str],
) -> Copied:  # fmt: skip
    fingerprint = source.fingerprint()
    states = target.begin(fingerprint)
    if states[WHOLE].place != [fingerprint]:
        raise StoreError(
            "the target has a copy of another source, or the source has changed since it was "
            "begun: copy into a new database, or a file that is not there yet"
        )
    if states[WHOLE].done:
        return Copied()
    began = time.monotonic()
    is_resumed = len(states) > 1
    totals = {step.name: step.total() for step in steps}
    bar = _Bar(advance, sum(totals.values()), sum(state.n for state in states.values()))
    for step in steps:
        _run(step, target, states.get(step.name, State()), bar)
    seconds = time.monotonic() - began
    verified = verify(source, target, advance)
    of, to, actor = about
    detail = json.dumps({"from": str(of), "to": str(to), "readings": verified.readings})
    target.finish((time.time_ns() // 1_000_000, actor, "store-copied", detail))
    return Copied(bar.new, is_resumed, seconds, verified)


def _run(step: Step, target: Target, state: State, bar: "_Bar") -> None:
    """Write what is left of a step."""
    if state.done:
        return
    for page in step.pages(state.place):
        after = State(page.place, state.n + page.amount)
        target.write(step, page, state, after)
        state = after
        bar.move(step.name, page.amount)
    target.write(step._replace(write=lambda rows: None), Page([], (), 0), state,
                 State(state.place or [], state.n, True))  # fmt: skip


class _Bar:
    """What was written, as a share of all."""

    def __init__(self, advance: Advance, total: int, before: int):
        self._advance = advance
        self._total = max(1, total)
        self._before = before
        self._began = time.monotonic()
        self.new = 0

    def move(self, name: str, count: int) -> None:
        self.new += count
        rate = self.new / max(0.001, time.monotonic() - self._began)
        done = self._before + self.new
        self._advance(done / self._total, f"{name}: {done:,} of {self._total:,}, {rate:,.0f}/s")


def _once(name: str, rows: Callable[[], Sequence[Any]], write: Callable[[Any], None]) -> Step:
    """Make a step of one page."""

    def pages(after: Place | None) -> Iterator[Page]:
        if after is None:
            found = rows()
            yield Page([1], found, len(found))

    return Step(name, lambda: 0, pages, write)


# -- SQLite to PostgreSQL ------------------------------------------------------------------------


def _steps_of_both(
    source: "SqliteSide | PgSide", target: "SqliteTarget | PgTarget"
) -> Iterator[Step]:
    """Yield the steps that are the same whichever way it goes."""

    def table_writer(table: Any) -> Callable[[Sequence[Row]], None]:
        return lambda rows: target.write_rows(table, rows)

    def marks(after: Place | None) -> Iterator[Page]:
        found = (row for row in source.marks() if after is None or [*row[:2]] > after)
        for page in in_pages(found, PAGE_ROWS):
            yield Page([*page[-1][:2]], page, 0)

    for table in TABLES:
        yield table_step(table, source, table_writer(table))
    yield Step("streams", lambda: 0, marks, target.write_marks)


def _to_postgres(source: SqliteSide, target: "PgTarget") -> list[Step]:
    def chunks(after: Place | None) -> Iterator[Page]:
        for page in in_pages(source.chunks(after), _PAGE_CHUNKS):
            yield Page([*page[-1][: len(CHUNK_KEY)]], page, sum(row[7] for row in page))

    def count() -> int:
        return int(next(source.rows("SELECT coalesce(sum(n), 0) FROM chunks"))[0])

    return [
        *_steps_of_both(source, target),
        Step("readings", count, chunks, target.write_chunks),
        Step("messages", lambda: count_rows(source, "messages"), lambda after: _shown(
            source, after), target.write_messages),
        _once("bridges", lambda: list(source.rows(_BRIDGES)), target.write_bridges),
    ]  # fmt: skip


def _shown(source: SqliteSide, after: Place | None) -> Iterator[Page]:
    """Yield messages, each with whether its readings are to be taken from it."""
    for page in in_pages(source.rows(_MESSAGES, after or [0]), _PAGE_MESSAGES):
        rows = [
            (Message._make(row[1:11]),
             is_shown_readings(row[5], row[10], row[6], row[11]))
            for row in page
        ]  # fmt: skip
        yield Page([page[-1][0]], rows, len(rows))


# -- PostgreSQL to SQLite ------------------------------------------------------------------------


def _to_sqlite(source: "PgSide", target: SqliteTarget) -> list[Step]:
    def messages(after: Place | None) -> Iterator[Page]:
        number = 0 if after is None else after[2]
        for page in in_pages(source.messages_in_order(after), _PAGE_MESSAGES):
            rows = [(number + at, *row[2:]) for at, row in enumerate(page, 1)]
            number += len(rows)
            yield Page([page[-1][0], page[-1][1], number], rows, len(rows))

    def readings(after: Place | None) -> Iterator[Page]:
        for page in in_pages(source.readings(after), _PAGE_READINGS):
            yield Page([*page[-1][:6]], page, len(page))

    return [
        *_steps_of_both(source, target),
        Step("readings", source.count_readings, readings, target.write_readings),
        Step("messages", lambda: count_rows(source, "messages"), messages,
             target.write_messages),
        _once("bridges", lambda: list(source.bridges()), target.write_bridges),
        _once("end", lambda: [()], target.write_end),
    ]  # fmt: skip
