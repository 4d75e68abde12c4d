"""What a copy of a store is made of: steps, each a table or what one becomes in the other layout.

A step reads pages behind a place. Each page is written in one transaction of the target together
with its place (table ``copying``): whatever ends the program, the next one goes on behind the last
page, and nothing is there twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

# Values of a key, as JSON has them.
Place = list[Any]
Row = tuple[Any, ...]
Advance = Callable[[float, str], None]

# Rows of one transaction: 10 ms of work, so that the commit of it costs little.
PAGE_ROWS = 5_000

# In both stores. `step` '' says of which source it is, and whether all is there and verified.
COPYING = (
    "CREATE TABLE IF NOT EXISTS copying(step TEXT PRIMARY KEY, place TEXT NOT NULL,"
    " n BIGINT NOT NULL, done BIGINT NOT NULL)"
)
WHOLE = ""
AUDIT_COLUMNS = "at_ms, actor, action, detail"

# Digests are added up as 64 bits: two that differ have the same by no chance worth a word.
_MASK = (1 << 64) - 1


class Table(NamedTuple):
    """A table that both layouts have; ``number`` is the column that the next row counts on."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    number: str = ""

    @property
    def select(self) -> str:
        """SQL for all rows."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608


def _table(name: str, key: str, columns: str, number: str = "") -> Table:
    keys = tuple(key.split())
    return Table(name, keys, (*keys, *columns.split()), number)


# In this order no row refers to a later one.
TABLES = (
    _table("devices", "id", "name state created_ms grp labels", "id"),
    _table("certificates", "serial",
           "device issued_ms not_after_ms revoked_ms reason key_made generation"),
    _table("epochs", "id", "device epoch", "id"),
    _table("boots", "device boot", "offset_ms"),
    _table("gaps", "epoch stream first", "device last noted_ms"),
    _table("identities", "device number",
           "serial marks pins state reason tries offered_ms ended_ms"),
    _table("renewals", "device", "asked_ms"),
    _table("psks", "identity", "device key created_ms used_ms enrol"),
    _table("claims", "device", "token created_ms expires_ms public_key closed_ms"),
    _table("tokens", "name", "token scopes created_ms expires_ms used_ms"),
    _table("hubs", "device hub", "assigned_ms came_ms"),
    _table("carried", "epoch stream", "last"),
    _table("commands", "number", "id device name args state created_ms expires_ms sent_boot"
           " ended_ms result issuer", "number"),
    _table("configs", "device",
           "edit version document set_ms state_version state reported state_ms"),
    _table("blobs", "id",
           "device number name content_format size sha256 t_ms received_ms path", "id"),
    _table("restores", "at_ms", "backup_ms config_base"),
    _table("audit", "id", "at_ms actor action device detail", "id"),
    _table("series", "id", "device channel", "id"),
    _table("rollups", "series step t", "n other low high total"),
)  # fmt: skip


class Page(NamedTuple):
    """What one transaction writes.

    Attributes:
        place: behind it the next page begins. rows: what the step's ``write`` takes.
        amount: rows or readings, for the bar.
    """

    place: Place
    rows: Any
    amount: int


class Step(NamedTuple):
    """One table.

    Attributes:
        total: rows or readings that it has in the source.
        pages: behind a place; None: from the begin.
        write: into the target, inside its transaction.
    """

    name: str
    total: Callable[[], int]
    pages: Callable[[Place | None], Iterator[Page]]
    write: Callable[[Any], None]


class State(NamedTuple):
    """How far a step is."""

    place: Place | None = None
    n: int = 0
    done: bool = False

    @classmethod
    def read(cls, row: Sequence[Any]) -> "State":
        """Take (place as JSON, n, done) of the table ``copying``."""
        place = json.loads(row[0])
        return cls(place, int(row[1]), bool(row[2]))

    @property
    def text(self) -> str:
        """The place as JSON."""
        return json.dumps(self.place)


class SeriesSums(NamedTuple):
    """What the readings of one series add up to; the first five are exact.

    Attributes:
        n: readings. t, seq: sums of their times (unix ms) and of the numbers of their messages.
        numbers: how many are numbers. total: their sum, size: the sum of their sizes, both of
            those that are finite when they are added up.
    """

    n: int = 0
    t: int = 0
    seq: int = 0
    place: int = 0
    numbers: int = 0
    total: float = 0.0
    size: float = 0.0

    def is_same(self, other: "SeriesSums") -> bool:
        """Compare; sums of floats depend on their order, by less than this."""
        near = abs(self.total - other.total) <= 1e-9 * max(self.size, other.size)
        return self[:5] == other[:5] and near


# A number above is left out of the sums: some of them would be more than a double holds.
SUMMED_BELOW = 1e290

# (device, channel) -> sums
AllSums = dict[tuple[str, str], SeriesSums]


class Mark(NamedTuple):
    """What a stream has: its watermark, when the newest message came, and what is missing."""

    last: int
    received: int
    holes: tuple[tuple[int, int], ...] = ()


class Store(Protocol):
    """One side of a copy."""

    def fingerprint(self) -> str:
        """Return what is another text when somebody has written into the store."""
        ...

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """Yield rows as they come; `?` for values."""
        ...

    def messages(self) -> Iterator[Row]:
        """Yield (epoch, stream, seq, device, kind, t0, t1, received, body as bytes, problem)."""
        ...

    def marks(self) -> Iterator[tuple[int, int, Mark]]:
        """Yield (epoch, stream, its mark)."""
        ...

    def sums(self, progress: Callable[[int], None]) -> AllSums:
        """Add up every series; ``progress`` is told how many readings were."""
        ...

    def freeze(self) -> None:
        """Read, from now on, what is there now."""
        ...

    def thaw(self) -> None:
        """End what ``freeze`` began."""
        ...


class Target(Store, Protocol):
    """The side that is written; one transaction at a time."""

    def begin(self, fingerprint: str) -> dict[str, State]:
        """Prepare for a copy of that source; return how far an earlier one came.

        Raises:
            StoreError: it holds a fleet of its own, or a copy of another source.
        """
        ...

    def write(self, step: Step, page: Page, before: State, after: State) -> None:
        """Write a page and its place. Raises StoreUnavailable: neither."""
        ...

    def finish(self, audit: Row) -> None:
        """Note that all is there and verified, and AUDIT_COLUMNS of a row of the audit log."""
        ...


def table_step(
    table: Table, source: Store, write: Callable[[Sequence[Row]], None], rows: int = PAGE_ROWS
) -> Step:
    """Copy a table that both layouts have."""
    at = [table.columns.index(name) for name in table.key]
    wanted = ", ".join("?" * len(table.key))
    order = f"ORDER BY {', '.join(table.key)}"

    def pages(after: Place | None) -> Iterator[Page]:
        where = f"WHERE ({', '.join(table.key)}) > ({wanted})" if after else ""
        found = source.rows(f"{table.select} {where} {order}", after or ())
        for page in in_pages(found, rows):
            yield Page([page[-1][index] for index in at], page, len(page))

    return Step(table.name, lambda: count_rows(source, table.name), pages, write)


def count_rows(store: Store, name: str) -> int:
    """Return how many rows a table has."""
    return int(next(store.rows(f"SELECT count(*) FROM {name}"))[0])  # noqa: S608


def in_pages(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Cut rows into lists."""
    page: list[Row] = []
    for row in rows:
        page.append(row)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def as_kept(text: str) -> str:
    """Return a text as both stores can keep it: PostgreSQL's has no NUL (postgres/expanding.py)."""
    return text.replace("\0", "\u2400")


def digest(rows: Iterable[Row]) -> tuple[int, int]:
    """Return how many rows there are, and what tells them from others, in whatever order."""
    count = total = 0
    encode = msgspec.msgpack.Encoder().encode
    for row in rows:
        count += 1
        kept = [as_kept(one) if isinstance(one, str) else one for one in row]
        found = hashlib.blake2b(encode(kept), digest_size=8).digest()
        total = total + int.from_bytes(found) & _MASK
    return count, total
