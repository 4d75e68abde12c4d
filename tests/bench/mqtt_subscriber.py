"""The back-end half of the peer: aiomqtt to SQLite, as one would write it, and batched.

    python mqtt_subscriber.py PORT FILE rows|bodies

rows: one row a reading. bodies: one row a message, its body as it came. The same commit
interval, largest batch, thread and SQLite settings as fleetnet's store, and the same rows
a step; the acknowledgement to the publisher has left the broker long before. Each line on
standard input is answered with {"stored": messages, "rows": rows}.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

import aiomqtt
import apsw
import msgspec

_INTERVAL_S = 0.020
_MOST = 2048
_ROWS_A_STEP = (512, 64, 8, 1)
_SCHEMA = {
    "rows": """CREATE TABLE readings(id INTEGER PRIMARY KEY, device INTEGER NOT NULL,
        channel TEXT NOT NULL, time INTEGER NOT NULL, received INTEGER NOT NULL, value NOT NULL);
        CREATE INDEX readings_time ON readings(device, time)""",
    "bodies": """CREATE TABLE readings(id INTEGER PRIMARY KEY, device INTEGER NOT NULL,
        received INTEGER NOT NULL, body NOT NULL);
        CREATE INDEX readings_received ON readings(device, received)""",
}
_COLUMNS = {"rows": "device, channel, time, received, value", "bodies": "device, received, body"}

_Item = tuple[int, int, msgspec.Raw]
_decode = msgspec.json.Decoder(tuple[int, int, list[str], list[_Item]]).decode


class Table:
    """The SQLite file."""

    def __init__(self, path: str, style: str):
        self.rows = 0
        self.messages = 0
        self._style = style
        self._devices: dict[str, int] = {}
        self._width = _COLUMNS[style].count(",") + 1
        place = "(" + ",".join("?" * self._width) + ")"
        self._inserts = {
            count: f"INSERT INTO readings({_COLUMNS[style]}) VALUES" + ",".join([place] * count)
            for count in _ROWS_A_STEP
        }
        self._connection = apsw.Connection(path)
        self._connection.execute(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
            "PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 2000; " + _SCHEMA[style]
        ).fetchall()

    def commit(self, batch: list[tuple[str, bytes]]) -> None:
        """Store a batch of (topic, payload) in one transaction."""
        rows = list(self._rows(batch))
        self._connection.execute("BEGIN IMMEDIATE")
        at = 0
        for count in _ROWS_A_STEP:
            while len(rows) - at >= count:
                values = tuple(chain.from_iterable(rows[at : at + count]))
                self._connection.execute(self._inserts[count], values)
                at += count
        self._connection.execute("COMMIT")
        self.rows += len(rows)
        self.messages += len(batch)

    def _rows(self, batch: list[tuple[str, bytes]]) -> Iterable[tuple[Any, ...]]:
        received = int(time.time() * 1000)
        for topic, payload in batch:
            device = self._devices.setdefault(topic, len(self._devices) + 1)
            base, _, channels, items = _decode(payload)
            if self._style == "bodies":
                yield device, received, payload.decode()
                continue
            for index, delta, value in items:
                yield device, channels[index], base + delta, received, bytes(value).decode()


class Subscriber:
    """Takes messages on the loop, commits them on a thread."""

    def __init__(self, table: Table):
        self._table = table
        self._waiting: list[tuple[str, bytes]] = []
        self._arrived = asyncio.Event()

    async def receive(self, number: int) -> None:
        """Subscribe, say so, and collect."""
        async with aiomqtt.Client("127.0.0.1", number, identifier="subscriber") as client:
            await client.subscribe("devices/#", qos=1)
            print(json.dumps({"subscribed": True}), flush=True)
            async for message in client.messages:
                payload = message.payload
                assert isinstance(payload, bytes)
                self._waiting.append((message.topic.value, payload))
                self._arrived.set()

    async def store(self) -> None:
        """Commit what waits, at most every interval."""
        while True:
            await self._arrived.wait()
            began = time.monotonic()
            batch = self._waiting[:_MOST]
            del self._waiting[:_MOST]
            await asyncio.to_thread(self._table.commit, batch)
            if not self._waiting:
                self._arrived.clear()
            if len(self._waiting) < _MOST:
                await asyncio.sleep(max(0.0, began + _INTERVAL_S - time.monotonic()))

    def answer(self) -> None:
        """Say how much is stored."""
        sys.stdin.readline()
        print(json.dumps({"stored": self._table.messages, "rows": self._table.rows}), flush=True)


async def main(arguments: list[str]) -> None:
    number, path, style = arguments
    subscriber = Subscriber(Table(path, style))
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), subscriber.answer)
    async with asyncio.TaskGroup() as group:
        group.create_task(subscriber.receive(int(number)))
        group.create_task(subscriber.store())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
