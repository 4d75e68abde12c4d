"""`fleetnet serve` that says at SIGUSR1 where Python's memory went since the last SIGUSR1.

Lines go to standard error: bytes, blocks and the place that allocated them, the largest first.
"""

import gc
import signal
import sys
import tracemalloc
from types import FrameType

from soak_server import serve

_LINES = 12
_FRAMES = 3
last: list[tracemalloc.Snapshot] = []


def tell(number: int, frame: FrameType | None) -> None:
    gc.collect()
    found = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, tracemalloc.__file__)]
    )
    if last:
        for line in found.compare_to(last[0], "traceback")[:_LINES]:
            places = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(line.traceback))
            print(f"{line.size_diff:+} B {line.count_diff:+} {places}", file=sys.stderr)
    last[:] = [found]


if __name__ == "__main__":
    tracemalloc.start(_FRAMES)
    signal.signal(signal.SIGUSR1, tell)
    serve()
