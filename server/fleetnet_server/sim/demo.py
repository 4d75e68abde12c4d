"""`fleetnet demo`: a back-end, real devices, and the proof that the numbers agree.

The server runs as `fleetnet serve` does, in a process of its own; each device is a
process that runs device_main.py. At the end three counts are compared for each device:
what its program sent, what it saw acknowledged, and what the store holds.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetnet_server.config import load_settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.errors import ConfigError
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.sim.interpreters import (
    PLACES,
    device_command,
    device_environment,
    micropythons,
)
from fleetnet_server.sim.server import OwnServer
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.query import query

# How many seconds of the demo a device needs at most to flush and say good-bye.
_PATIENCE_S = 45


@dataclass
class DeviceRun:
    """One device of the demo and what it last said of itself."""

    name: str
    transport: str
    firmware: str
    command: list[str]
    report: dict[str, Any] = field(default_factory=dict)
    stored: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def sent(self) -> int:
        return int(self.report.get("sent", 0))

    @property
    def acknowledged(self) -> int:
        return int(self.report.get("acknowledged", 0))

    @property
    def agrees(self) -> bool:
        """Every reading sent was acknowledged and is stored exactly once."""
        done = bool(self.report.get("done"))
        return done and self.sent > 0 and self.sent == self.acknowledged == self.stored


class Demo:
    """One run. ``devices`` may be looked at while it goes on."""

    def __init__(self, seconds: int, rate: int, per_transport: int, folder: Path | None):
        self.seconds = seconds
        self.rate = rate
        self.per_transport = per_transport
        self._given_folder = folder
        self.folder = Path()
        self.ports = ""
        self.devices: list[DeviceRun] = []
        self._server: OwnServer | None = None

    async def run(self, on_change: Callable[[], None]) -> bool:
        """Run to the end; True when every device's numbers agree.

        Raises:
            ConfigError: no MicroPython, or the server did not start.
        """
        found = micropythons()
        if not found:
            raise ConfigError(
                f"no MicroPython 1.25 or newer {PLACES}: `make demo` fetches one, or name one "
                "in FLEETNET_MICROPYTHON"
            )
        parent = self._given_folder or Path(tempfile.mkdtemp(prefix="fleetnet-demo-"))
        self.folder = self._given_folder or parent / "fleet"
        try:
            create_fleet(self.folder, ("localhost",))
            self._server = server = OwnServer(self.folder)
            await server.start()
            self.ports = f"TLS {server.ready['tls_port']}, DTLS {server.ready['dtls_port']}"
            self._make_devices(found, server.ready)
            tasks = [asyncio.create_task(self._run_device(d, on_change)) for d in self.devices]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
            await server.stop()
            self._count()
        finally:
            await self._end()
        return bool(self.devices) and all(device.agrees for device in self.devices)

    def stop(self) -> None:
        """Let the devices finish what they have: their standard input is closed."""
        for device in self.devices:
            if device.process is not None and device.process.stdin is not None:
                device.process.stdin.close()

    def _make_devices(self, found: list[tuple[str, str]], ports: dict[str, Any]) -> None:
        settings = load_settings(self.folder).model_copy(
            update={key: ports[key] for key in ("tls_port", "dtls_port")}
        )
        with open_store(settings.store_place(self.folder)) as store:
            for index in range(2 * self.per_transport):
                transport = "tls" if index < self.per_transport else "dtls"
                interpreter, version = found[index % len(found)]
                name = f"cam-{index + 1:02d}"
                bundle = add_device(self.folder, settings, store, name, transport)
                command = device_command(
                    interpreter, str(bundle), str(self.seconds), str(self.rate)
                )
                self.devices.append(DeviceRun(name, transport, f"MicroPython {version}", command))

    async def _run_device(self, device: DeviceRun, on_change: Callable[[], None]) -> None:
        process = await asyncio.create_subprocess_exec(
            *device.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=device_environment(),
            start_new_session=True,
        )
        device.process = process
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self.seconds + _PATIENCE_S):
                while line := await process.stdout.readline():
                    if line.startswith(b"{"):
                        device.report = json.loads(line)
                        on_change()
                    else:
                        sys.stderr.write(f"{device.name}: {line.decode(errors='replace')}")
                await process.wait()
        except TimeoutError:
            device.report["error"] = "did not end in time"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _count(self) -> None:
        by_name = {device.name: device for device in self.devices}
        for reading in query(load_settings(self.folder).store_place(self.folder)):
            by_name[reading.device].stored += 1

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.kill()
        if self._given_folder is None:
            shutil.rmtree(self.folder.parent, ignore_errors=True)
