"""A fleet of real processes for tests: `fleetnet serve`, and device programs that talk to it.

    async with Fleet(tmp_path / "fleet") as fleet:
        device = await fleet.start_device("cam-1", "dtls", runtime)
        await fleet.kill_server()           # SIGKILL, then start_server() again: same ports
        await device.finish()
        assert faults_of(fleet.store, [device.account()]) == []

Waiting is polling for a condition under a deadline (``until``); no test sleeps to be right.
"""

import asyncio
import glob
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Self

import fleetnet_server
import forked
from bad_network import Address
from end_to_end.device_process import PATIENCE_S, DeviceProcess
from end_to_end.store_check import Account
from fleetnet_server.config import Settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.sim.interpreters import device_command, device_environment
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import Interpreter, interpreters

# Set by coverage (proof/own_coverage.py); a process that is killed writes down nothing.
MEASURED = "COVERAGE_PROCESS_CONFIG"


def runtimes() -> list[Interpreter | None]:
    """The oldest and the newest MicroPython, and None for this CPython."""
    found = list(interpreters())
    return [*found[:1], *found[1:][-1:], None]


def name_of(runtime: Interpreter | None) -> str:
    """A device name that tells who runs it."""
    return "cpython" if runtime is None else runtime.name.replace(".", "-")


def faked_clock(clock: str) -> dict[str, str]:
    """The environment in which a program believes that it is ``clock``."""
    return {
        "LD_PRELOAD": glob.glob("/usr/lib/*/faketime/libfaketime.so.1")[0],
        "FAKETIME": clock,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


# Descriptors that say which ports are given away. The oldest are closed: no test has so many.
_given: deque[int] = deque()
_MOST_GIVEN = 100


def free_port() -> int:
    """A port free for TCP and UDP, below those that the kernel hands to outgoing connections:
    a device that calls a dead server there could otherwise be answered by itself.

    It is given once, also when other processes ask before its server listens: whoever has it has
    a Unix socket of that name.
    """
    dice = random.Random(os.urandom(8))
    while True:
        number = dice.randrange(15_000, 32_000)
        try:
            with (
                socket.create_server(("127.0.0.1", number)),
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mark,
            ):
                udp.bind(("127.0.0.1", number))
                mark.bind(f"\0port-of-a-test-of-fleetnet-{number}")
                _given.append(mark.detach())
        except OSError:
            continue
        if len(_given) > _MOST_GIVEN:
            os.close(_given.popleft())
        return number


class Fleet:
    """A fleet folder, its server and its devices, all on the loopback interface.

    Attributes:
        tls, dtls: the server's addresses; they stay the same when it is started again.
        starts: how often the server was started.
        modules: what its server imports, beside what every command does.
    """

    modules: tuple[str, ...] = ()

    def __init__(self, folder: Path, commit_interval_ms: float = 20.0):
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
            commit_interval_ms=commit_interval_ms,
        )
        self._server: forked.Process | asyncio.subprocess.Process | None = None
        self._log = folder.with_suffix(".log")
        create_fleet(folder, ("localhost",))

    @property
    def store(self) -> Path:
        return self._settings.store_path(self.folder)

    def log(self) -> str:
        """What the server wrote to standard error, all starts together."""
        return self._log.read_text() if self._log.exists() else ""

    # -- the server ------------------------------------------------------------------

    def arguments(self, *arguments: str) -> list[str]:
        """Those of a `fleetnet` command for this fleet."""
        return ["-C", str(self.folder), *arguments]

    def command(self, *arguments: str) -> list[str]:
        """A whole `fleetnet` command for this fleet."""
        return [*forked.COMMAND, *self.arguments(*arguments)]

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `fleetnet` command beside the server."""
        return await asyncio.to_thread(
            forked.run, self.arguments(*arguments), self.environment()
        )

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
            "FLEETNET_COMMIT_INTERVAL_MS": str(settings.commit_interval_ms),
        }

    async def start_server(self, program: Path | None = None) -> None:
        """Start it, or ``program`` in its place, and wait until it accepts devices."""
        command = self.command("serve", "--json", "--quiet")
        if program is not None:
            command[1:3] = [str(program)]
        with self._log.open("ab") as log:
            if command[:3] == forked.COMMAND:
                self._server = await forked.start(
                    command[3:], self.environment(), log, self.modules
                )
            else:
                self._server = await asyncio.create_subprocess_exec(
                    *command,
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

    async def terminate_server(self, timeout_s: float = 30.0) -> float:
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
            return self.make_bundle(store, name, transport, via)

    def make_bundle(
        self, store: SqliteStore, name: str, transport: str, via: Address | None = None
    ) -> Path:
        """Register a device in a store that is open; see add_device."""
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
        options: dict[str, object] | None = None,
        clock: str = "",
    ) -> DeviceProcess:
        """Start a device program, and register the device when it is new.

        ``options``: more arguments of Device. ``clock``: what libfaketime shall tell it.
        It sends 2 * ``rate`` readings a second until ``seconds`` are over or finish() is called.
        """
        bundle = self.folder / "devices" / name
        if not bundle.exists():
            self.add_device(name, transport, via)
        command = device_command(
            runtime.path if runtime else None,
            str(bundle),
            str(seconds),
            str(rate),
            json.dumps(options or {}),
        )
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=device_environment() | (faked_clock(clock) if clock else {}),
            start_new_session=True,
        )
        device = DeviceProcess(name, process)
        self.devices.append(device)
        return device

    def counters(self, key: str) -> dict[str, int]:
        """One number of every device by its name."""
        return {device.name: device.counter(key) for device in self.devices}

    def gains(self, key: str, before: dict[str, int]) -> list[int]:
        """By how much it has grown since counters() gave ``before``."""
        return [device.counter(key) - before[device.name] for device in self.devices]

    def story(self) -> str:
        """All devices' last lines, for a failed assertion."""
        return "".join(device.story() for device in self.devices)

    async def until_online(self) -> None:
        """Wait until every device has been acknowledged something."""
        await asyncio.gather(*(device.until_acknowledged(1) for device in self.devices))

    async def finish(self) -> list[Account]:
        """Let all devices end cleanly; return their accounts."""
        await asyncio.gather(*(device.finish() for device in self.devices))
        return [device.account() for device in self.devices]

    async def __aenter__(self) -> Self:
        """Start the server."""
        try:
            await self.start_server()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """End everything; a stack trace in the server's log fails the test."""
        await self.close()
        if kind is None:
            assert "Traceback" not in self.log(), self.log()

    async def close(self) -> None:
        """End whatever still runs."""
        for device in self.devices:
            await device.kill()
        if self._server is not None and self._server.returncode is None:
            if MEASURED in os.environ:
                with suppress(AssertionError, TimeoutError):
                    await self.terminate_server()
            if self._server.returncode is None:
                self._server.kill()
                await self._server.wait()
