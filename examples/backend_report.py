"""What a fleet's devices measured in the last hour: least, mean and greatest of each channel.

    backend_report.py FOLDER

Works beside a running server, or without one: it only reads.
"""

import sys
import time
from pathlib import Path

from fleetnet_server.config import load_settings
from fleetnet_server.store.selection import Selection, select


def main(folder: str) -> None:
    path = load_settings(folder).store_path(Path(folder))
    since_ms = int(time.time() * 1000) - 3_600_000
    sums: dict[tuple[str, str], tuple[float, float, float, int]] = {}
    for reading in select(path, Selection(start_ms=since_ms)):
        if isinstance(reading.value, (int, float)):
            low, total, high, count = sums.get(
                (reading.device, reading.channel), (reading.value, 0, reading.value, 0)
            )
            value = reading.value
            sums[reading.device, reading.channel] = (
                min(low, value), total + value, max(high, value), count + 1,
            )
    for (device, channel), (low, total, high, count) in sorted(sums.items()):
        print(device, channel, low, total / count, high)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: backend_report.py FOLDER")
    main(sys.argv[1])
