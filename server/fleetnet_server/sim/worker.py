"""One process of `fleetnet sim`: many devices in one loop, each the real device library.

    python -m fleetnet_server.sim.worker              # a job on standard input, see Job
    python -m fleetnet_server.sim.worker SECONDS RATE BUNDLE [BUNDLE ...]

The second form sends steadily from the devices whose folders are named. Prints a line of JSON
a second with the sums over its devices; the last has "done": true. Standard input brings a word
a line: "storm" (what follows is the server's restart), "power" (every device loses power now),
"finish"; its end means "finish" as well.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.sim.bundles import read_bundles
from fleetnet_server.sim.meter import Meter
from fleetnet_server.sim.plan import Plan, schedule
from fleetnet_server.sim.unit import Unit
from fleetnet_server.sim.usage import Usage, usage
from fleetnet_server.sim.wire import Address, Wire

_SUMS = ("sent", "acknowledged", "dropped", "connects", "attempts", "erased")

_WIRE = ("losses", "cuts", "moves")

# A process of thousands of devices makes a line each second whatever they do.
_REPORT_S = 1.0

_READ_BYTES = 65_536


class Job(NamedTuple):
    """What one process is told: devices ``part``, ``part`` + ``parts``, ... of a plan."""

    plan: Plan
    bundles: str
    devices: int
    part: int
    parts: int
    address: Address

    def to_line(self) -> bytes:
        """Return the job as one line."""
        return json.dumps({**self._asdict(), "plan": self.plan.to_json()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Job":
        """Read a line of ``to_line``."""
        document = json.loads(line)
        document["plan"] = Plan.from_json(document["plan"])
        document["address"] = Address(*document["address"])
        return cls(**document)

    def units(self, meter: Meter) -> Iterator[Unit]:
        """Make the devices, which read their bundles from the file."""
        numbered = enumerate(islice(read_bundles(Path(self.bundles)), self.devices))
        for index, bundle in islice(numbered, self.part, None, self.parts):
            made = schedule(self.plan, index)
            bundle.update(self.address._asdict(), transport=made.transport)
            wire = None
            if made.needs_wire:
                wire = Wire(self.address, f"{self.plan.seed}/{index}")
            yield Unit(self.plan, made, bundle, meter, wire)


class Worker:
    """Runs the devices of one process and sums up what they say."""

    def __init__(self, units: list[Unit], meter: Meter, before: Usage):
        self._units = units
        self._meter = meter
        self._before = before
        self._is_finishing = False
        self._rest = b""

    async def run(self) -> None:
        """Run all devices for their time, then flush and say good-bye."""
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self._hear)
        # A garbage collection walks over what thousands of devices have made, for nothing.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        helpers = [loop.create_task(self._report()), loop.create_task(self._poll())]
        tasks = [unit.start() for unit in self._units]
        if self._is_finishing:
            self._finish()
        try:
            await asyncio.gather(*tasks)
        finally:
            for helper in helpers:
                helper.cancel()
            loop.remove_reader(sys.stdin.fileno())
        accounts = [unit.account() for unit in self._units if unit.device is not None]
        print(json.dumps({**self._sums(), "done": True, "accounts": accounts}), flush=True)

    def _hear(self) -> None:
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        *words, self._rest = (self._rest + data).split(b"\n")
        for word in words:
            if word == b"storm":
                self._storm()
            elif word == b"power":
                self._storm()
                for unit in self._units:
                    unit.reboot()
            elif word == b"finish":
                self._finish()
        if not data:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._finish()

    def _storm(self) -> None:
        hit = [unit.device for unit in self._units if unit.device and unit.is_online]
        for device in hit:
            device.is_hit = True
        self._meter.begin_storm(len(hit))

    def _finish(self) -> None:
        self._is_finishing = True
        for unit in self._units:
            unit.finish()

    async def _report(self) -> None:
        # The first line at once: it says that the devices begin.
        while True:
            print(json.dumps(self._sums()), flush=True)
            await asyncio.sleep(_REPORT_S)

    async def _poll(self) -> None:
        """Stand for each device's own timer."""
        while True:
            await asyncio.sleep(1)
            for unit in self._units:
                if unit.device is not None:
                    unit.device.poll()

    def _sums(self) -> dict[str, Any]:
        units, meter = self._units, self._meter
        counters = [unit.counters() for unit in units]
        failed = [unit.device.last_error for unit in units if unit.device is not None]
        used = _used()
        return {
            "devices": len(units),
            "online": sum(unit.is_online for unit in units),
            **{key: sum(each[key] for each in counters) for key in _SUMS},
            "frames": sum(unit.frames_now for unit in units),
            "reboots": sum(unit.reboots for unit in units),
            **{key: sum(getattr(unit.wire, key) for unit in units if unit.wire) for key in _WIRE},
            "errors": sorted({type(error).__name__ for error in failed if error}),
            "connect": meter.connect.to_json(),
            "latency": meter.latency.to_json(),
            "back": meter.back.to_json(),
            "back_at": meter.back_at,
            "hit": meter.hit,
            "storm_attempts": meter.storm_attempts,
            "storm_unheard": meter.storm_unheard,
            "cpu_s": used.cpu_s,
            "cpu_before": self._before.cpu_s,
            "rss": used.rss_bytes,
            "rss_before": self._before.rss_bytes,
            "done": False,
        }


def _read_line() -> bytes:
    """Read the job's line, and not a byte behind it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _used() -> Usage:
    return usage() or Usage(0.0, 0)


async def main(arguments: list[str]) -> None:
    """Run with the command line's arguments."""
    meter = Meter()
    if arguments:
        folders = arguments[2:]
        # Devices of a fleet do not tick together, but begin together here.
        plan = Plan(seconds=float(arguments[0]), rate=float(arguments[1]), ramp=0)
        before = _used()
        units = [
            Unit(plan, schedule(plan, index), folder, meter) for index, folder in enumerate(folders)
        ]
    else:
        job = Job.from_line(_read_line())
        before = _used()
        units = list(job.units(meter))
    await Worker(units, meter, before).run()


def run() -> None:
    """Run on uvloop where it is installed: a third less CPU for each device."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(main(sys.argv[1:]))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
