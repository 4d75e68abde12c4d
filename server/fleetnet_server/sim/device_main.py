"""A device program: readings at a rate, and a line of JSON a second about how it goes.

Run by MicroPython and by CPython, by `fleetnet demo` and by the tests:

    micropython device_main.py BUNDLE SECONDS RATE [OPTIONS]

OPTIONS: the arguments of Device as JSON, such as {"spool": "/spool"}.

Prints {"device", "state", "sent", "acknowledged", "dropped", "recovered",
"connects", "link", "error"}; the
last line has "done": true. Ends early, and cleanly, when its standard input is closed.
"""

import asyncio
import json
import math
import select
import sys

from fleetnet_device import Device


def report(device: Device, done: bool = False) -> None:
    line = {
        "device": device.name,
        "state": device.state,
        "sent": device.sent,
        "acknowledged": device.acknowledged,
        "dropped": device.dropped,
        "recovered": device.recovered,
        "connects": device.connects,
        "link": device.link,
        "error": str(device.last_error or ""),
        "done": done,
    }
    print(json.dumps(line))


def is_told_to_stop(poller: "select.poll") -> bool:
    """Standard input at its end: whoever started this program wants it to finish."""
    for _ in poller.poll(0):
        return not sys.stdin.read(1)
    return False


async def main(bundle: str, seconds: int, rate: int, options: str) -> None:
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    device = Device(bundle, **json.loads(options))
    async with device:
        count = 0
        for _ in range(seconds):
            for _ in range(rate):
                await device.send("temperature", round(20 + 5 * math.sin(count / 50), 3))
                await device.send("count", count)
                count += 1
                await asyncio.sleep(1 / rate)
            report(device)
            if is_told_to_stop(poller):
                break
        await device.flush(20_000)
    report(device, True)


if __name__ == "__main__":
    rest = sys.argv[4] if len(sys.argv) > 4 else "{}"
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), rest))
