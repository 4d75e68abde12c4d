"""A device program, run by real MicroPython, that measures the gaps of its own loop.

    micropython device_stalls.py BUNDLE SECONDS

Prints {"handshake_us", "other_us", "ticks", "acknowledged", "sent", "mem_alloc", "modules"}.
A gap is the time between two turns of a task that sleeps 1 ms, less that millisecond, less
the time in which the kernel ran other processes on the core (proc(5), schedstat 2).
"""

import asyncio
import gc
import json
import sys
import time

from fleetnet_device import Device

_PERIOD_US = 1000


def waited_us():
    """Return how long this process was runnable and not run, us."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) // 1000


class Gaps:
    """Longest gap while connecting, and in everything else."""

    def __init__(self, device):
        self.device = device
        self.handshake_us = 0
        self.other_us = 0
        self.ticks = 0

    async def run(self):
        was_online = False
        last, waited = time.ticks_us(), waited_us()
        while True:
            await asyncio.sleep_ms(1)
            now, waited_now = time.ticks_us(), waited_us()
            gap = time.ticks_diff(now, last) - _PERIOD_US - (waited_now - waited)
            is_online = self.device.state == "online"
            # The turn in which the state changes still belongs to the handshake.
            if is_online and was_online:
                self.other_us = max(self.other_us, gap)
            else:
                self.handshake_us = max(self.handshake_us, gap)
            was_online = is_online
            self.ticks += 1
            last, waited = now, waited_now


async def main(bundle, seconds):
    device = Device(bundle, linger_ms=100)
    gaps = Gaps(device)
    task = asyncio.create_task(gaps.run())
    await device.start()
    for index in range(seconds * 50):
        await device.send("count", index)
        await asyncio.sleep_ms(20)
    await device.flush(5_000)
    task.cancel()
    gc.collect()
    report = {
        "handshake_us": gaps.handshake_us,
        "other_us": gaps.other_us,
        "ticks": gaps.ticks,
        "sent": device.sent,
        "acknowledged": device.acknowledged,
        "error": str(device.last_error or ""),
        "mem_alloc": gc.mem_alloc(),
        "modules": sorted(name for name in sys.modules if name.startswith("fleetnet")),
    }
    print(json.dumps(report))
    await device.stop()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
