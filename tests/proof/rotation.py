"""A fleet whose certificates live for seconds: does rotation lose anything, or anybody?

    python tests/proof/rotation.py [--devices 200] [--minutes 6] [--life 20]

A real `fleetnet serve`, CPython devices of the real device library in a few processes, and two
real MicroPython processes, all on this machine. Each device sends a reading a second and gets
another certificate whenever a third of the life of its own is left. With a life of 20 s in the
place of ten minutes a fleet is seen at thirty times the pace; X.509 counts whole seconds.

Ends by itself. Exit code 0: every reading that was sent was acknowledged and is stored once, no
rotation failed, and no session was cut but for a planned change of identity.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.device_process import DeviceProcess, until  # noqa: E402
from end_to_end.rotating import RotatingFleet  # noqa: E402
from interpreters import interpreters  # noqa: E402
from proof.lab import run_main  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

# What starting, and sending the rest at the end, may take beside the time that was asked for.
_PATIENCE_S = 120

_PROCESSES = 4


class Result(NamedTuple):
    """What a run came to; counts over all devices.

    Attributes:
        rotations: identities that were offered and work. failed: that did not, for any reason.
        under_way: offers that the end of the run met half done.
        sent, acknowledged, dropped: readings, as the devices say; stored: as the store says.
        duplicates: readings stored twice; missing: counts with a hole in their sequence.
        extra_sessions: sessions beyond one for each device and one for each rotation. One fewer is
            no fault: the run's end may stop a device between its new session at the server and
            the WELCOME that tells it so.
    """

    devices: int
    seconds: float
    rotations: int
    failed: int
    under_way: int
    fewest: int
    sent: int
    acknowledged: int
    stored: int
    dropped: int
    duplicates: int
    missing: int
    extra_sessions: int
    superseded: int

    def faults(self) -> list[str]:
        """What must not be; [] is good."""
        found = []
        if not 0 < self.sent == self.acknowledged == self.stored:
            found.append("sent, acknowledged and stored differ")
        for name in ("failed", "dropped", "duplicates", "missing", "extra_sessions"):
            if getattr(self, name) > 0:
                found.append(f"{name}: {getattr(self, name)}")
        if self.fewest < 1:
            found.append("a device never rotated")
        return found


class Worker:
    """One CPython process with many devices (fleetnet_server.sim.worker)."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.sums: dict[str, Any] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.sums = json.loads(line)

    async def finish(self) -> None:
        """Let its devices send what they have, and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), _PATIENCE_S)
        await self._reader


class Proof:
    """One run in a folder of its own."""

    def __init__(
        self, folder: Path, devices: int, seconds: float, life_s: float, pace: float = 0.0
    ):
        self._seconds, self._life_s = seconds, life_s
        # Twice what the fleet needs when it is spread evenly.
        pace = pace or 2 * devices / (life_s * 2 / 3)
        self.fleet = RotatingFleet(folder, device_lifetime_s=life_s, rotations_per_s=pace)
        micropythons = interpreters()[:2]
        self._names = [f"cp-{index:03d}" for index in range(devices - len(micropythons))]
        self._boards = {f"mp-{index}": runtime for index, runtime in enumerate(micropythons)}
        self._workers: list[Worker] = []

    async def run(self) -> Result:
        """Start everything, let it run, end everything, and count."""
        fleet = self.fleet
        for index, name in enumerate([*self._names, *self._boards]):
            fleet.add_device(name, ("tls", "dtls")[index % 2])
        await fleet.start_server()
        try:
            limit_s = int(self._seconds) + _PATIENCE_S
            for part in range(_PROCESSES):
                await self._start_worker(self._names[part::_PROCESSES], limit_s)
            for name, runtime in self._boards.items():
                await fleet.start_device(name, "", runtime, seconds=limit_s, rate=1)
            await until(lambda: self._online() == len(self._names), "all are online", _PATIENCE_S)
            await fleet.until_online()
            # The bundles are good for years: the first certificate with a short life.
            fleet.renew(*self._names, *self._boards)
            began = time.monotonic()
            await asyncio.sleep(self._seconds)
            lasted = time.monotonic() - began
            # A rotation that is under way may end.
            fleet_devices: list[DeviceProcess] = fleet.devices
            await asyncio.gather(
                *(worker.finish() for worker in self._workers),
                *(device.finish() for device in fleet_devices),
            )
            await fleet.terminate_server()
            return self._count(lasted)
        finally:
            for worker in self._workers:
                if worker.process.returncode is None:
                    worker.process.kill()
            await fleet.close()

    async def _start_worker(self, names: list[str], limit_s: int) -> None:
        bundles = [str(self.fleet.folder / "devices" / name) for name in names]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleetnet_server.sim.worker", str(limit_s), "1", *bundles,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=self.fleet.environment(), start_new_session=True,
        )  # fmt: skip
        self._workers.append(Worker(process))

    def _online(self) -> int:
        return sum(worker.sums.get("online", 0) for worker in self._workers)

    def _sum(self, key: str) -> int:
        boards = sum(device.counter(key) for device in self.fleet.devices)
        return boards + sum(worker.sums.get(key, 0) for worker in self._workers)

    def _count(self, seconds: float) -> Result:
        read = self.fleet.read
        actions = dict(read("SELECT action, count(*) FROM audit GROUP BY action"))
        works, failed = actions.get("identity-works", 0), actions.get("identity-failed", 0)
        ((under_way,),) = read("SELECT count(*) FROM identities WHERE state = 'offered'")
        per_device = dict(
            read("SELECT device, count(*) FROM audit WHERE action = 'identity-works' GROUP BY 1")
        )
        ((stored,),) = read("SELECT count(*) FROM readings")
        counts = read(
            "SELECT count(*), count(DISTINCT value), max(value) + 1 FROM readings"
            " WHERE channel = 'count' GROUP BY device"
        )
        names = [*self._names, *self._boards]
        offered = actions.get("identity-offered", 0)
        return Result(
            devices=len(names),
            seconds=seconds,
            rotations=works,
            failed=failed + max(0, offered - works - failed - under_way),
            under_way=under_way,
            fewest=min(per_device.get(name, 0) for name in names),
            sent=self._sum("sent"),
            acknowledged=self._sum("acknowledged"),
            stored=stored,
            dropped=self._sum("dropped"),
            duplicates=sum(count - distinct for count, distinct, _ in counts),
            missing=sum(top - distinct for _, distinct, top in counts),
            extra_sessions=self._sum("connects") - len(names) - works,
            superseded=read("SELECT count(*) FROM certificates WHERE reason = 'superseded'")[0][0],
        )


def table(result: Result, life_s: float) -> str:
    """The result for people."""
    rows = [
        ("devices", f"{result.devices} (two of them MicroPython)"),
        ("life of a certificate", f"{life_s:g} s, standing for 10 min (scale 1:{600 / life_s:g})"),
        ("time", f"{result.seconds:.0f} s"),
        ("rotations", f"{result.rotations}, {result.fewest} or more for each device"),
        ("failed", str(result.failed)),
        ("under way at the end", str(result.under_way)),
        ("certificates superseded", str(result.superseded)),
        ("readings sent", str(result.sent)),
        ("  acknowledged", str(result.acknowledged)),
        ("  stored", str(result.stored)),
        ("  given up by devices", str(result.dropped)),
        ("  stored twice", str(result.duplicates)),
        ("  missing", str(result.missing)),
        ("sessions beyond the planned", str(result.extra_sessions)),
    ]
    return "\n".join(f"{name:<28}{value}" for name, value in rows)


async def control(life_s: float) -> tuple[bool, str]:
    """Known bad: a server that issues a certificate a minute to a fleet that needs more."""
    with tempfile.TemporaryDirectory() as place:
        proof = Proof(Path(place) / "fleet", 12, 2 * life_s, life_s, pace=1 / 60)
        try:
            faults = (await proof.run()).faults()
        except AssertionError as error:
            faults = [str(error).splitlines()[0][:120]]
    said = f"one new certificate a minute for 12 devices: {'; '.join(faults)}"
    return noticed(faults, "a device never rotated"), said


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--life", type=float, default=20.0, help="of a certificate, seconds")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        proof = Proof(Path(place) / "fleet", options.devices, options.minutes * 60, options.life)
        result = await proof.run()
        log = proof.fleet.log()
    print(table(result, options.life))
    faults = result.faults()
    for fault in faults:
        print("FAULT", fault)
    if faults:
        print(log[-4000:], file=sys.stderr)
    is_red, said = await control(options.life)
    figure = (
        f"{result.devices} devices, {result.seconds:.0f} s: {result.rotations} rotations, "
        f"{result.sent} readings, {result.stored} stored; {'; '.join(faults) or '0 lost'}"
    )
    row = Row(
        "13r", f"certificates that live {options.life:g} s, under load",
        "no reading lost or twice, no rotation failed, no session cut but for a new identity",
        figure, not faults, said, is_red,
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
