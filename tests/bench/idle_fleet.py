"""P6: what a fleet costs that does nothing: CPU and memory, at 100, 1,000 and 9,000 sessions."""

import contextlib
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fleets import BENCH_SETTINGS, serve_command
from idle_costs import Standing
from mqtt_peer import broker_command, free_port, mosquitto, wait_for_port
from processes import Process, cores, cpu_ns, program, resident_bytes, running

from fleetnet_server.config import load_settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.sim.bundles import make_bundles

SIZES = (100, 1000, 9000)
# A session costs what it adds to the server that has these: they pay for what is made once.
_FIRST = 10
# Files of a process beside the sockets of its sessions.
_OTHER_FILES = 150
# Both ends of a session, ours and the peer's, all of them at once; measured, and twice of it.
_KIB_A_DEVICE = 700
# What the last handshakes left behind is not part of idling.
_SETTLE_S = 2.0
# Thirty thousand handshakes, both ends: half a minute on two cores of their own.
_OPEN_S = 480.0


def sizes(quick: bool) -> tuple[tuple[int, ...], str]:
    """Return the numbers of sessions that this machine allows, and what limits them, or ""."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = SIZES[-1] if hard == resource.RLIM_INFINITY else hard - _OTHER_FILES
    memory = _available_kib() // _KIB_A_DEVICE
    most = min(SIZES[-1] // (9 if quick else 1), files, memory)
    why = ""
    if files < SIZES[-1]:
        why = f"the limit of open files is {hard} (`ulimit -Hn`)"
    elif memory < SIZES[-1]:
        why = f"{memory * _KIB_A_DEVICE >> 10:,} MiB of memory are available"
    return (*(size for size in SIZES if size < most), most), why


def _available_kib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1])
    return 1 << 30


class _Side:
    """One server and its load; all of them stand on the measured core at once."""

    def __init__(self, server: Process, load: Process):
        self.server = server
        self.load = load
        self.standings: list[Standing] = []

    def ask(self, count: int) -> None:
        """Have so many sessions opened."""
        self.load.say(str(count))

    def pings(self) -> int:
        """Return the keepalives so far, once everything asked for is open."""
        pings: int = self.load.answer(_OPEN_S)["pings"]
        return pings

    def begin(self, count: int) -> None:
        self.ask(count)
        self._pings = self.pings()
        self._cpu = cpu_ns(self.server.pid)
        self._began = time.monotonic()

    def end(self, count: int) -> None:
        spent = cpu_ns(self.server.pid) - self._cpu
        seconds = time.monotonic() - self._began
        resident = resident_bytes(self.server.pid)
        self.ask(count)
        pings = self.pings() - self._pings
        self.standings.append(Standing(count, spent, seconds, resident, pings))


def measure(quick: bool, window_s: float) -> tuple[dict[str, list[Standing]], str]:
    """Measure "tls", "dtls" and, where mosquitto is installed, "mosquitto".

    Args:
        window_s: at the largest size; a sixth of it at the others.

    Returns:
        The standings of each (the first with ten sessions), and what limits their size, or "".
    """
    counts, why = sizes(quick)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # children inherit it
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name,
            contextlib.ExitStack() as stack,
        ):
            sides = _start(stack, Path(name), counts[-1])
            for count in (_FIRST, *counts):
                _stand(list(sides.values()), count, window_s / (1 if count == counts[-1] else 6))
            return {name: side.standings for name, side in sides.items()}, why
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _stand(sides: list[_Side], count: int, seconds: float) -> None:
    for side in sides:
        side.ask(count)
    for side in sides:
        side.pings()
    time.sleep(_SETTLE_S)
    for side in sides:
        side.begin(count)
    time.sleep(seconds)
    for side in sides:
        side.end(count)


def _start(stack: contextlib.ExitStack, folder: Path, count: int) -> dict[str, _Side]:
    sides = {}
    for link in ("tls", "dtls"):
        fleet = folder / link
        create_fleet(fleet, ("localhost",))
        path = make_bundles(fleet, load_settings(fleet), count, lambda _number: None)
        server, number = stack.enter_context(_serving(fleet, link))
        sides[link] = stack.enter_context(_loaded(server, link, number, path))
    if mosquitto() is not None:
        number = free_port()
        command = broker_command(folder / "tls", folder, number)
        server = stack.enter_context(running(command, cores()[0], errors=subprocess.DEVNULL))
        wait_for_port(number)
        path = folder / "tls" / "sim" / "devices.jsonl"
        sides["mosquitto"] = stack.enter_context(_loaded(server, "mqtt", number, path))
    return sides


@contextlib.contextmanager
def _serving(fleet: Path, link: str) -> Iterator[tuple[Process, int]]:
    # Over DTLS devices are asked for 25 s, for the sake of routers; the row asks for 60 s.
    settings = {**BENCH_SETTINGS, "FLEETNET_DTLS_KEEPALIVE_S": "60"}
    with running(serve_command(fleet), cores()[0], settings) as process:
        yield process, process.answer(30)[f"{link}_port"]


@contextlib.contextmanager
def _loaded(server: Process, link: str, number: int, path: Path) -> Iterator[_Side]:
    command = program("idle_load.py", "tls12" if link == "tls" else link, str(number), str(path))
    with running(command, cores()[1]) as load:
        yield _Side(server, load)
