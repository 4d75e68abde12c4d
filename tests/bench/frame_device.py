"""P11's device, run by real MicroPython: frames of 60 KB, one after the other.

    micropython frame_device.py BUNDLE FRAMES

Prints {"took_ms": [...], "resent", "size"}: from send_frame to the server's word that the frame
is on its disk.
"""

import asyncio
import json
import os
import sys
import time

from fleetnet_device import Device

SIZE = 60_000


async def main(bundle, frames):
    frame = bytearray(SIZE)
    took = []
    device = Device(bundle, linger_ms=0)
    async with device:
        # What is imported and made once is not the frame's.
        await device.send_frame(b"first" + os.urandom(16))
        for _ in range(frames):
            # A frame that the server has is not sent: each is another one.
            frame[:16] = os.urandom(16)
            began = time.ticks_ms()
            if not await device.send_frame(frame):
                raise RuntimeError("a frame was replaced, and there is one at a time")
            took.append(time.ticks_diff(time.ticks_ms(), began))
        print(json.dumps({"took_ms": took, "resent": device.part("blobs").resent, "size": SIZE}))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
