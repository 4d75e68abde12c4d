"""Devices of the real library in a process of their own: fleetnet_server.sim.worker, for rigs."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from end_to_end.device_process import until

_LONG_S = 100_000.0
# The same, with a device library that is wrong on purpose (broken.py).
_BROKEN = "import proof.broken; from fleetnet_server.sim.worker import run; run()"


class Load:
    """One process with many devices that send steadily.

    Attributes:
        sums: the newest line that it printed, see fleetnet_server/sim/worker.py.
    """

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.sums: dict[str, Any] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, environment: dict[str, str], bundles: Sequence[Path], rate: float,
        prefix: Sequence[str] = (), broken: str = "",
        program: Path | None = None,
    ) -> Self:  # fmt: skip
        """Start it; ``rate``: messages a second and device; ``prefix``: of the command.

        ``broken``: names of broken.py; ``program``: in the place of the simulator's worker.
        """
        worker = ["-c", _BROKEN] if broken else ["-m", "fleetnet_server.sim.worker"]
        if program is not None:
            worker = [str(program)]
        process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, *worker, str(_LONG_S), str(rate), *map(str, bundles),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=environment | {"PROOF_BREAK": broken}, limit=1 << 22,
        )  # fmt: skip
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.sums = json.loads(line)

    def sum(self, key: str) -> int:
        """One number over its devices."""
        return int(self.sums.get(key, 0))

    async def until_acknowledged(self, more: int, timeout_s: float = 60.0) -> float:
        """Wait for ``more`` readings than now; return the seconds. Raises AssertionError."""
        goal = self.sum("acknowledged") + more
        return await until(
            lambda: self.sum("acknowledged") >= goal, f"{goal} acknowledged", timeout_s,
            lambda: {key: self.sums.get(key) for key in ("online", "acknowledged", "errors")},
        )  # fmt: skip

    async def until_online(self, count: int, timeout_s: float = 60.0) -> float:
        """Wait until so many have a session."""
        return await until(
            lambda: self.sum("online") >= count, f"{count} are online", timeout_s,
            lambda: self.sums,
        )  # fmt: skip

    async def finish(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Let its devices send what they have, and end; return the last sums."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), timeout_s)
        await self._reader
        return self.sums

    async def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader
