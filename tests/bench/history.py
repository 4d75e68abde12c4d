"""Queries of a long history (TARGETS P12): fill a store, then query it while it takes more.

    python tests/bench/history.py [READINGS=2000000] [--devices 1000] [--seconds 10]
                                  [--store FILE] [--rate 100000] [--json PATH]

1,000 devices of five channels send messages of 20 readings, four of each channel, a second
apart with some ms of jitter. The readings are committed as the server commits them; compaction
keeps up, so that the memory of this program does not depend on READINGS. Then 1,000 readings of
one channel are asked for, again and again: alone, beside ingest, beside ingest and compaction.
Queries and ingest are of one process here, as they are in the server.
A FILE that is there is used as it is, and grows. `make bench ARGS="--rows P12"` does all of it.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "server"), str(ROOT / "device_lib")]

from plain_history import plain_query_ms  # noqa: E402

from fleetnet_server.core.bodies import Message  # noqa: E402
from fleetnet_server.store.compaction import Compactor, Pace  # noqa: E402
from fleetnet_server.store.housekeeping import Budget, Housekeeping  # noqa: E402
from fleetnet_server.store.query import query  # noqa: E402
from fleetnet_server.store.sqlite import SqliteStore  # noqa: E402

CHANNELS = ("temp", "hum", "volt", "rssi", "lux")
PER_MESSAGE = 20
MESSAGE_MS = 4000
START = 1_790_000_000_000
BATCH = 2048
# The peer: plain_history.py.
_PLAIN_DEVICES = 100


class Source:
    """Messages of a fleet, device by device, round by round."""

    def __init__(self, store: SqliteStore, devices: int):
        self._draw = random.Random(5)
        self._devices = []
        for number in range(devices):
            name = f"dev-{number:05d}"
            device = store.lookup(name) or store.add_device(name)
            self._devices.append((device.id, store.epoch_id(device.id, b"epoch-01")))
        marks = [store.watermarks(device, b"epoch-01") for device, _ in self._devices]
        # A run ends within a round: what some devices sent of it comes again, and is known.
        self.round = min((mark.get(3, 0) for mark in marks), default=0)
        self._tails = [self._items() for _item in range(997)]

    def _items(self) -> str:
        items = []
        for at in range(4):
            for index in range(5):
                dt = at * 1000 + self._draw.randrange(12)
                items.append(f"[{index},{dt},{self._draw.uniform(10, 30):.2f}]")
        return ',0,["' + '","'.join(CHANNELS) + '"],[' + ",".join(items) + "]]"

    def clock_ms(self) -> int:
        """What a clock would say: compaction makes windows as large as in the real time."""
        return START + (self.round + 1) * MESSAGE_MS

    def messages(self) -> Iterator[Message]:
        """Yield messages for ever."""
        while True:
            self.round += 1
            base = START + self.round * MESSAGE_MS
            for number, (device, epoch) in enumerate(self._devices):
                tail = self._tails[(number * 31 + self.round) % 997]
                body = f"[{base}{tail}"
                yield Message(
                    device, epoch, 3, self.round, 16, base, base + 3011, base + 3100, body
                )


def take(messages: Iterator[Message]) -> list[Message]:
    return [next(messages) for _message in range(BATCH)]


def fill(
    store: SqliteStore, source: Source, messages: Iterator[Message], readings: int
) -> dict[str, float]:
    """Commit ``readings`` more, and compact what is due."""
    compactor = Compactor(store, Pace(), source.clock_ms)
    ingest = compact = 0.0
    begun = told = time.perf_counter()
    done = 0
    while done < readings:
        batch = take(messages)
        started = time.thread_time()
        store.commit(batch)
        middle = time.thread_time()
        while compactor.step():
            pass
        ingest += middle - started
        compact += time.thread_time() - middle
        done += len(batch) * PER_MESSAGE
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            size = store.path.stat().st_size
            took = told - begun
            print(f"  {done:>12,} readings, {size / 1e6:,.0f} MB, {took:,.0f} s", flush=True)
    compactor.close()
    if not done:
        return {}
    return {
        "readings": done,
        "fill_s": time.perf_counter() - begun,
        "ingest_per_core_s": done / ingest,
        "compact_per_core_s": compactor.readings / compact if compactor.readings else 0.0,
        "longest_share_of_commit_lock": compactor.commit_seconds / max(compactor.seconds, 1e-9),
    }


def queries(store: SqliteStore, devices: int, rounds: int, seconds: float) -> list[float]:
    """Ask for 1,000 readings of one channel by time; return the time of each answer in ms."""
    draw = random.Random(11)
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        device = f"dev-{draw.randrange(devices):05d}"
        start = START + draw.randrange(1, max(2, rounds - 260)) * MESSAGE_MS
        begun = time.perf_counter()
        found = list(
            query(store.path, device, draw.choice(CHANNELS), start, start + 250 * MESSAGE_MS - 1)
        )
        took.append((time.perf_counter() - begun) * 1000)
        if rounds > 600 and len(found) < 1000:
            raise AssertionError(f"{len(found)} readings of {device} from {start}, not 1,000")
    return sorted(took)


class Load(threading.Thread):
    """Commits at a rate until it is told to end; counts."""

    def __init__(self, store: SqliteStore, messages: Iterator[Message], rate: float):
        super().__init__(daemon=True)
        self._store, self._messages, self._rate = store, messages, rate
        self._end = threading.Event()
        self.readings = 0
        self.commits: list[float] = []

    def run(self) -> None:
        due = time.perf_counter()
        while not self._end.is_set():
            batch = take(self._messages)
            started = time.perf_counter()
            self._store.commit(batch)
            self.commits.append((time.perf_counter() - started) * 1000)
            self.readings += len(batch) * PER_MESSAGE
            due += len(batch) * PER_MESSAGE / self._rate
            self._end.wait(max(0.0, due - time.perf_counter()))

    def end(self) -> None:
        self._end.set()
        self.join()


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def beside(
    store: SqliteStore, source: Source, messages: Iterator[Message], options: argparse.Namespace,
    compacting: bool,
) -> dict[str, float]:  # fmt: skip
    """Query while readings are ingested, with or without compaction of what comes."""
    # Windows that fill in these seconds; chunks of them are a little smaller.
    pace = Pace(delay_ms=0, window_rows=25 * options.devices)
    works = (Compactor(store, pace, source.clock_ms),) if compacting else ()
    house = Housekeeping(works, Budget())
    load = Load(store, messages, options.rate)
    rounds = source.round
    house.start()
    load.start()
    begun, cpu = time.perf_counter(), time.process_time()
    took = queries(store, options.devices, rounds, options.seconds)
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    load.end()
    house.stop()
    commits = sorted(load.commits)
    return {
        "query_p50_ms": quantile(took, 0.5),
        "query_p99_ms": quantile(took, 0.99),
        "ingest_per_s": load.readings / wall,
        "commit_p50_ms": quantile(commits, 0.5),
        "commit_p99_ms": quantile(commits, 0.99),
        "compacted_per_s": sum(work.readings for work in works) / wall,
        "cores": cpu / wall,
    }


def measure(options: argparse.Namespace, path: Path) -> dict[str, float]:
    """Fill the store, query it three ways, count what is in it."""
    with SqliteStore(path) as store:
        source = Source(store, options.devices)
        messages = source.messages()
        figures = fill(store, source, messages, options.readings)
        alone = queries(store, options.devices, source.round, options.seconds)
        ingest = beside(store, source, messages, options, False)
        both = beside(store, source, messages, options, True)
        (chunks, kept, left) = next(
            store._connection().execute(
                "SELECT count(*), coalesce(sum(n), 0), (SELECT count(*) FROM messages) FROM chunks"
            )
        )
    devices = min(options.devices, _PLAIN_DEVICES)
    plain, plain_bytes = plain_query_ms(
        path.with_suffix(".plain"), devices, min(options.seconds, 2.0)
    )
    size = path.stat().st_size
    stored = kept + left * PER_MESSAGE
    return figures | {
        "stored_readings": stored,
        "chunks": chunks,
        "raw_messages": left,
        "file_mb": size / 1e6,
        "bytes_a_reading": size / max(1, stored),
        "plain_query_p50_ms": quantile(plain, 0.5),
        "plain_bytes_a_reading": plain_bytes,
        "alone_query_p50_ms": quantile(alone, 0.5),
        "alone_query_p99_ms": quantile(alone, 0.99),
        **{f"ingest_{name}": value for name, value in ingest.items()},
        **{f"compacting_{name}": value for name, value in both.items()},
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readings", nargs="?", type=int, default=2_000_000)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100_000.0, help="readings a second")
    parser.add_argument("--store", type=Path, help="kept; else a temporary file")
    parser.add_argument("--json", type=Path, metavar="PATH")
    return parser


def main() -> int:
    options = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fleetnet-history-") as folder:
        figures = measure(options, options.store or Path(folder) / "fleet.db")
    for name, value in figures.items():
        print(f"{name:32s} {value:>16,.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures | {"cpus": os.cpu_count()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
