"""What the tables ask of a database: one text of SQL for SQLite and for PostgreSQL.

The tables keep to what both understand: `?` and `?1` for values, ON CONFLICT with its columns,
RETURNING, columns named where a conflict would make them ambiguous, and numbers for yes and no.
apsw.Connection is a Connection as it is; store/postgres/dialect.py makes one of psycopg's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fleetnet_server.identity.registry import Device
from fleetnet_server.store_place import StorePlace

if TYPE_CHECKING:
    from fleetnet_server.store.registry import DeviceTable

Value = None | int | float | str | bytes
Result = TypeVar("Result")


class Rows(Protocol):
    """What a statement answered, row by row."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, None behind the last."""
        ...

    @property
    def get(self) -> Any:
        """The value of one row of one column, the row of more columns; None without a row."""
        ...


class Connection(Protocol):
    """A connection inside a transaction of the caller's."""

    def execute(self, sql: str, values: Sequence[Value] = (), /) -> Rows:
        """Run one statement. Raises what the database's package raises."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Value]], /) -> Any:
        """Run one statement for each row of values."""
        ...

    def changes(self) -> int:
        """Return how many rows the last INSERT, UPDATE or DELETE changed."""
        ...


class Readable(Protocol):
    """A store that is only read."""

    def read(
        self, sql: str, values: tuple[int | str | bytes, ...] = (), /
    ) -> list[tuple[Any, ...]]:
        """Return rows as they are committed. Raises StoreUnavailable."""
        ...


class Database(Readable, Protocol):
    """A store whose tables are read and changed."""

    def transact(self, work: Callable[[Connection], Result], /) -> Result:
        """Run ``work`` in a transaction of its own, commit it, and return what it returned.

        Transactions follow one another: ``work`` may count what is there and add one.

        Raises:
            StoreUnavailable: nothing was stored. What ``work`` raises: neither.
        """
        ...

    def last_received(self, device_id: int, /) -> int | None:
        """Return when the newest message of a device's newest epoch came, unix ms."""
        ...


class Store(Database, Protocol):
    """A whole store, open for writing: what commands and tables need beyond a Database."""

    registry: "DeviceTable"

    @property
    def place(self) -> StorePlace:
        """Where it is."""
        ...

    def __enter__(self) -> "Store": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def lookup(self, name: str, /) -> Device | None:
        """Return the device of that name, None when it is not registered, or was removed."""
        ...

    def was_removed(self, name: str, /) -> bool:
        """Say whether somebody removed a device of that name."""
        ...

    def devices(self) -> list[Device]:
        """Return every device by name."""
        ...

    def add_device(self, name: str, actor: str = ..., /) -> Device:
        """Register a device, enabled, and commit. Raises as DeviceTable.add."""
        ...

    def set_enabled(self, name: str, enabled: bool, /) -> None:
        """Enable or disable a device, and commit. Raises StoreError when it is unknown."""
        ...

    def add_certificate(self, device_id: int, serial: int, not_after_ms: int, /) -> None:
        """Note a certificate that was issued to a device, and commit."""
        ...

    def defer_audit(self, row: tuple[int, str, str, str | None, str], /) -> bool:
        """Write a row of the audit log with the next commit; False: there is no room."""
        ...

    @property
    def audit_room(self) -> int:
        """How many rows ``defer_audit`` would take now."""
        ...

    def close(self) -> None:
        """Write what is deferred, and close it. Raises StoreUnavailable when it cannot."""
        ...
