"""One process of `fleetnet sim`: many devices in one loop, each the real device library.

    python -m fleetnet_server.sim.worker SECONDS RATE BUNDLE [BUNDLE ...]

Prints a line of JSON a second with the sums over its devices; the last has "done": true.
Standard input at its end means: finish.
"""

import asyncio
import json
import sys
import time
from typing import Any

from fleetnet_device import Device


class Worker:
    """Runs the devices of one process and sums up what they say."""

    def __init__(self, bundles: list[str], seconds: int, rate: float):
        self._devices = [Device(bundle) for bundle in bundles]
        self._seconds = seconds
        self._period_s = 1 / rate
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run all devices for their time, then flush and say good-bye."""
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self._stopping.set)
        reporter = loop.create_task(self._report())
        try:
            await asyncio.gather(*(self._drive(i, d) for i, d in enumerate(self._devices)))
        finally:
            reporter.cancel()
            loop.remove_reader(sys.stdin.fileno())
        print(json.dumps(self._sums(done=True)), flush=True)

    async def _drive(self, index: int, device: Device) -> None:
        # Devices of a fleet do not tick together.
        await asyncio.sleep(self._period_s * index / len(self._devices))
        end = time.monotonic() + self._seconds
        async with device:
            count = 0
            while time.monotonic() < end and not self._stopping.is_set():
                await device.send("count", count)
                count += 1
                await asyncio.sleep(self._period_s)
            await device.flush(30_000)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1)
            print(json.dumps(self._sums()), flush=True)

    def _sums(self, done: bool = False) -> dict[str, Any]:
        devices = self._devices
        errors = sorted({type(d.last_error).__name__ for d in devices if d.last_error})
        return {
            "devices": len(devices),
            "online": sum(device.state == "online" for device in devices),
            "sent": sum(device.sent for device in devices),
            "acknowledged": sum(device.acknowledged for device in devices),
            "dropped": sum(device.dropped for device in devices),
            "connects": sum(device.connects for device in devices),
            "errors": errors,
            "done": done,
        }


async def main(arguments: list[str]) -> None:
    """Run with the command line's arguments."""
    await Worker(arguments[2:], int(arguments[0]), float(arguments[1])).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
