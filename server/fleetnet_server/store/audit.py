"""The audit log: who decided what about which device, and when. It only ever grows.

    fleetnet audit --since 2h --follow

Rows that belong to a change of the store are written in the change's own transaction
(store/audit_rows.py). What the event loop has to tell waits in memory for the next commit
(``Audit``). The table's triggers refuse UPDATE and DELETE.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from fleetnet_server.store.fleet_store import MAX_AUDIT
from fleetnet_server.store.ports import Readable, Store

# The same again and again (a device that was disabled, a scanner) is one row in this time.
PERIOD_S = 60.0

# Different things under way in one period; one more is counted under its action alone.
MAX_REPEATED = 1024

# Of these one action may have so many: a flood of refusals must not hide what is rare.
MAX_OF_ONE = MAX_REPEATED // 4

_COLUMNS = "SELECT id, at_ms, actor, action, device, detail FROM audit"
# Read at once; more are read in pages.
_MAX_ROWS = 1000


class Entry(NamedTuple):
    """One row.

    Attributes:
        id: grows, and is never used twice. at_ms: unix ms.
        actor: "cli:USER", "server", "program", "device:NAME", or an address.
    """

    id: int
    at_ms: int
    actor: str
    action: str
    device: str | None
    detail: dict[str, Any]


class AuditTable:
    """The log of one store file, to be read. Raises StoreUnavailable throughout."""

    def __init__(self, store: Readable):
        self._store = store

    def newest(self) -> int:
        """Return the id of the newest row, 0 for an empty log."""
        return int(self._store.read("SELECT coalesce(max(id), 0) FROM audit")[0][0])

    def after(self, number: int) -> list[tuple[int, str, str | None]]:
        """Return (id, action, device) of at most 1,000 rows behind ``number``, oldest first."""
        return self._store.read(
            "SELECT id, action, device FROM audit WHERE id > ? ORDER BY id LIMIT ?",
            (number, _MAX_ROWS),
        )

    def entries(
        self,
        after: int = 0,
        device: str | None = None,
        action: str | None = None,
        since_ms: int | None = None,
        limit: int = _MAX_ROWS,
    ) -> list[Entry]:
        """Return rows, oldest first; with ``limit``, the newest of those that fit."""
        wanted = ["id > ?"]
        values: list[int | str] = [after]
        for column, value in (
            ("device = ?", device), ("action = ?", action), ("at_ms >= ?", since_ms),
        ):  # fmt: skip
            if value is not None:
                wanted.append(column)
                values.append(value)
        rows = self._store.read(
            f"{_COLUMNS} WHERE {' AND '.join(wanted)} ORDER BY id DESC LIMIT ?", (*values, limit)
        )
        return [
            Entry(number, at_ms, actor, action_, name, json.loads(detail))
            for number, at_ms, actor, action_, name, detail in reversed(rows)
        ]


class _Repeated:
    """What happened again since its row was written."""

    def __init__(self, actor: str, action: str, device: str | None, detail: dict[str, Any]):
        self.row = (actor, action, device, detail)
        self.count = 0
        self.until = 0.0


class Audit:
    """Writes rows from the event loop: nothing here waits for a disk.

    Looked after by a Lookout (core/lookout.py).

    Args:
        clock: seconds, monotonic.

    Attributes:
        lost: rows that found no room while the store could not be written; the log says so
            itself when it can.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic):
        self._store = store
        self._clock = clock
        self._repeated: dict[object, _Repeated] = {}
        self._of_action: Counter[str] = Counter()
        self.lost = 0
        self._told = 0

    def note(
        self, actor: str, action: str, device: str | None, detail: dict[str, Any] | None = None
    ) -> None:
        """Write a row with the next commit; ``detail`` is JSON."""
        row = (_now_ms(), actor, action, device, json.dumps(detail or {}))
        if not self._store.defer_audit(row):
            self.lost += 1

    def note_repeated(
        self, actor: str, action: str, device: str | None, detail: dict[str, Any]
    ) -> bool:
        """Write what may happen often: at once, then one row a minute with a count.

        What is equal in all arguments is the same. True: it is new, and worth a line in a log.
        """
        key: object = (actor, action, device, json.dumps(detail))
        known = self._repeated.get(key)
        is_full = len(self._repeated) >= MAX_REPEATED or self._of_action[action] >= MAX_OF_ONE
        if known is None and is_full:
            key, actor, device, detail = action, "server", None, {"more": True}
            known = self._repeated.get(key)
        if known is not None:
            known.count += 1
            return False
        known = self._repeated[key] = _Repeated(actor, action, device, detail)
        self._of_action[action] += 1
        known.until = self._clock() + PERIOD_S
        self.note(actor, action, device, detail)
        return True

    def look(self) -> None:
        """See Looking: write the counts whose time has come."""
        now = self._clock()
        # In order of their making, and so of their time.
        for key, one in list(self._repeated.items()):
            if one.until > now:
                break
            self._count(key, one)
            if one.count:
                one.count, one.until = 0, now + PERIOD_S
                self._repeated[key] = one
                self._of_action[one.row[1]] += 1
        if self.lost > self._told and self._store.audit_room >= MAX_AUDIT // 2:
            self.note("server", "audit-lost", None, {"rows": self.lost - self._told})
            self._told = self.lost

    async def stop(self) -> None:
        """See Looking: write every count; the next commit takes them along."""
        for key, one in list(self._repeated.items()):
            self._count(key, one)

    def _count(self, key: object, one: _Repeated) -> None:
        del self._repeated[key]
        self._of_action[one.row[1]] -= 1
        if one.count:
            actor, action, device, detail = one.row
            self.note(actor, action, device, {**detail, "count": one.count})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
