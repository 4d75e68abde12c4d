"""Devices of one process for fairness.py: the real library, with the simulator's gauges.

    python fair_load.py MESSAGES_A_SECOND SECONDS BUNDLE...

Prints {"online": N}, waits for a line, sends for SECONDS, waits for the acknowledgements and
prints {"sent", "p50", "p99"}; times in ms from a message's making to its receipt.
"""

import asyncio
import json
import sys
import time

from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.meter import Meter


async def drive(device: SimDevice, rate: float, seconds: float, index: int) -> None:
    """Send messages of one reading at a rate; what was missed while waiting is made up for."""
    began = time.monotonic() + index * 0.037 % (1 / rate)
    count = 0
    while count < rate * seconds:
        due = int(min(time.monotonic() - began, seconds) * rate)
        while count < due:
            await device.send("count", count)
            device.seal()
            count += 1
        await asyncio.sleep(max(0.001, began + (count + 1) / rate - time.monotonic()))


async def main(rate: float, seconds: float, bundles: list[str]) -> None:
    meter = Meter()
    devices = [SimDevice(bundle, meter) for bundle in bundles]
    for device in devices:
        await device.start()
    while not all(device.is_online for device in devices):
        await asyncio.sleep(0.02)
    print(json.dumps({"online": len(devices)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.gather(*(drive(d, rate, seconds, i) for i, d in enumerate(devices)))
    for device in devices:
        await device.flush(20_000)
    found = meter.latency.summary()
    sent = sum(device.acknowledged for device in devices)
    print(json.dumps({"sent": sent, "p50": found["p50"], "p99": found["p99"]}), flush=True)
    for device in devices:
        await device.stop()


asyncio.run(main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
