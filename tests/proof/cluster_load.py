"""Devices of one client's network for cluster.py: the real library, many in one process.

    python cluster_load.py BUNDLES PART PARTS RATE HOST PORT

Standard input brings a word a line: "pause" (nothing new is sent, what is there is delivered),
"go", "finish"; its end means "finish" as well. Prints lines of JSON: {"at", "name", "up"} when a
session opens or an attempt or session ends (with "why"), {"at", "sent", ...} sums four times a
second, and {"done": true} last. Times are unix seconds.
"""

import asyncio
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from fleetnet.events import Opened
from fleetnet_server.sim.bundles import read_bundles
from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.meter import Meter

_SUMS = ("sent", "acknowledged", "dropped", "connects", "attempts")


def tell(**line: Any) -> None:
    print(json.dumps({"at": time.time(), **line}), flush=True)


class Tracked(SimDevice):
    """Says when its session opens, and when it ends."""

    def on_event(self, event: object) -> None:
        super().on_event(event)
        if isinstance(event, Opened):
            tell(name=self.name, up=True)

    def link_lost(self, error: Exception | None) -> None:
        super().link_lost(error)
        tell(name=self.name, up=False, why=type(error).__name__)


class Load:
    def __init__(self, devices: list[Tracked], meter: Meter, rate: float):
        self._devices = devices
        self._meter = meter
        self._rate = rate
        self._is_paused = self._is_finishing = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = [loop.create_task(self._drive(i, d)) for i, d in enumerate(self._devices)]
        helpers = [loop.create_task(self._report()), loop.create_task(self._poll())]
        while not self._is_finishing:
            word = await reader.readline()
            self._is_paused = word == b"pause\n"
            self._is_finishing = word in (b"", b"finish\n")
        await asyncio.gather(*tasks)
        for helper in helpers:
            helper.cancel()
        self._sums()
        print(json.dumps({"done": True}), flush=True)

    async def _drive(self, index: int, device: Tracked) -> None:
        # Not all at once, and not in step.
        await asyncio.sleep(index % 50 / 25)
        await device.start()
        count = 0
        while not self._is_finishing:
            if not self._is_paused:
                await device.send("count", count)
                device.seal()
                count += 1
            await asyncio.sleep(1 / self._rate)
        await device.flush(20_000)
        await device.stop()

    async def _report(self) -> None:
        while True:
            self._sums()
            await asyncio.sleep(0.25)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(1)
            for device in self._devices:
                device.poll()

    def _sums(self) -> None:
        devices = self._devices
        tell(
            online=sum(device.is_online for device in devices), devices=len(devices),
            latency=self._meter.latency.summary(),
            **{key: sum(getattr(device, key) for device in devices) for key in _SUMS},
        )  # fmt: skip


def make(arguments: list[str]) -> Load:
    path, part, parts, rate, host, port = arguments
    meter = Meter()
    devices = []
    for index, bundle in enumerate(islice(read_bundles(Path(path)), int(part), None, int(parts))):
        bundle.update(
            host=host, tls_port=int(port), dtls_port=int(port), transport=("tls", "dtls")[index % 2]
        )
        device = Tracked(bundle, meter, linger_ms=200)
        device.command("echo")(lambda value: value)
        devices.append(device)
    return Load(devices, meter, float(rate))


if __name__ == "__main__":
    asyncio.run(make(sys.argv[1:]).run())
