"""P13: a P-256 key and a certificate request made on the device; run by real MicroPython, too.

    key_birth.py COUNT

Makes COUNT of them and prints one JSON line, in us: the median of the whole; the median of each
one's longest step between two turns of the loop, what 95 of 100 stay below, and the longest of
all, in which a shared machine has its say. Garbage collections of the unix port's 2 MB heap
count; the time in which the kernel ran other processes does not (proc(5), schedstat 2).
"""

import asyncio
import json
import sys
import time

from fleetnet.ports import port
from fleetnet_device import p256
from fleetnet_device.csr import make_request


def now_us():
    return time.ticks_us() if hasattr(time, "ticks_us") else time.monotonic_ns() // 1000


def waited_us():
    """Return how long this process was runnable and not run, us."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) // 1000


class Clock:
    """Stands before p256's port and measures from one turn of the loop to the next."""

    def __init__(self):
        self.random_bytes = port.random_bytes
        self.steps = []
        self.begin()

    def begin(self):
        self._waited = waited_us()
        self._began = now_us()

    def end(self):
        took = now_us() - self._began
        self.steps.append(took - (waited_us() - self._waited))

    async def sleep_ms(self, ms):
        self.end()
        await port.sleep_ms(ms)
        self.begin()


async def birth():
    """Return (us of all steps, us of the longest)."""
    p256.port = clock = Clock()
    private, public = await p256.make_key()
    await make_request("cam-01", private, public)
    clock.end()
    return sum(clock.steps), max(clock.steps)


async def main(count):
    await birth()  # the first one imports and grows the heap
    found = []
    for _ in range(count):
        found.append(await birth())
    whole = sorted([each[0] for each in found])
    longest = sorted([each[1] for each in found])
    middle = count // 2
    high = longest[count * 95 // 100]
    steps = {"step": longest[middle], "step_95": high, "worst": longest[-1]}
    steps["whole"] = whole[middle]
    print(json.dumps(steps))


asyncio.run(main(int(sys.argv[1])))
