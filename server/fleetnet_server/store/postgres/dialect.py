"""The tables' SQL on PostgreSQL: a Connection of store/ports.py over one of psycopg's."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg.adapt import Loader
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumper

from fleetnet_server.store.ports import Value

if TYPE_CHECKING:
    import psycopg

# Texts of SQL in this program are constants: some hundred.
_KEPT_TEXTS = 1024

# What a `?` may not be in: literals, quoted names, comments. A `%` is psycopg's wherever it is.
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\?\d*|%", re.DOTALL)


@lru_cache(_KEPT_TEXTS)
def translate(sql: str) -> tuple[str, tuple[int, ...] | None]:
    """Return psycopg's text, and which value each of its `%s` takes; None: one after another.

    `?` is the value behind the highest one before it, `?3` the third (sqlite.org/lang_expr.html).
    A value that is used twice goes there once: psycopg gives `%(v3)s` one number.
    """
    highest = 0
    numbers: list[int] = []

    def replace(match: re.Match[str]) -> str:
        nonlocal highest
        token = match.group()
        if token[0] != "?":
            return token.replace("%", "%%")
        number = int(token[1:]) if len(token) > 1 else highest + 1
        highest = max(highest, number)
        numbers.append(number)
        return f"%(v{number})s"

    text = _TOKEN.sub(replace, sql)
    if numbers == list(range(1, len(numbers) + 1)):
        return re.sub(r"%\(v\d+\)s", "%s", text), None
    return text, tuple(range(1, highest + 1))


class PgRows:
    """What a statement answered; see store/ports.py."""

    def __init__(self, cursor: "psycopg.Cursor[tuple[Any, ...]]"):
        self._cursor = cursor

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._cursor) if self._has_rows else iter(())

    def __next__(self) -> tuple[Any, ...]:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        return self._cursor.fetchall() if self._has_rows else []

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, None behind the last."""
        return self._cursor.fetchone() if self._has_rows else None

    @property
    def get(self) -> Any:
        """The value of one row of one column, the row of more columns; None without a row."""
        row = self.fetchone()
        return row[0] if row is not None and len(row) == 1 else row

    @property
    def _has_rows(self) -> bool:
        return self._cursor.description is not None


class PgConnection:
    """A Connection for the tables. psycopg's errors come as they are: see connect.explained.

    Args:
        raw: from connect.connect; who made it begins and ends transactions.
    """

    def __init__(self, raw: "psycopg.Connection[tuple[Any, ...]]"):
        self.raw = raw
        self._changed = 0

    def execute(self, sql: str, values: Sequence[Value] = (), /) -> PgRows:
        """Run one statement."""
        text, numbers = translate(sql)
        cursor = self.raw.execute(text, _named(values, numbers))
        self._changed = max(0, cursor.rowcount)
        return PgRows(cursor)

    def executemany(self, sql: str, rows: Iterable[Sequence[Value]], /) -> None:
        """Run one statement for each row of values, without a round trip for each."""
        text, numbers = translate(sql)
        cursor = self.raw.cursor()
        cursor.executemany(text, [_named(row, numbers) for row in rows])
        self._changed = max(0, cursor.rowcount)

    def changes(self) -> int:
        """Return how many rows the last INSERT, UPDATE or DELETE changed."""
        return self._changed


def _named(values: Sequence[Value], numbers: tuple[int, ...] | None) -> Any:
    """Put values where translate() has them."""
    if any(type(value) is str and "\0" in value for value in values):
        values = [_without_zero(value) for value in values]
    if numbers is None:
        return values
    return {f"v{number}": values[number - 1] for number in numbers}


def _without_zero(value: Value) -> Value:
    """PostgreSQL has no text with U+0000, and a device may say it: U+2400 stands for it."""
    return value.replace("\0", "\u2400") if isinstance(value, str) else value


class _NumberLoader(Loader):
    """NUMERIC, which is what PostgreSQL's sum of integers is: an int, as SQLite's is."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)


class _YesNoDumper(Int8Dumper):
    """There are no booleans in the tables."""

    def dump(self, obj: Any) -> bytes:
        return b"1" if obj else b"0"


def register_types(connection: "psycopg.Connection[Any]") -> None:
    """Give a connection the types of the tables: each int is a bigint, each str a text.

    A type that depends on the value would make another prepared statement for each size of it.
    """
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_dumper(bool, _YesNoDumper)
    connection.adapters.register_dumper(str, StrDumper)
    connection.adapters.register_loader("numeric", _NumberLoader)
