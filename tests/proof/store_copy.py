"""Millions of readings from SQLite to PostgreSQL, and the program killed twice on the way.

    python tests/proof/store_copy.py [--readings 10000000] [--kills 2] [--back]

A store of a thousand devices with five channels, compacted as a server does it, the newest part of
it not; a real PostgreSQL of its own on this machine, with fsync; `fleetnet store copy` as a
process, which gets SIGKILL at moments that are spread over the copy, and goes on. With --back the
copy is copied into a file again.

Exit code 0: every reading is there once (counted by PostgreSQL, by key), every series adds up to
the same, a second run changes nothing, and devices go on: what comes again is a duplicate, what is
new is stored.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from fleetnet.frame import READINGS  # noqa: E402
from fleetnet_server.core.bodies import Message  # noqa: E402
from fleetnet_server.fleet_folder import create_fleet  # noqa: E402
from fleetnet_server.store.compaction import Compactor, Pace  # noqa: E402
from fleetnet_server.store.postgres.store import PostgresStore  # noqa: E402
from fleetnet_server.store.sqlite import SqliteStore  # noqa: E402
from fleetnet_server.store_place import PostgresPlace  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402
from server.store.postgres_server import OWNER, PostgresServer, find_programs  # noqa: E402

NOW = 1_790_553_600_000
DEVICES, CHANNELS, A_MESSAGE = 1000, 5, 20
_BATCH = 2048
_PATIENCE_S = 3600
# The last tenth is rows of messages still, as in a server that runs.
_COMPACTED = 0.9

_COUNTED = (
    "SELECT count(*), (SELECT count(*) FROM (SELECT 1 FROM readings"
    " GROUP BY series, epoch, stream, seq, place) AS q) FROM readings"
)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--readings", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--back", action="store_true")
    options = parser.parse_args()
    programs = find_programs()
    assert programs is not None, "postgresql is not installed"
    server = PostgresServer(programs)
    try:
        _make_durable(server)
        with tempfile.TemporaryDirectory(
            prefix="fleetnet-copy-", dir=os.environ.get("TMPDIR")
        ) as name:
            return prove(server, Path(name) / "fleet", options)
    finally:
        server.close()


def prove(server: PostgresServer, folder: Path, options: argparse.Namespace) -> int:
    create_fleet(folder, ("localhost",))
    began = time.monotonic()
    sent = fill(folder / "fleet.db", options.readings)
    size = (folder / "fleet.db").stat().st_size
    print(f"made: {sent} readings, {size / 2**20:.0f} MiB, {time.monotonic() - began:.0f} s")
    place = server.database(OWNER)
    server.settings(place, folder)
    began = time.monotonic()
    for number in range(1, options.kills + 1):
        done = kill_at(folder, place, int(_COMPACTED * sent * number / (options.kills + 1)))
        print(f"killed at {done} readings, {time.monotonic() - began:.1f} s")
    last = copy(folder, "fleet.db", place.url)
    seconds = time.monotonic() - began
    rate = sent / (seconds - last["verified"]["seconds"])
    print(f"copied: {seconds:.1f} s, {rate:.0f} readings/s, of these {last['verified']['seconds']}"
          f" s of comparing; database {_size(server, place) / 2**20:.0f} MiB")  # fmt: skip
    faults = _faults(server, place, sent)
    if copy(folder, "fleet.db", place.url)["copied"]:
        faults.append("a second run wrote something")
    if options.back:
        began = time.monotonic()
        back = copy(folder, place.url, "back.db")
        print(f"back into a file: {time.monotonic() - began:.1f} s, compared with"
              f" {back['verified']['readings']} readings")  # fmt: skip
    faults += _going_on(place)
    for fault in faults:
        print(f"FAULT: {fault}")
    seen = _spoilt(server, place)
    row = Row(
        "copy", f"`fleetnet store copy` into PostgreSQL killed {options.kills} times",
        "every reading once, a second run changes nothing, devices go on",
        "; ".join(faults) or f"{sent} readings, 0 lost, 0 twice, {rate:.0f} readings/s", not faults,
        f"the same look at a copy that lacks a reading and has another twice: {'; '.join(seen)}",
        len(seen) == 2,
    )  # fmt: skip
    return finish([row], options.json)


def _spoilt(server: PostgresServer, place: PostgresPlace) -> list[str]:
    """Known bad: a reading in the place of another."""
    with server.admin(place.database) as connection:
        # What devices sent in the end is no part of the copy.
        count = connection.execute(_COUNTED).fetchone()[0]
        connection.execute(
            "CREATE TABLE spoilt AS SELECT * FROM readings; "
            "DELETE FROM spoilt WHERE ctid = (SELECT min(ctid) FROM spoilt); "
            "INSERT INTO spoilt SELECT * FROM spoilt LIMIT 1"
        )
        found = connection.execute(_COUNTED.replace("FROM readings", "FROM spoilt")).fetchone()
        connection.execute("DROP TABLE spoilt")
    return _differences(count, *found)


def fill(path: Path, readings: int) -> int:
    """Write a store as a server does; return how many readings it has."""
    messages = -(-readings // A_MESSAGE)
    with SqliteStore(path) as store:
        store.transact(lambda db: db.executemany(
            "INSERT INTO devices(id, name, created_ms) VALUES(?, ?, ?)",
            [(number, f"cam-{number:04}", NOW) for number in range(1, DEVICES + 1)],
        ))  # fmt: skip
        epochs = [store.epoch_id(number, b"epoch-01") for number in range(1, DEVICES + 1)]
        pace = Pace(delay_ms=0, wait_ms=0)
        compactor = Compactor(store, pace, lambda: NOW + (1 << 50))
        compacted = int(messages * _COMPACTED)
        for at in range(0, messages, _BATCH):
            end = min(messages, at + _BATCH)
            store.commit([_message(epochs, number) for number in range(at, end)])
            if (at % (50 * _BATCH) == 0 and at < compacted) or at < compacted <= end:
                while compactor.step():
                    pass
        compactor.close()
    return messages * A_MESSAGE


def _message(epochs: list[int], number: int) -> Message:
    device, seq = number % DEVICES + 1, number // DEVICES + 1
    base = NOW - 20_000 * 1000 + seq * 20_000
    items = ",".join(
        f"[{place % CHANNELS},{place // CHANNELS * 5000},{(number * 7 + place * 13) % 1000 / 10}]"
        for place in range(A_MESSAGE)
    )
    body = f'[{base},0,["a","b","c","d","e"],[{items}]]'
    last = base + (A_MESSAGE - 1) // CHANNELS * 5000
    return Message(device, epochs[device - 1], 1, seq, READINGS, base, last, NOW, body)


def _start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fleetnet_server.cli.main", "-C", str(folder), "store", "copy",
         *words, "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(_PATH)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def copy(folder: Path, *words: str) -> dict[str, Any]:
    """Let a copy run to its end."""
    out, errors = (process := _start(folder, *words)).communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(out)
    return found


def kill_at(folder: Path, place: PostgresPlace, readings: int) -> int:
    """Begin, or go on, and kill it when so many rows and readings are there."""
    process = _start(folder, "fleet.db", place.url)
    with _reader(place) as connection:
        while process.poll() is None:
            done = _written(connection)
            if done >= readings:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
                return _written(connection)
            time.sleep(0.05)
    raise AssertionError(f"it ended before it was killed: {process.communicate()}")


def _reader(place: PostgresPlace) -> Any:
    from fleetnet_server.store.postgres.connect import connect

    return connect(place)


def _written(connection: Any) -> int:
    if connection.execute("SELECT to_regclass('copying') IS NULL").fetchone()[0]:
        return 0
    return int(connection.execute("SELECT coalesce(sum(n), 0) FROM copying").fetchone()[0])


def _faults(server: PostgresServer, place: PostgresPlace, sent: int) -> list[str]:
    with server.admin(place.database) as connection:
        connection.execute("SET work_mem = '256MB'")
        count, distinct = connection.execute(_COUNTED).fetchone()
    print(f"in PostgreSQL: {count} readings, {distinct} different ones")
    return _differences(sent, count, distinct)


def _differences(sent: int, count: int, distinct: int) -> list[str]:
    return [
        *([f"{sent - distinct} were lost"] if distinct != sent else []),
        *([f"{count - distinct} are there twice"] if count != distinct else []),
    ]


def _size(server: PostgresServer, place: PostgresPlace) -> int:
    with server.admin(place.database) as connection:
        return int(connection.execute("SELECT pg_database_size(current_database())").fetchone()[0])


def _going_on(place: PostgresPlace) -> list[str]:
    """What is sent again is a duplicate, the next message is not."""
    with PostgresStore(place) as store:
        epochs = [row[0] for row in store.read("SELECT id FROM epochs ORDER BY device")]
        ((last,),) = store.read(
            "SELECT last FROM streams WHERE epoch = ? AND stream = 1", (epochs[0],)
        )
        again = [_message(epochs, DEVICES * seq) for seq in (0, last // 2, last - 1)]
        found = list(store.commit(again))
        new = list(store.commit([_message(epochs, DEVICES * last)]))
    return [
        *([f"messages {found} of {len(again)} that came again were stored"] if found else []),
        *(["the next message was not stored"] if new != [0] else []),
    ]


def _make_durable(server: PostgresServer) -> None:
    """Give it the settings of a server that somebody relies on."""
    with server.admin() as connection:
        for line in ("fsync = on", "full_page_writes = on", "max_wal_size = '4GB'",
                     "autovacuum = on", "maintenance_work_mem = '256MB'"):  # fmt: skip
            connection.execute(f"ALTER SYSTEM SET {line}")
        connection.execute("ALTER SYSTEM SET shared_buffers = '512MB'")
    server.restart()


if __name__ == "__main__":
    sys.exit(main())
