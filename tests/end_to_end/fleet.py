"""A fleet of real processes for tests: `fleetnet serve`, and device programs that talk to it.

    fleet = Fleet(tmp_path / "fleet")
    await fleet.start_server()
    device = await fleet.start_device("cam-1", "dtls", runtime)
    await fleet.kill_server()               # SIGKILL, then start_server() again: same ports
    await device.finish()
    assert faults_of(fleet.store, [device.account()]) == []

Waiting is polling for a condition under a deadline (``until``); no test sleeps to be right.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fleetnet_server
from bad_network import Address
from fleetnet_server.cli.device import add_device
from fleetnet_server.cli.init import create_fleet
from fleetnet_server.config import Settings
from fleetnet_server.sim.interpreters import device_command, device_environment
from fleetnet_server.store import schema
from fleetnet_server.store.query import query
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import Interpreter, interpreters

# A device that works has no reason to take longer; a shared machine may be slow.
PATIENCE_S = 60.0
_POLL_S = 0.05


def runtimes() -> list[Interpreter | None]:
    """The oldest and the newest MicroPython, and None for this CPython."""
    found = list(interpreters())
    return [*found[:1], *found[1:][-1:], None]


def name_of(runtime: Interpreter | None) -> str:
    """A device name that tells who runs it."""
    return "cpython" if runtime is None else runtime.name.replace(".", "-")


async def until(
    is_true: Callable[[], bool],
    what: str,
    timeout_s: float = PATIENCE_S,
    explain: Callable[[], object] = lambda: "",
) -> float:
    """Wait until ``is_true()``; return the seconds it took. AssertionError after ``timeout_s``."""
    began = time.monotonic()
    while not is_true():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"after {waited:.0f} s still not: {what} {explain()}"
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


def free_port() -> int:
    """A port free for TCP and UDP, below those that the kernel hands to outgoing connections:
    a device that calls a dead server there could otherwise be answered by itself."""
    dice = random.Random(os.urandom(8))
    while True:
        number = dice.randrange(15_000, 32_000)
        try:
            with (
                socket.create_server(("127.0.0.1", number)),
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            ):
                udp.bind(("127.0.0.1", number))
                return number
        except OSError:
            continue


class Account(NamedTuple):
    """What one device says of itself: readings are pairs of temperature and count."""

    name: str
    sent: int
    acknowledged: int
    dropped: int = 0


class DeviceProcess:
    """A device program and what it printed.

    Attributes:
        lines: its JSON lines so far, each with "at" (seconds, monotonic).
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process):
        self.name = name
        self.lines: list[dict[str, Any]] = []
        self._process = process
        self._noise: list[str] = []
        self._readers = [
            asyncio.create_task(self._read(process.stdout)),
            asyncio.create_task(self._read(process.stderr)),
        ]

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while line := await stream.readline():
            if line.startswith(b"{"):
                self.lines.append({**json.loads(line), "at": time.monotonic()})
            else:
                self._noise.append(line.decode(errors="replace"))

    def last(self, key: str) -> Any:
        """The newest value it printed, None before its first line."""
        return self.lines[-1][key] if self.lines else None

    def counter(self, key: str) -> int:
        """The same for a number, 0 before its first line."""
        return int(self.last(key) or 0)

    @property
    def is_online(self) -> bool:
        return self.last("state") == "online"

    def errors(self) -> list[str]:
        """The distinct errors it named, in order."""
        return list(dict.fromkeys(line["error"] for line in self.lines if line["error"]))

    def account(self) -> Account:
        return Account(self.name, *(self.counter(k) for k in ("sent", "acknowledged", "dropped")))

    def story(self) -> str:
        """Its last lines and whatever else it printed, for a failed assertion."""
        text = "\n".join(map(str, self.lines[-8:]))
        return f"\n{self.name}: {self.errors()}\n{text}\n{''.join(self._noise[-40:])}"

    async def until_acknowledged(self, more: int, timeout_s: float = PATIENCE_S) -> float:
        """Wait until ``more`` readings than it had have been acknowledged."""
        goal = self.counter("acknowledged") + more
        return await until(
            lambda: self.counter("acknowledged") >= goal,
            f"{self.name} has {goal} acknowledged",
            timeout_s,
            self.story,
        )

    async def finish(self, timeout_s: float = PATIENCE_S) -> None:
        """Let it send what it has, and end: AssertionError when it does not do so in time."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self.ended(timeout_s)

    async def ended(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for its end by itself."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"did not end in {timeout_s} s {self.story()}") from None
        assert self._process.returncode == 0, self.story()
        assert self.last("done"), self.story()

    def freeze(self) -> None:
        """SIGSTOP: alive, and silent."""
        self._process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        """SIGKILL; the system ends its TCP connections."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)


