"""P12's peer: the table that one would make, a row a reading, with an index by series and time.

In its favour it holds a million readings at most, nothing is written meanwhile, the index was
made behind the rows, and the file is in the page cache.
"""

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_CHANNELS = 5
_READINGS = 2000  # of one channel
_ASKED = 1000

_SCHEMA = """
PRAGMA page_size = 8192;
PRAGMA journal_mode = WAL;
PRAGMA cache_size = -65536;
CREATE TABLE readings(device INTEGER NOT NULL, channel TEXT NOT NULL, time INTEGER NOT NULL,
    value REAL NOT NULL);
"""
_INDEX = "CREATE INDEX readings_of ON readings(device, channel, time)"
_QUERY = """SELECT time, value FROM readings
    WHERE device = ? AND channel = ? AND time >= ? AND time < ? ORDER BY time"""


def _rows(devices: int) -> Iterator[tuple[int, str, int, float]]:
    """Yield them as they come: a message of each device after the other."""
    draw = random.Random(7)
    for at in range(_READINGS):
        for device in range(devices):
            for channel in range(_CHANNELS):
                yield device, f"channel-{channel}", 1000 * at, draw.uniform(10, 30)


def plain_query_ms(path: Path, devices: int, seconds: float) -> tuple[list[float], float]:
    """Make the table, and ask for 1,000 readings of one channel for so long.

    Returns:
        The times in ms, sorted, and the bytes of the file for each reading. The file is removed.
    """
    took = []
    draw = random.Random(11)
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(_SCHEMA)
            connection.executemany("INSERT INTO readings VALUES(?, ?, ?, ?)", _rows(devices))
            connection.execute(_INDEX)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            size = path.stat().st_size / (devices * _CHANNELS * _READINGS)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = 1000 * draw.randrange(_READINGS - _ASKED)
                series = draw.randrange(devices), f"channel-{draw.randrange(_CHANNELS)}"
                begun = time.perf_counter()
                found = connection.execute(
                    _QUERY, (*series, start, start + 1000 * _ASKED)
                ).fetchall()
                took.append((time.perf_counter() - begun) * 1000)
                assert len(found) == _ASKED
    finally:
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            name.unlink(missing_ok=True)
    return sorted(took), size
