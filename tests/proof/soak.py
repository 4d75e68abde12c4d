"""Does a server that serves for an hour stay as large as it was?

    python tests/proof/soak.py [--minutes 60] [--quick] [--trace] [--json FILE]

A real `fleetnet serve` (soak_server.py: with a small page cache); this process is the devices: 50
over TLS and 50 over DTLS connect, send telemetry, wait for the acknowledgements and say goodbye,
over and over; every fifth round they vanish without a word. Between rounds, with nobody
connected, the server's private memory and its file descriptors are read from /proc.

Growth is the median of the last third of the readings minus that of the first third, behind a
warm-up of a third of the run, by the sessions between the two. Memory that the C library gets
back from a freed session and gives to the next does not come in exact pages: what is below
RESOLUTION_KIB in all is no slope. So a run shows 1 KiB in 1,000 sessions when it has some 100,000
of them; --quick, a minute, only says what its length can: the bound is printed.

The control is leaking_server.py, which keeps each session in a list.
--trace serves with tracemalloc (slower) and prints where Python's memory went.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.fleet import Fleet
from fleetnet_server.bench.links import device_context
from fleetnet_server.bench.sessions import Load
from proof.verdict import Row, arguments, finish

SLOPE_KIB = 1.0  # a thousand sessions
RESOLUTION_KIB = 128
# A short run sees the last of what fills up at the start: buffers, names, the writer's statements.
SHORT_RESOLUTION_KIB = 1024
SHORT_S = 600
DEVICES = 50  # over each transport
MESSAGES = 8
RUDE_EVERY = 5
PATIENCE_S = 20
HERE = Path(__file__).parent
# No device comes as often as these, from one address. A session that is over stays in the heap
# of timers until its keepalive would have been due: with the default the server holds those of
# the last 90 s, which is a level and no slope, but one that a short run does not reach.
SETTINGS = """
keepalive_s = 2
dtls_keepalive_s = 2
address_handshakes_per_s = 100000
device_sessions_per_s = 10000
device_sessions_burst = 100000
sessions_per_s = 10000
"""


class Reading(NamedTuple):
    """The server after so many sessions, with nobody connected."""

    seconds: float
    sessions: int
    private_kib: int
    descriptors: int


class Growth(NamedTuple):
    """What came of the readings behind the warm-up; ``bound``: KiB a thousand sessions."""

    slope: float
    bound: float
    sessions: int
    kib: int
    descriptors: tuple[int, int]

    def is_flat(self) -> bool:
        return self.slope <= self.bound and self.descriptors[1] <= self.descriptors[0]


def reading() -> bytes:
    """One reading of now: with one time for all, compaction would hold ever more rows of it."""
    return json.dumps([round(time.time() * 1000), 0, ["temperature"], [[0, 0, 21.5]]]).encode()


def private_kib(pid: int | str) -> int:
    """Anonymous resident memory; pages of files, as of the store's WAL index, do not count."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise RuntimeError("/proc tells no RssAnon")


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def judge(readings: list[Reading], seconds: float) -> Growth:
    """Compare the last third of what lies behind the warm-up with the first."""
    late = [one for one in readings if one.seconds >= seconds / 3]
    resolution = RESOLUTION_KIB if seconds >= SHORT_S else SHORT_RESOLUTION_KIB
    third = max(1, len(late) // 3)
    first, last = late[:third], late[-third:]
    sessions = round(
        statistics.median(one.sessions for one in last)
        - statistics.median(one.sessions for one in first)
    )
    kib = round(
        statistics.median(one.private_kib for one in last)
        - statistics.median(one.private_kib for one in first)
    )
    thousands = max(sessions, 1) / 1000
    descriptors = (max(one.descriptors for one in first), last[-1].descriptors)
    return Growth(
        kib / thousands, SLOPE_KIB + resolution / thousands, sessions, kib, descriptors
    )


class Crowd:
    """Devices that come and go."""

    def __init__(self, bundles: dict[str, list[Path]], numbers: dict[str, int]):
        self.numbers = numbers
        names = ("ca.der", "cert.der", "key.der")
        self.contexts = {
            kind: [device_context(*(path / name for name in names), kind) for path in paths]
            for kind, paths in bundles.items()
        }
        self.sessions = 0
        self.rounds = 0

    def visit(self) -> None:
        """Connect all, send, wait for the acknowledgements, go."""
        self.rounds += 1
        for kind, contexts in self.contexts.items():
            load = Load(kind == "dtls", self.numbers[kind], MESSAGES)
            load.add(contexts, [reading()] * len(contexts))
            for device in load.devices:
                device.visit(MESSAGES)
            load.drain()
            if self.rounds % RUDE_EVERY:
                load.say_goodbye()
            for device in load.devices:
                device.link.close()
            self.sessions += len(contexts)


def settle(pid: int, most: int | None = None) -> int:
    """Wait for the sockets of those who went: ``most`` descriptors, or 1 s without a change."""
    end = time.monotonic() + PATIENCE_S
    found, since = descriptors_of(pid), time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.02)
        if (now := descriptors_of(pid)) != found:
            found, since = now, time.monotonic()
        if found <= most if most is not None else time.monotonic() - since > 1:
            break
    return found


