"""P10's device, run by real MicroPython: readings of 20 B, 20 a batch, each batch acknowledged.

    micropython wire_device.py BUNDLE BATCHES PAUSE_MS

Prints {"at": "first"} when the first batch is acknowledged and {"at": "last", "readings",
"mem_alloc"} when BATCHES more are; waits for a line on standard input behind each.
"""

import asyncio
import gc
import json
import sys

from fleetnet_device import Device

BATCH = 20
# 20 B as JSON text.
VALUE = "x" * 18


async def batch(device, number):
    for index in range(BATCH):
        await device.send("temperature", VALUE, 1_700_000_000_000 + 1000 * (BATCH * number + index))
    if not await device.flush(20_000):
        raise RuntimeError("a batch was not acknowledged: " + str(device.last_error))


async def main(bundle, batches, pause_ms):
    device = Device(bundle, max_readings=BATCH, linger_ms=60_000)
    async with device:
        await batch(device, 0)
        print(json.dumps({"at": "first"}))
        sys.stdin.readline()
        for number in range(batches):
            await batch(device, 1 + number)
            await asyncio.sleep(pause_ms / 1000)
        gc.collect()
        readings = device.acknowledged - BATCH
        print(json.dumps({"at": "last", "readings": readings, "mem_alloc": gc.mem_alloc()}))
        sys.stdin.readline()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
