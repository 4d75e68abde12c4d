"""Real MicroPython processes among the simulated devices: device_main.py with each."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fleetnet_server.errors import ConfigError
from fleetnet_server.sim.interpreters import (
    PLACES,
    device_command,
    device_environment,
    micropythons,
)
from fleetnet_server.sim.wire import Address
from fleetnet_server.store.query import query
from fleetnet_server.store_place import StorePlace

_PATIENCE_S = 60.0


def find_interpreters() -> list[tuple[str, str]]:
    """Return (command, version) of each MicroPython here. Raises ConfigError: there is none."""
    found = micropythons()
    if not found:
        raise ConfigError(
            f"no MicroPython 1.25 or newer {PLACES}: name one in FLEETNET_MICROPYTHON, or leave "
            "--micropython out"
        )
    return found


class Boards:
    """A process of MicroPython for each bundle.

    They send two readings at each tick, steadily, over TLS and DTLS in turn.

    Args:
        found: (command, version) of each MicroPython, see ``find_interpreters``.
    """

    def __init__(
        self, bundles: list[dict[str, Any]], address: Address, found: list[tuple[str, str]]
    ):
        self._found = found
        self._is_stopping = False
        self._bundles = bundles
        self._address = address
        self._place = tempfile.TemporaryDirectory(prefix="fleetnet-sim-")
        self._processes: list[asyncio.subprocess.Process] = []
        self.reports: dict[str, dict[str, Any]] = {}

    async def run(self, seconds: float, rate: float) -> None:
        """Run all to their end."""
        with self._place as place:
            await asyncio.gather(
                *(
                    self._run_board(index, bundle, Path(place), seconds, rate)
                    for index, bundle in enumerate(self._bundles)
                )
            )

    def stop(self) -> None:
        """Let them finish early, cleanly; who has not begun finishes when it begins."""
        self._is_stopping = True
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()

    def summary(self, store: StorePlace | None, since_ms: int) -> dict[str, Any] | None:
        """Return counts of all of them; ``stored`` is None without a store to compare with."""
        if not self._bundles:
            return None
        total: dict[str, Any] = {"devices": len(self._bundles)}
        for key in ("sent", "acknowledged", "dropped", "connects"):
            total[key] = sum(int(report.get(key, 0)) for report in self.reports.values())
        total["done"] = sum(bool(report.get("done")) for report in self.reports.values())
        total["stored"] = None
        if store is not None:
            total["stored"] = sum(
                1 for name in self.reports for _ in query(store, name, start_ms=since_ms)
            )
        return total

    async def _run_board(
        self, index: int, bundle: dict[str, Any], place: Path, seconds: float, rate: float
    ) -> None:
        name = str(bundle["name"])
        self.reports[name] = {}
        folder = write_folder(bundle, place / name, self._address, ("tls", "dtls")[index % 2])
        interpreter, _version = self._found[index % len(self._found)]
        command = device_command(
            interpreter, str(folder), str(max(1, round(seconds))), str(max(1, round(rate)))
        )
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=device_environment(), start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        if self._is_stopping and process.stdin is not None:
            process.stdin.close()
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds + _PATIENCE_S):
                while line := await process.stdout.readline():
                    if line.startswith(b"{"):
                        self.reports[name] = json.loads(line)
                    else:
                        sys.stderr.write(f"{name}: {line.decode(errors='replace')}")
                await process.wait()
        except TimeoutError:
            self.reports[name]["error"] = "did not end in time"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def write_folder(bundle: dict[str, Any], folder: Path, address: Address, transport: str) -> Path:
    """Write a bundle as `fleetnet device add` would have made it, for one device."""
    folder.mkdir(mode=0o700)
    config = {key: value for key, value in bundle.items() if key not in ("ca", "cert", "key")}
    config.update(address._asdict(), transport=transport)
    (folder / "config.json").write_text(json.dumps(config))
    for key in ("ca", "cert", "key"):
        (folder / f"{key}.der").write_bytes(bundle[key])
    return folder
