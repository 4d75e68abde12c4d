"""A device with a sampler, health readings and a watchdog; run by MicroPython and CPython.

    living_main.py BUNDLE

Ends when a second's samples are taken and acknowledged. Prints one JSON line
at its end: {"taken", "missed", "fed", "errors"}.
"""

import asyncio
import json
import sys

from fleetnet_device import Device


class Wdt:
    """In place of machine.WDT, which this machine has not."""

    def feed(self):
        pass


async def main(bundle):
    device = Device(bundle, linger_ms=200)
    async with device:
        count = [0]

        @device.every(50)
        def sample():
            count[0] += 1
            if count[0] == 10:
                raise ValueError("a sensor that fails once")
            return {"count": count[0]}

        device.part("health").start(500)
        watchdog = device.part("watchdog")
        watchdog.start(30_000, Wdt())
        while sample.taken < 20 or watchdog.fed <= 2:
            await asyncio.sleep(0.05)
        await device.flush(20_000)
    line = {"taken": sample.taken, "missed": sample.missed, "fed": watchdog.fed}
    line["errors"] = device.errors
    print(json.dumps(line))


asyncio.run(main(sys.argv[1]))
