"""The processes of `fleetnet sim`, and the sums of what they say."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetnet_server.errors import ConfigError
from fleetnet_server.sim.histogram import Histogram
from fleetnet_server.sim.plan import Plan
from fleetnet_server.sim.unit import FLUSH_S
from fleetnet_server.sim.usage import Usage, allow_files, usage
from fleetnet_server.sim.wire import Address
from fleetnet_server.sim.worker import Job

# Beyond ramp, time and flush: starting Python, saying good-bye.
_PATIENCE_S = 60.0

# One line of a process: the accounts of 20,000 devices are 2 MB.
_LINE_BYTES = 16 << 20

# A device behind a wire has its own socket, the wire's two fronts, and two towards the server
# while one is replaced.
_FILES, _WIRE_FILES = 1, 6

COUNTERS = (
    "devices", "online", "sent", "acknowledged", "dropped", "connects", "attempts", "erased",
    "frames", "reboots", "losses", "cuts", "moves", "hit", "storm_attempts", "storm_unheard",
    "cpu_s", "cpu_before", "rss", "rss_before",
)  # fmt: skip
HISTOGRAMS = ("connect", "latency", "back")


def _by_second(part: dict[str, Any]) -> Counter[int]:
    return Counter({int(second): many for second, many in part.get("back_at", {}).items()})


class Load:
    """``devices`` devices in ``processes`` processes.

    Args:
        limit_s: for the whole run, whatever the devices do; they are ended then.

    Raises:
        ConfigError: a process would need more open files than it may have.
    """

    def __init__(self, plan: Plan, devices: int, processes: int, has_wires: bool, limit_s: float):
        self.plan = plan
        self.devices = devices
        self.processes = min(processes, devices)
        self.limit_s = limit_s + FLUSH_S + _PATIENCE_S
        each = -(-devices // self.processes)
        allow_files(
            each * (_WIRE_FILES if has_wires else _FILES),
            f"a process of {each} devices",
            "use more --processes",
        )
        self._parts: list[dict[str, Any]] = [{} for _ in range(self.processes)]
        self._running: list[asyncio.subprocess.Process] = []
        self._is_stopping = False
        # Set when the devices of every process have begun.
        self.begun = asyncio.Event()

    async def run(self, bundles: Path, address: Address, on_change: Callable[[], None]) -> None:
        """Run to the end.

        Raises:
            ConfigError: a process failed; its error is on standard error.
        """
        parts = [
            Job(self.plan, str(bundles), self.devices, part, self.processes, address)
            for part in range(self.processes)
        ]
        async with asyncio.TaskGroup() as group:
            for job in parts:
                group.create_task(self._run_part(job, on_change))

    def say(self, word: str) -> None:
        """Tell every process: "storm", "power" or "finish"."""
        for process in self._running:
            if process.stdin is not None and not process.stdin.is_closing():
                process.stdin.write(word.encode() + b"\n")

    def stop(self) -> None:
        """Let every device finish early, cleanly; also those whose process is yet to begin."""
        self._is_stopping = True
        self.say("finish")

    def sums(self) -> dict[str, Any]:
        """Return the sums over all processes; histograms are Histogram objects."""
        total: dict[str, Any] = {"done": all(part.get("done") for part in self._parts)}
        for key in COUNTERS:
            total[key] = sum(part.get(key, 0) for part in self._parts)
        for key in HISTOGRAMS:
            total[key] = Histogram()
            for part in self._parts:
                total[key].merge(Histogram.from_json(part.get(key, {})))
        total["back_at"] = sum((_by_second(part) for part in self._parts), Counter())
        total["errors"] = sorted({name for part in self._parts for name in part.get("errors", [])})
        return total

    def usage(self) -> Usage | None:
        """Return what the processes use at this moment; None when one of them has ended."""
        found = [usage(process.pid) for process in self._running]
        return Usage.sum(each for each in found if each) if all(found) else None

    def accounts(self) -> list[list[Any]]:
        """Return Unit.account() of every device; empty before the end."""
        return [account for part in self._parts for account in part.get("accounts", [])]

    async def _run_part(self, job: Job, on_change: Callable[[], None]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleetnet_server.sim.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=_LINE_BYTES,
        )  # fmt: skip
        self._running.append(process)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(job.to_line() + (b"finish\n" if self._is_stopping else b""))
        try:
            async with asyncio.timeout(self.limit_s):
                while line := await process.stdout.readline():
                    self._parts[job.part] = json.loads(line)
                    if all(self._parts):
                        self.begun.set()
                    on_change()
                await process.wait()
        except TimeoutError:
            raise ConfigError(
                f"the devices did not end within {self.limit_s:.0f} s: this machine is too slow "
                "for so many; use fewer --devices, a lower --rate or --ramp"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ConfigError(f"a process of devices failed ({process.returncode}): see above")
