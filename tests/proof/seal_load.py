"""Devices of one process that make every reading a message: for slow_store.py.

    python seal_load.py SECONDS MESSAGES_A_SECOND BUNDLE...

As fleetnet_server.sim.worker it prints its sums each second, until it is killed. PROOF_BREAK:
see broken.py.
"""

import asyncio
import json
import sys

from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.meter import Meter
from proof import broken  # noqa: F401 - breaks what the environment names

_KEYS = ("sent", "acknowledged", "connects", "dropped")


async def drive(device: SimDevice, rate: float) -> None:
    """Send for ever."""
    count = 0
    while True:
        await device.send("count", count)
        device.seal()
        count += 1
        await asyncio.sleep(1 / rate)


async def main(_seconds: str, rate: str, *bundles: str) -> None:
    meter = Meter()
    devices = [SimDevice(bundle, meter) for bundle in bundles]
    for device in devices:
        await device.start()
    tasks = [asyncio.create_task(drive(device, float(rate))) for device in devices]
    while tasks:
        sums = {key: sum(getattr(device, key) for device in devices) for key in _KEYS}
        online = sum(device.is_online for device in devices)
        print(json.dumps({**sums, "online": online}), flush=True)
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