class Fleet:
    """A fleet folder, its server and its devices, all on the loopback interface.

    Attributes:
        tls, dtls: the server's addresses; they stay the same when it is started again.
        starts: how often the server was started.
    """

    def __init__(self, folder: Path, keepalive_s: float = 60.0):
        self.folder = folder
        self.tls: Address = ("127.0.0.1", free_port())
        self.dtls: Address = ("127.0.0.1", free_port())
        self.starts = 0
        self.devices: list[DeviceProcess] = []
        self._settings = Settings(
            host="127.0.0.1",
            bind="127.0.0.1",
            tls_port=self.tls[1],
            dtls_port=self.dtls[1],
            keepalive_s=keepalive_s,
        )
        self._server: asyncio.subprocess.Process | None = None
        self._log = folder.with_suffix(".log")
        create_fleet(folder, ("localhost",))

    @property
    def store(self) -> Path:
        return self._settings.store_path(self.folder)

    def log(self) -> str:
        """What the server wrote to standard error, all starts together."""
        return self._log.read_text() if self._log.exists() else ""

    # -- the server ------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """A `fleetnet` command for this fleet."""
        return [sys.executable, "-m", "fleetnet_server.cli.main", "-C", str(self.folder), *arguments]

    def environment(self) -> dict[str, str]:
        """Settings by environment; what the tests themselves listen to is left out."""
        settings = self._settings
        kept = {k: v for k, v in device_environment().items() if not k.startswith("FLEETNET_")}
        server = str(Path(fleetnet_server.__file__ or "").parent.parent)
        return kept | {
            "PYTHONPATH": os.pathsep.join((server, kept["PYTHONPATH"])),
            "FLEETNET_BIND": settings.bind,
            "FLEETNET_TLS_PORT": str(settings.tls_port),
            "FLEETNET_DTLS_PORT": str(settings.dtls_port),
            "FLEETNET_KEEPALIVE_S": str(settings.keepalive_s),
        }

    async def start_server(self, loud: bool = False) -> None:
        """Start it and wait until it accepts devices."""
        with self._log.open("ab") as log:
            self._server = await asyncio.create_subprocess_exec(
                *self.command("serve", "--json", *([] if loud else ["--quiet"])),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        self.starts += 1
        assert self._server.stdout is not None
        line = await asyncio.wait_for(self._server.stdout.readline(), PATIENCE_S)
        assert line, f"the server did not start: {self.log()}"
        assert json.loads(line)["tls_port"] == self.tls[1]

    async def kill_server(self) -> None:
        """SIGKILL to the server's process."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGKILL)
        assert await self._server.wait() == -signal.SIGKILL, self.log()

    async def terminate_server(self, timeout_s: float = 20.0) -> float:
        """SIGTERM; return the seconds it took to end, which must be with exit code 0."""
        assert self._server is not None
        began = time.monotonic()
        os.kill(self._server.pid, signal.SIGTERM)
        code = await asyncio.wait_for(self._server.wait(), timeout_s)
        assert code == 0, self.log()
        return time.monotonic() - began

    # -- devices ---------------------------------------------------------------------

    def add_device(self, name: str, transport: str, via: Address | None = None) -> Path:
        """Register a device; its bundle leads to ``via`` (a proxy) or to the server."""
        with SqliteStore(self.store) as store:
            bundle = add_device(self.folder, self._settings, store, name, transport)
        path = bundle / "config.json"
        config = json.loads(path.read_text())
        host, number = via or (self.tls if transport == "tls" else self.dtls)
        config.update(host=host, tls_port=number, dtls_port=number, server_hostname="localhost")
        path.write_text(json.dumps(config))
        return bundle

    async def start_device(
        self,
        name: str,
        transport: str,
        runtime: Interpreter | None,
        seconds: int = 600,
        rate: int = 10,
        via: Address | None = None,
    ) -> DeviceProcess:
        """Start a device program, and register the device when it is new.

        It sends 2 * ``rate`` readings a second until ``seconds`` are over or finish() is called.
        """
        bundle = self.folder / "devices" / name
        if not bundle.exists():
            self.add_device(name, transport, via)
        command = device_command(
            runtime.path if runtime else None, str(bundle), str(seconds), str(rate)
        )
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=device_environment(),
            start_new_session=True,
        )
        device = DeviceProcess(name, process)
        self.devices.append(device)
        return device

    async def until_online(self) -> None:
        """Wait until every device has been acknowledged something."""
        await asyncio.gather(*(device.until_acknowledged(1) for device in self.devices))

    async def finish(self) -> list[Account]:
        """Let all devices end cleanly; return their accounts."""
        await asyncio.gather(*(device.finish() for device in self.devices))
        return [device.account() for device in self.devices]

    async def close(self) -> None:
        """End whatever still runs."""
        for device in self.devices:
            await device.kill()
        if self._server is not None and self._server.returncode is None:
            self._server.kill()
            await self._server.wait()


# -- what the store must hold ----------------------------------------------------------


def faults_of(store: Path, accounts: list[Account]) -> list[str]:
    """Compare a store with what devices say, one run of a device program each; [] is good.

    Nothing lost: sent = acknowledged = stored. Nothing twice: each key (epoch, stream, seq)
    once, each count once. Order: counts and seq ascend by time, and seq ascends by commit.
    """
    faults = []
    found = defaultdict(list)
    for reading in query(store):
        found[reading.device].append(reading)
    for name, sent, acknowledged, dropped in accounts:
        readings = found[name]
        counting = [reading for reading in readings if reading.channel == "count"]
        counts = [reading.value for reading in counting]
        numbers = [reading.seq for reading in counting]
        if not 0 < sent == acknowledged == len(readings) or dropped:
            faults.append(
                f"{name}: {sent} sent, {acknowledged} acknowledged, {len(readings)} stored, "
                f"{dropped} dropped"
            )
        lost = sorted(set(range(sent // 2)) - set(counts))
        doubled = [value for value, times in Counter(counts).items() if times > 1]
        if lost:
            faults.append(f"{name}: counts {lost[:5]} are lost, {len(lost)} in all")
        if doubled:
            faults.append(f"{name}: counts {doubled[:5]} are there twice, {len(doubled)} in all")
        if counts != sorted(counts) or numbers != sorted(numbers):
            faults.append(f"{name}: counts are out of order")
    return faults + faults_of_keys(store)


def faults_of_keys(store: Path) -> list[str]:
    """The messages by themselves: no key twice, and in order of commit for each stream."""
    faults = []
    last: dict[tuple[int, int], int] = {}
    connection = schema.open_readable(store)
    try:
        for epoch, stream, seq in connection.execute(
            "SELECT epoch, stream, seq FROM messages ORDER BY id"
        ):
            if seq <= last.get((epoch, stream), 0):
                faults.append(f"epoch {epoch}, stream {stream}: {seq} is doubled or out of order")
            last[epoch, stream] = seq
        for (gaps,) in connection.execute("SELECT count(*) FROM gaps"):
            if gaps:
                faults.append(f"{gaps} gaps were noted: a device gave messages up")
    finally:
        connection.close()
    return faults


def longest_silence_s(store: Path) -> dict[str, float]:
    """The longest time between two arrivals of each device's messages, in seconds."""
    longest: dict[str, float] = {}
    before: dict[str, int] = {}
    connection = schema.open_readable(store)
    try:
        for name, received in connection.execute(
            "SELECT d.name, m.received FROM messages AS m JOIN devices AS d ON d.id = m.device"
            " ORDER BY m.received"
        ):
            silence = (received - before.get(name, received)) / 1000
            longest[name] = max(longest.get(name, 0.0), silence)
            before[name] = received
    finally:
        connection.close()
    return longest
