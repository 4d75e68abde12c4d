"""A server of our own under load, for some seconds each: handshakes, idle sessions, readings.

Every figure is of the server's CPU time, so that the load may run on the same cores. What the
load takes from the caches, and what a second thread on a core takes from it, is in the figures.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.bench import machine
from fleetnet_server.bench.errors import BenchError
from fleetnet_server.bench.worker import Job
from fleetnet_server.sim.server import OwnServer
from fleetnet_server.sim.usage import Usage

LINKS = ("tls", "dtls")

# What is made once is paid for by the first sessions, which are not counted.
WARM_SESSIONS, SESSIONS = 60, 240

# Of these send: enough for full commits, and each has room in its window.
_BATCHED = 20

# An allocator gives back late, and a server tidies up behind handshakes.
_SETTLE_S = 0.3

# Beyond the seconds of an order: draining what is under way, on a busy machine.
_PATIENCE_S = 90.0

# The gates of admission are not what is measured; the other listeners stay closed.
_SETTINGS = {
    "FLEETNET_HOST": "localhost",
    "FLEETNET_MAX_HANDSHAKES": "4096",
    "FLEETNET_SESSIONS_PER_S": "100000",
    "FLEETNET_ADDRESS_HANDSHAKES_PER_S": "100000",
    "FLEETNET_ADDRESS_HANDSHAKES_BURST": "1000000",
    "FLEETNET_DEVICE_SESSIONS_PER_S": "100000",
    "FLEETNET_DEVICE_SESSIONS_BURST": "1000000",
    "FLEETNET_ENROL_PORT": "0",
    "FLEETNET_WEB_PORT": "0",
}

Advance = Callable[[float, str], None]


class LinkFigures(NamedTuple):
    """What one transport costs the server.

    Attributes:
        handshakes_per_core_s: full, with both certificates, each connection closed again.
        session_bytes: memory of an idle session.
        readings_per_core_s: durable and acknowledged, each in a message of its own.
        batched_per_core_s: the same, 20 in a message.
        readings_per_s: of time as it passes, with the load beside it, each in a message.
    """

    handshakes_per_core_s: float
    session_bytes: float
    readings_per_core_s: float
    batched_per_core_s: float
    readings_per_s: float


class Bench:
    """Measures one transport after the other.

    Args:
        folder: a fleet of the bench alone. bundles: its devices' file, at least
            WARM_SESSIONS + SESSIONS of them.
        seconds: of the whole run, about.
        advance: is told (share done, what is under way).

    Attributes:
        others: how many cores were busy with what is not the bench, in the mean.
    """

    def __init__(self, folder: Path, bundles: Path, seconds: float, advance: Advance):
        self._bundles = bundles
        # Two links with three spans each; a third of the time goes where nothing is counted.
        self._span_s = seconds / 9
        self._advance = advance
        self._server = OwnServer(folder, _SETTINGS)
        # One core is the server's; more processes than a few would only stand in line.
        self._processes = max(1, min(4, machine.cores() - 1))
        self._done = 0
        self.others = 0.0

    async def run(self) -> dict[str, LinkFigures]:
        """Return the figures by transport. Raises BenchError, ConfigError."""
        began, busy, own = time.monotonic(), machine.busy_s(), _own_s()
        found = {}
        for link in LINKS:
            # A server of its own for each: what one has left in memory is not the other's.
            try:
                await self._server.start()
                found[link] = await self._measure(link)
                await self._server.stop()
            finally:
                # After Ctrl-C nothing of it is of use; one that has ended is left alone.
                await self._server.kill()
        others_s = machine.busy_s() - busy - (_own_s() - own)
        self.others = max(0.0, others_s) / (time.monotonic() - began)
        return found

    async def _measure(self, link: str) -> LinkFigures:
        port = self._server.ready[f"{link}_port"]
        parts = range(self._processes)
        loads: list[_Load] = []
        try:
            for part in parts:
                job = Job(str(self._bundles), link, port, part, self._processes)
                loads.append(await _Load.start(job))
            handshakes, cpu_s, _wall = await self._order(
                loads, f"{link}: handshakes", {"do": "handshakes", "seconds": self._span_s}
            )
            per_session = await self._memory(loads, link)
            single, single_s, wall_s = await self._order(
                loads, f"{link}: readings", {"do": "send", "seconds": self._span_s, "readings": 1}
            )
            batched, batched_s, _wall = await self._order(
                loads, f"{link}: readings, {_BATCHED} a message",
                {"do": "send", "seconds": self._span_s, "readings": _BATCHED},
            )  # fmt: skip
        finally:
            for load in loads:
                await load.end()
        return LinkFigures(
            handshakes / cpu_s, per_session, single / single_s, _BATCHED * batched / batched_s,
            single / wall_s,
        )  # fmt: skip

    async def _memory(self, loads: list["_Load"], link: str) -> float:
        """Open idle sessions; return the bytes that one takes."""
        sizes = []
        opened = []
        for count in (WARM_SESSIONS, SESSIONS):
            each = -(-count // len(loads))
            await self._order(loads, f"{link}: sessions", {"do": "open", "count": each})
            opened.append(each * len(loads))
            sizes.append(self._used().rss_bytes)
        return max(0, sizes[1] - sizes[0]) / opened[1]

    async def _order(
        self, loads: list["_Load"], text: str, order: dict[str, Any]
    ) -> tuple[int, float, float]:
        """Give all the same order; return (sum of what they did, server's CPU s, wall s)."""
        self._advance(self._done / (5 * len(LINKS)), text)
        self._done += 1
        before, began = self._used(), time.monotonic()
        answers = await asyncio.gather(*(load.order(order) for load in loads))
        wall_s = time.monotonic() - began
        await asyncio.sleep(_SETTLE_S)
        cpu_s = self._used().cpu_s - before.cpu_s
        keys = ("handshakes", "messages", "open")
        total = sum(answer.get(key, 0) for answer in answers for key in keys)
        # proc(5) counts in ticks of 10 ms.
        return total, max(cpu_s, 0.01), wall_s

    def _used(self) -> Usage:
        found = self._server.usage()
        if found is None:
            raise BenchError("the bench's server ended by itself: its error is above")
        return found


class _Load:
    """One process of devices."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    @classmethod
    async def start(cls, job: Job) -> "_Load":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleetnet_server.bench.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(job.to_line())
        return cls(process)

    async def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return the answer. Raises BenchError: it failed, or gave none."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        patience_s = order.get("seconds", 0.0) + _PATIENCE_S
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), patience_s)
        except TimeoutError:
            raise BenchError(
                f"the load gave no answer within {patience_s:.0f} s: this machine is too busy "
                "to be measured"
            ) from None
        if not line:
            raise BenchError("a process of the load ended by itself: its error is above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"the load failed: {answer['error']}")
        return answer

    async def end(self) -> None:
        """End its sessions, and it; by force when that takes too long."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _own_s() -> float:
    """Return the CPU seconds of this process, and of its children that have ended."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
