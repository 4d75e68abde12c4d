"""`fleetnet sim`: many simulated devices against a server of this fleet."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetnet_server.cli.device import add_device
from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.store.sqlite import SqliteStore

_PATIENCE_S = 60


class Load:
    """``devices`` devices in ``processes`` processes; ``sums`` is what they said last."""

    def __init__(self, folder: Path, settings: Settings, devices: int, processes: int):
        self._folder = folder
        self._settings = settings
        self._count = devices
        self._processes = min(processes, devices)
        self._parts: list[dict[str, Any]] = [{} for _ in range(self._processes)]
        self._running: list[asyncio.subprocess.Process] = []

    def make_bundles(self, transport: str, on_made: Callable[[int], None]) -> list[Path]:
        """Register sim-0001 and so on, as far as they are missing; return all bundles.

        ``transport``: "tls", "dtls", or "mixed" for every second one.
        """
        bundles = []
        with SqliteStore(self._settings.store_path(self._folder)) as store:
            for index in range(self._count):
                link = ("tls", "dtls")[index % 2] if transport == "mixed" else transport
                name = f"sim-{link}-{index + 1:04d}"
                bundle = self._folder / "devices" / name
                if store.lookup(name) is None:
                    bundle = add_device(self._folder, self._settings, store, name, link)
                elif not bundle.is_dir():
                    raise ConfigError(f"{bundle} is missing, but {name} is registered")
                bundles.append(bundle)
                on_made(index + 1)
        return bundles

    async def run(
        self, bundles: list[Path], seconds: int, rate: float, on_change: Callable[[], None]
    ) -> dict[str, Any]:
        """Run to the end and return the sums."""
        groups = [bundles[index :: self._processes] for index in range(self._processes)]
        await asyncio.gather(
            *(self._run_part(i, group, seconds, rate, on_change) for i, group in enumerate(groups))
        )
        return self.sums()

    def stop(self) -> None:
        """Let every device finish early, cleanly."""
        for process in self._running:
            if process.stdin is not None:
                process.stdin.close()

    def sums(self) -> dict[str, Any]:
        """Return the sums over all processes."""
        total: dict[str, Any] = {"done": all(part.get("done") for part in self._parts)}
        for key in ("devices", "online", "sent", "acknowledged", "dropped", "connects"):
            total[key] = sum(part.get(key, 0) for part in self._parts)
        total["errors"] = sorted({name for part in self._parts for name in part.get("errors", [])})
        return total

    async def _run_part(
        self,
        index: int,
        bundles: list[Path],
        seconds: int,
        rate: float,
        on_change: Callable[[], None],
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleetnet_server.sim.worker", str(seconds), str(rate),
            *map(str, bundles),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._running.append(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds + _PATIENCE_S):
                while line := await process.stdout.readline():
                    self._parts[index] = json.loads(line)
                    on_change()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
