"""One run of `fleetnet sim`: server, devices, storm, and what came of it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.served import is_served
from fleetnet_server.sim.boards import Boards, find_interpreters
from fleetnet_server.sim.bundles import read_bundles
from fleetnet_server.sim.comparing import Comparison, compare
from fleetnet_server.sim.load import Load
from fleetnet_server.sim.plan import DAY_S, Plan, schedule
from fleetnet_server.sim.server import OwnServer, find_address, meet
from fleetnet_server.sim.shapes import SHAPES
from fleetnet_server.sim.steady import LEAST_S, SETTLE_S, Steady
from fleetnet_server.sim.storm import Storm
from fleetnet_server.sim.usage import Usage, allow_files
from fleetnet_server.sim.wire import Address

# How often the server's memory is looked at.
_LOOK_S = 0.5

# So late at most the last device of the ramp may connect before a storm comes all the same.
_LATE_S = 20.0

# The past may take so much longer than it should at --scale, or than 1 ms a reading.
_HISTORY_SLACK = 3.0


@dataclass(frozen=True)
class Order:
    """What a user orders.

    Attributes:
        folder: the fleet's; None with ``address``, a server that is elsewhere.
        bundles: the devices' file, see bundles.py; it has to be there when the run begins.
        storm_at_s: seconds after all have started; None: no storm. storm: one of STORMS; a
            server that is elsewhere is not ours to stop, but its devices may lose power.
        micropython: how many devices run in a MicroPython of their own, beside ``devices``.
    """

    plan: Plan
    devices: int
    processes: int
    bundles: Path
    folder: Path | None
    settings: Settings | None
    address: Address | None = None
    storm_at_s: float | None = None
    storm: str = "restart"
    micropython: int = 0


class Simulation:
    """One run; ``load`` may be looked at while it goes on.

    Attributes:
        server: our own one, None for another's.
        began: monotonic seconds at the start of the first device.
        comparison: with the store; None for a server that is elsewhere.
        storm, steady: what they saw; see there.

    Raises:
        ConfigError: an open-file limit, no MicroPython, a storm that cannot be had.
    """

    def __init__(self, order: Order):
        self.order = order
        self.server: OwnServer | None = None
        self.began = 0.0
        self.seconds = 0.0
        self.comparison: Comparison | None = None
        self.server_peak: Usage | None = None
        self.server_idle: Usage | None = None
        self._since_ms = 0
        self.boards: Boards | None = None
        plan, devices = order.plan, order.devices
        has_wires = any(schedule(plan, index).needs_wire for index in range(min(devices, 64)))
        self.load = Load(plan, devices, order.processes, has_wires, self._limit_s())
        if order.folder is not None and not is_served(order.folder):
            # Each device over TLS is a file of the server's; the children inherit the limit.
            allow_files(
                devices + order.micropython, f"a server of {devices} devices", "use fewer --devices"
            )
            self.server = OwnServer(order.folder)
        self._interpreters = find_interpreters() if order.micropython else []
        self._is_stopping = False
        self.steady = Steady(self.load, self.server)
        self.storm = Storm(order.storm, self.load, self.server)
        if order.storm_at_s is not None and order.storm != "power" and self.server is None:
            raise ConfigError(
                f"--storm {order.storm} restarts the server, and this one is not the simulator's: "
                "stop it, so that the simulator starts its own, or take --storm power"
            )

    async def run(self, on_change: Callable[[], None]) -> None:
        """Run to the end. Raises ConfigError."""
        order = self.order
        helpers: list[asyncio.Task[None]] = []
        try:
            address = await self._find_server()
            if self.server is not None:
                self.server_idle = self.server.usage()
                helpers.append(asyncio.create_task(self._watch()))
            last = order.devices + order.micropython
            boards = islice(read_bundles(order.bundles), order.devices, last)
            self.boards = Boards(list(boards), address, self._interpreters)
            if self._is_stopping:
                self.boards.stop()
            self.began = time.monotonic()
            self._since_ms = time.time_ns() // 1_000_000
            helpers.append(asyncio.create_task(self._look_and_strike()))
            seconds = order.plan.ramp_s + order.plan.seconds
            async with asyncio.TaskGroup() as group:
                group.create_task(self.load.run(order.bundles, address, on_change))
                group.create_task(self.boards.run(seconds, order.plan.rate))
            self.seconds = time.monotonic() - self.began
            self._note_server()
        except BaseExceptionGroup as errors:
            raise _config_error(errors) or errors from None
        finally:
            for task in helpers:
                task.cancel()
            failed = await asyncio.gather(*helpers, return_exceptions=True)
            if self.server is not None:
                await self.server.stop()
            for error in failed:
                if isinstance(error, ConfigError):  # the server did not come back
                    raise error

    def stop(self) -> None:
        """End early, cleanly; what has not begun ends when it begins."""
        self._is_stopping = True
        self.load.stop()
        if self.boards is not None:
            self.boards.stop()

    def compare(self) -> None:
        """Compare what the devices say with the store, where it is here."""
        order = self.order
        if order.folder is not None and order.settings is not None:
            since_ms = order.plan.history_ms or self._since_ms
            store = order.settings.store_place(order.folder)
            self.comparison = compare(store, self.load.accounts(), since_ms)

    def board_summary(self) -> dict[str, Any] | None:
        """Return counts of the MicroPython processes; None without any."""
        order = self.order
        store = None
        if order.folder is not None and order.settings is not None:
            store = order.settings.store_place(order.folder)
        return self.boards.summary(store, self._since_ms) if self.boards is not None else None

    def _limit_s(self) -> float:
        plan = self.order.plan
        seconds = plan.seconds
        if plan.history_ms:
            readings = 2 * plan.days * DAY_S * plan.rate * self.order.devices
            paced = plan.days * DAY_S / plan.scale if plan.scale else 0.0
            seconds = _HISTORY_SLACK * max(paced, readings / 1000)
        return plan.ramp_s + seconds

    async def _find_server(self) -> Address:
        order, settings = self.order, self.order.settings
        if order.address is not None:
            if order.plan.transport != "dtls":
                await meet(order.address)
            return order.address
        assert settings is not None and order.folder is not None
        if self.server is None:
            return await find_address(order.folder, settings)
        await self.server.start()
        return Address("127.0.0.1", self.server.ready["tls_port"], self.server.ready["dtls_port"])

    async def _look_and_strike(self) -> None:
        """Watch the fleet once all of it is there, then let the storm come."""
        plan, storm_at_s = self.order.plan, self.order.storm_at_s
        await self.load.begun.wait()
        calm_s = plan.seconds if storm_at_s is None else storm_at_s
        over = time.monotonic() + plan.ramp_s + calm_s
        await asyncio.sleep(plan.ramp_s)
        await self._all_online()
        # Nobody may end before the last look.
        margin_s = LEAST_S if storm_at_s is None else 0.0
        left_s = over - time.monotonic() - SETTLE_S - margin_s
        if left_s >= LEAST_S and not plan.history_ms:
            await asyncio.sleep(SETTLE_S)
            await self.steady.watch(left_s)
        if storm_at_s is not None:
            await asyncio.sleep(max(0.0, over - time.monotonic()))
            await self.storm.strike()

    async def _all_online(self) -> None:
        """Wait for those whom a slow machine keeps; sleepers are never all there."""
        if any(SHAPES[name].sleeps for name in self.order.plan.shapes):
            return
        for _ in range(int(_LATE_S / _LOOK_S)):
            if self.load.sums()["online"] >= self.order.devices:
                return
            await asyncio.sleep(_LOOK_S)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._note_server()

    def _note_server(self) -> None:
        now = self.server.usage() if self.server is not None else None
        if now is None:
            return
        peak = self.server_peak.rss_bytes if self.server_peak is not None else 0
        self.server_peak = Usage(now.cpu_s, max(peak, now.rss_bytes))


def _config_error(group: BaseExceptionGroup) -> ConfigError | None:
    """Return the first error for people among those of tasks, and of their tasks."""
    for error in group.exceptions:
        found = _config_error(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, ConfigError):
            return found
    return None