def soak(crowd: Crowd, pid: int, seconds: float) -> list[Reading]:
    """Visit for so long; one reading each sixtieth of it, and one at the end."""
    crowd.visit()
    base = settle(pid)
    readings: list[Reading] = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        crowd.visit()
        if now >= len(readings) * seconds / 60:
            found = settle(pid, base)
            readings.append(Reading(now, crowd.sessions, private_kib(pid), found))
    return readings


async def run(seconds: float, program: Path, trace: bool = False) -> list[Reading]:
    """Serve with ``program`` and soak it."""
    with tempfile.TemporaryDirectory() as place:
        fleet = Fleet(Path(place) / "fleet")
        with (fleet.folder / "fleetnet.toml").open("a") as settings:
            settings.write(SETTINGS)
        bundles = {
            kind: [fleet.add_device(f"{kind}-{n}", kind) for n in range(DEVICES)]
            for kind in ("tls", "dtls")
        }
        try:
            await fleet.start_server(program)
            assert fleet._server is not None
            pid = fleet._server.pid
            crowd = Crowd(bundles, {"tls": fleet.tls[1], "dtls": fleet.dtls[1]})
            if trace:
                await asyncio.to_thread(soak, crowd, pid, seconds / 3)
                os.kill(pid, signal.SIGUSR1)
            readings = await asyncio.to_thread(soak, crowd, pid, seconds)
            if trace:
                os.kill(pid, signal.SIGUSR1)
                await asyncio.to_thread(crowd.visit)
                print(fleet.log())
        finally:
            await fleet.close()
    return readings


def row_of(found: Growth, control: Growth, minutes: float) -> Row:
    return Row(
        "27",
        f"{minutes:g} min of connecting, sending and going, {found.sessions} sessions counted",
        f"grows by {found.bound:.2f} KiB in 1,000 sessions at most "
        f"({SLOPE_KIB:g} is the target, the rest what so few sessions can tell), "
        "descriptors constant",
        f"{found.slope:+.2f} KiB in 1,000 sessions ({found.kib:+} KiB), "
        f"descriptors {found.descriptors[0]} -> {found.descriptors[1]}",
        found.is_flat(),
        f"a server that keeps its sessions: {control.slope:+.0f} KiB in 1,000 sessions",
        control.slope > control.bound,
    )


async def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--trace", action="store_true", help="tracemalloc, printed; no row")
    options = parser.parse_args(words)
    minutes = min(options.minutes, 1.0) if options.quick else options.minutes
    seconds = minutes * 60
    if options.trace:
        await run(seconds, HERE / "traced_server.py", trace=True)
        return 0
    readings = await run(seconds, HERE / "soak_server.py")
    print("private KiB:", *(one.private_kib for one in readings))
    found = judge(readings, seconds)
    control_s = min(20.0, seconds / 3)
    control = judge(await run(control_s, HERE / "leaking_server.py"), control_s)
    return finish([row_of(found, control, minutes)], options.json)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
