"""A camera for tests of blobs: readings at 10 a second beside frames, files, too many frames.

    micropython blob_main.py BUNDLE frame | newest | heap      CAMERA
    micropython blob_main.py BUNDLE file                       PATH

CAMERA: the folder of the stand-in for OpenMV's module csi. Prints JSON lines; the last one has
"done": true.
"""

import asyncio
import gc
import hashlib
import json
import sys
import time

from fleetnet_device import Device
from fleetnet_device.camera import Camera

PERIOD_MS = 100


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def say(device: Device, done: bool = False, **values: object) -> None:
    blobs = device.part("blobs")
    line = {"done": done, "connects": device.connects, "error": str(device.last_error or "")}
    line["chunks"] = blobs.sent
    line["resent"] = blobs.resent
    line.update(values)
    print(json.dumps(line))


class Readings:
    """Sends a reading each PERIOD_MS, and measures how long each takes to be acknowledged."""

    def __init__(self, device: Device):
        self.device = device
        self.took_ms: list = []
        self.is_over = False
        self._sent_at: list = []

    async def send(self) -> None:
        began = now_ms()
        count = 0
        while not self.is_over:
            await self.device.send("count", count)
            self._sent_at.append(now_ms())
            count += 1
            await asyncio.sleep(max(0, began + count * PERIOD_MS - now_ms()) / 1000)

    async def watch(self) -> None:
        while not self.is_over or len(self.took_ms) < len(self._sent_at):
            while len(self.took_ms) < self.device.acknowledged:
                self.took_ms.append(now_ms() - self._sent_at[len(self.took_ms)])
            await asyncio.sleep(0.002)


def heap() -> int:
    if not hasattr(gc, "mem_alloc"):
        return 0
    gc.collect()
    return gc.mem_alloc()


async def frame(device: Device, camera: str) -> None:
    """One frame of 60 KB beside readings."""
    sys.path.insert(0, camera)
    picture = Camera("VGA", "GRAYSCALE").capture()
    digest = hashlib.sha256(picture).digest().hex()
    readings = Readings(device)
    tasks = [asyncio.create_task(readings.send()), asyncio.create_task(readings.watch())]
    await asyncio.sleep(2)
    calm = len(readings.took_ms)
    say(device, frame=True)
    began = now_ms()
    assert await device.send_frame(picture)
    took_ms = now_ms() - began
    during = len(readings.took_ms)
    await asyncio.sleep(0.5)
    readings.is_over = True
    await asyncio.gather(*tasks)
    say(
        device, True, sha256=digest, size=len(picture), took_ms=took_ms,
        calm_ms=readings.took_ms[:calm], busy_ms=readings.took_ms[calm : during + 3],
    )  # fmt: skip


async def newest(device: Device, camera: str) -> None:
    """Five frames at once."""
    sys.path.insert(0, camera)
    await device.event("ready")
    await device.flush()
    frames = [hashlib.sha256(bytes([n])).digest() * 500 for n in range(5)]
    calls = [asyncio.create_task(device.send_frame(data)) for data in frames]
    went = []
    for call in calls:
        went.append(await call)
    sent = [hashlib.sha256(data).digest().hex() for data in frames]
    say(device, True, went=went, sent=sent)


async def file(device: Device, path: str) -> None:
    """A file, in the background of the program."""
    say(device, True, sha256=await device.send_blob("picture", path, 22))


async def heap_of_blobs(device: Device, camera: str) -> None:
    """What the heap grows by while blobs of two sizes are under way."""
    await device.send_blob("first", b"warm")  # what is imported and made once
    grown = []
    for size in (20_000, 400_000):
        data = bytearray(size)
        before = heap()
        task = asyncio.create_task(device.send_blob("heap", data))
        most = 0
        while not task.done():
            most = max(most, heap() - before)
            await asyncio.sleep(0.002)
        await task
        grown.append(most)
    say(device, True, grown=grown)


MODES = {"frame": frame, "newest": newest, "file": file, "heap": heap_of_blobs}


async def main(bundle: str, mode: str, argument: str) -> None:
    device = Device(bundle, linger_ms=0)
    device.part("blobs")
    async with device:
        while not device.is_open:
            await asyncio.sleep(0.01)
        await MODES[mode](device, argument)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3]))
