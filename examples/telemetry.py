"""A device in six lines: MicroPython or CPython, with the bundle in the folder `bundle`."""

import asyncio
import random
import sys

from fleetnet_device import Device


async def main(bundle):
    async with Device(bundle) as device:
        while True:
            await device.send("temperature", 20 + random.random())
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "bundle"))
