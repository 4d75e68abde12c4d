"""A store beside a plain list of what was put into it."""

import json
from pathlib import Path
from typing import Any

from fleetnet.frame import EVENT, READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.store.compaction import Compactor, Pace
from fleetnet_server.store.query import Reading, query
from fleetnet_server.store.retention import as_number
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.selection import Selection, select
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.summaries import summarize_all

NOW = 1_800_000_000_000
SMALL = Pace(delay_ms=0, wait_ms=0, window_rows=9, device_rows=7, step_rows=4)

Item = tuple[int, int, Any]  # index of the channel, dt_ms, value as JSON


class PlainStore:
    """Two devices; what is sent is remembered, and every answer is compared with that.
    """

    def __init__(self, path: Path, pace: Pace = SMALL):
        self.store = SqliteStore(path)
        self.pace = pace
        for name in ("cam-1", "cam-2"):
            if self.store.lookup(name) is None:
                self.store.add_device(name)
        self.compactor = Compactor(self.store, pace, lambda: NOW + 1)
        self.sent: list[Message] = []
        self.rows: list[tuple[Message, int, list[Item]]] = []  # message, base or boot, items
        self.offsets: dict[tuple[int, int], int] = {}
        self.keys: set[tuple[int, bytes, int, int]] = set()

    def close(self) -> None:
        self.compactor.close()
        self.store.close()

    def put(
        self, device: int, seq: int, items: list[Item], *, base: int = NOW, boot: int = 0,
        stream: int = 3, epoch: bytes = b"epoch-01", kind: int = READINGS,
    ) -> bool:  # fmt: skip
        """Commit one message; say whether it was new."""
        values = ",".join(f"[{index},{dt},{value}]" for index, dt, value in items)
        body = f'[{base},{boot},["t","h"],[{values}]]'
        if kind == EVENT:
            body = f'[{base},{boot},"door",1]'
        found = inspect_body(
            kind, body.encode(), lambda number: self.store.boot_offset(device, number), NOW
        )
        t0, t1, problem, kept = found
        number = self.store.epoch_id(device, epoch + bytes([device]))
        message = Message(device, number, stream, seq, kind, t0, t1, NOW, kept, problem)
        is_new = list(self.store.commit([message])) == [0]
        key = (device, epoch, stream, seq)
        assert is_new == (key not in self.keys), f"{key} was taken twice, or not at all"
        self.keys.add(key)
        if is_new:
            self.sent.append(message)
            if kind == READINGS:
                self.rows.append((message, base, items))
        return is_new

    def date(self, device: int, boot: int, offset: int) -> None:
        """Tell when a boot began."""
        self.store.set_boot(device, boot, offset)
        self.store.commit([])
        self.offsets.setdefault((device, boot), offset)

    def compact(self, steps: int = 10_000) -> int:
        """Do some steps; return how many did anything."""
        for done in range(steps):
            self.compactor._held_due = 0.0
            if not self.compactor.step():
                return done
        return steps

    def fail(self, is_committed: bool) -> None:
        """Do one step whose transaction fails, or is not heard of."""
        transact = self.store.transact

        def failing(work):  # type: ignore[no-untyped-def]
            def broken(connection):  # type: ignore[no-untyped-def]
                work(connection)
                raise InterruptedError

            transact(work if is_committed else broken)
            raise InterruptedError

        self.store.transact = failing  # type: ignore[method-assign]
        try:
            self.compactor.step()
        except InterruptedError:
            pass
        finally:
            self.store.transact = transact  # type: ignore[method-assign]

    def expected(self) -> list[tuple[int | None, str, str, Any, int]]:
        """Return (unix ms, device, channel, value, seq) of each reading, as a query sorts them."""
        rows = []
        for message, base, items in self.rows:
            boot = json.loads(message.body)[1]
            offset = self.offsets.get((message.device_id, boot)) if boot else 0
            for place, (index, dt, value) in enumerate(items):
                at = None if offset is None else base + dt + offset
                key = (message.epoch_id, message.stream, message.seq, place)
                rows.append((at is None, at or 0, message.device_id, key, at, "th"[index], value))
        rows.sort(key=lambda row: (row[0], row[1], row[3]))
        return [
            (at, f"cam-{device}", channel, json.loads(str(value)), key[2])
            for _undated, _time, device, key, at, channel, value in rows
        ]

    def check(self) -> None:
        """Compare every answer with the plain list."""
        expected = self.expected()
        found = [flat(one) for one in query(self.store.path)]
        dated = [row for row in expected if row[0] is not None]
        assert found[: len(dated)] == dated
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
        times = sorted(row[0] for row in dated if row[0] is not None)
        for start, end in bounds(times):
            part = [flat(one) for one in query(self.store.path, "cam-1", "h", start, end)]
            assert part == [
                row
                for row in dated
                if row[1:3] == ("cam-1", "h") and row[0] is not None and start <= row[0] <= end
            ]
        some = Selection(("cam-[2-9]",), ("h*",))
        assert sorted(repr(flat(one)) for one in select(self.store.path, some)) == sorted(
            repr(row) for row in expected if row[1:3] == ("cam-2", "h")
        )
        self.check_sums(dated)
        assert self.view() == sorted((row[0] or -1, row[1], row[2], row[4]) for row in expected)

    def check_sums(self, dated: list[tuple[Any, ...]]) -> None:
        """Compare numbers by the hour with those of the plain list."""
        sums: dict[tuple[int, str, str], list[float]] = {}
        for at, device, channel, value, _seq in dated:
            number = as_number(value)
            if number is not None:
                sums.setdefault((at - at % 3_600_000, device, channel), []).append(number)
        assert [
            (*one[:4], one.low, one.high, round(one.mean, 6))
            for one in summarize_all(self.store.path, Selection(), 3_600_000)
        ] == [
            (*key, len(all_), min(all_), max(all_), round(sum(all_) / len(all_), 6))
            for key, all_ in sorted(sums.items())
        ]

    def view(self) -> list[tuple[int, str, str, int]]:
        """Read the view `readings`, as whoever opens the file would."""
        connection = open_readable(self.store.path)
        try:
            rows = connection.execute(
                "SELECT coalesce(unix_ms, -1), device, channel, seq FROM readings"
            ).fetchall()
        finally:
            connection.close()
        return sorted(rows)


def flat(one: Reading) -> tuple[int | None, str, str, Any, int]:
    return one.unix_ms, one.device, one.channel, one.value, one.seq


def bounds(times: list[int]) -> list[tuple[int, int]]:
    if not times:
        return []
    middle = times[len(times) // 2]
    return [(times[0], times[-1]), (middle, middle), (middle + 1, times[-1] + 5)]
