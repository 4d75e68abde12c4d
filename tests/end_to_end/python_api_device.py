"""A camera for tests of the Python API: run by MicroPython and CPython.

    micropython python_api_device.py BUNDLE

Sends `temp` (stored) and `angle` (live) five times a second, and a picture; has the commands of
the examples. Prints a line of JSON each 100 ms; ends when its standard input is closed.
"""

import asyncio
import json
import select
import sys

from fleetnet_device import Device

PICTURE = b"\xff\xd8\xff\xe0 no camera took this \xff\xd9"


async def main(bundle: str) -> None:
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    device = Device(bundle)
    exposure = [0]

    @device.command()
    def set_exposure(us):
        exposure[0] = us
        return {"us": us}

    @device.command()
    def cool(seconds):
        return f"cooled for {seconds} s"

    @device.command()
    def fail():
        raise RuntimeError("no lens")

    @device.config.on_change
    def take(document):
        return {"frame_rate": document.get("frame_rate")}

    async with device:
        count = 0
        done = False
        while not done:
            count += 1
            await device.send("temp", 20 + count)
            device.send_live("angle", count)
            if count == 2:
                await device.send_frame(PICTURE)
            line = {
                "state": device.state,
                "acknowledged": device.acknowledged,
                "exposure": exposure[0],
                "version": device.config.version,
                "error": str(device.last_error or ""),
                "done": False,
            }
            print(json.dumps(line))
            await asyncio.sleep(0.2)
            for _ in poller.poll(0):
                done = not sys.stdin.read(1)
        await device.flush(10_000)
        print(json.dumps({"state": "over", "sent": count, "error": "", "done": True}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
