"""A device with the commands that the pages call: docs_device.py BUNDLE. Runs until it is ended."""

import asyncio
import sys

from fleetnet_device import Device


async def main(bundle: str) -> None:
    device = Device(bundle)

    @device.command()
    def blink(times):
        return times

    @device.command()
    def set_exposure(us):
        return us

    await device.start()
    while device.state != "online":
        await asyncio.sleep(0.02)
    print("online", flush=True)
    while True:
        await asyncio.sleep(3600)


asyncio.run(main(sys.argv[1]))
