"""One simulated device over the whole run: its traffic, its faults, its reboots, its account."""

import asyncio
import math
import random
import time
from typing import Any

from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.faults import FAULTS, Strike
from fleetnet_server.sim.meter import Meter
from fleetnet_server.sim.plan import DAY_S, Plan, Schedule, steps
from fleetnet_server.sim.shapes import SHAPES, Step
from fleetnet_server.sim.wire import Wire

# How long a device may take at the end, or before it sleeps, to have everything acknowledged.
FLUSH_S = 30.0
_SLEEP_FLUSH_S = 20.0

# Looking more often would be most of the work of thousands of devices.
_LOOK_S = 0.1

# The past is made as fast as receipts come: so many messages may be under way.
_HISTORY_MESSAGES = 32

# A message of the past spans no more than ten minutes, as one of a spool does.
_HISTORY_BATCH_S = 600.0

_COUNTERS = ("sent", "acknowledged", "dropped", "connects", "attempts")
_ERASED = "erased"


class Unit:
    """Runs one device from its start to its good-bye.

    Args:
        bundle: dict or folder. wire: the bad network before it, None: none.

    Attributes:
        device: the present incarnation; None before the start.
        first, next: numbers of its readings: first, and behind the last.
        erased: (from, to) of numbers that were in RAM when it lost power: the server may have
            them or not.
        reboots: how often that was.
    """

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        bundle: str | dict[str, Any],
        meter: Meter,
        wire: Wire | None = None,
    ):
        self.plan = plan
        self.schedule = schedule
        self.wire = wire
        self.device: SimDevice | None = None
        self.first = self.next = plan.base
        self.erased: list[tuple[int, int]] = []
        self.reboots = 0
        self._frames = 0
        self._bundle = bundle
        self._meter = meter
        self._shape = SHAPES[schedule.shape]
        self._before = dict.fromkeys((*_COUNTERS, _ERASED), 0)
        self._dice = random.Random(f"{plan.seed}/{schedule.number}/content")  # noqa: S311
        self._is_stopping = self._has_begun = False
        self._task: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        # Readings of one number: history has a curve beside the count.
        self._width = 2 if plan.history_ms else 1

    # -- what the process asks ---------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Return the counters over all incarnations: sent = acknowledged + dropped + erased,
        once nothing is under way."""
        device = self.device
        return {
            key: value + (getattr(device, key) if device is not None and key in _COUNTERS else 0)
            for key, value in self._before.items()
        }

    @property
    def is_online(self) -> bool:
        return self.device is not None and self.device.is_online

    @property
    def frames_now(self) -> int:
        """Frames that the server has on its disk."""
        part = self.device.loaded("blobs") if self.device is not None else None
        return self._frames + (int(part.stored) if part is not None else 0)

    def account(self) -> list[Any]:
        """Return [name, first, next, erased, dropped, waiting], to be compared with the store."""
        assert self.device is not None
        dropped = self.counters()["dropped"]
        waiting = math.ceil(self.device.unacknowledged / self._width)
        return [self.device.name, self.first, self.next, self.erased, dropped, waiting]

    def start(self) -> asyncio.Task[None]:
        """Begin; the task ends when the device has said good-bye."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    def finish(self) -> None:
        """Send no more; flush, and say good-bye."""
        if not self._is_stopping and self._task is not None:
            self._is_stopping = True
            if self._has_begun:  # else it sees for itself, and says good-bye all the same
                self._task.cancel()

    def reboot(self, clock_lost: bool = False) -> None:
        """Lose power and start anew; what RAM held is gone."""
        device = self.device
        if device is None or self._is_stopping:
            return
        lost = math.ceil(device.unacknowledged / self._width)
        if lost:
            self.erased.append((self.next - lost, self.next))
        for key in _COUNTERS:
            self._before[key] += getattr(device, key)
        self._before[_ERASED] += device.unacknowledged
        self._frames = self.frames_now
        self.reboots += 1
        was_started, was_hit = device.is_started, device.is_hit
        if self.wire is not None:
            self.wire.reset()
        device.cut_power()
        self._boot(clock_lost)
        self.device.is_hit = was_hit  # type: ignore[union-attr]
        if was_started:
            self._start_soon()

    # -- the run -------------------------------------------------------------------------

    async def _run(self) -> None:
        self._has_begun = True
        try:
            if not self._is_stopping:
                await self._live()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_stopping or task is None:
                raise
            task.uncancel()
        self._is_stopping = True
        for timer in self._timers:
            timer.cancel()
        if self.device is None:
            return
        if self.wire is not None:
            self.wire.loss = 0.0
            self.wire.heal()
        self.device.seal()
        if self.device.is_busy:
            await self.device.start()
            await self._drain(FLUSH_S)
        if self.device.is_started:
            await self.device.stop()
        if self.wire is not None:
            self.wire.close()

    async def _live(self) -> None:
        await asyncio.sleep(self.schedule.start_s)
        if self.wire is not None:
            await self.wire.open()
        device = self._boot()
        loop = asyncio.get_running_loop()
        for strike in self.schedule.strikes:
            self._timers.append(loop.call_later(strike.at_s, self._strike, strike))
        if self.plan.history_ms:
            await device.start()
            await self._make_history()
        else:
            await self._send_all()

    def _boot(self, clock_lost: bool = False) -> SimDevice:
        plan = self.plan
        options: dict[str, Any] = {"linger_ms": plan.linger_ms}
        if plan.history_ms:
            options["max_readings"] = max(2, min(64, int(_HISTORY_BATCH_S * plan.rate) * 2))
        bundle = self._bundle
        if self.wire is not None and isinstance(bundle, dict):
            bundle = {
                **bundle, "host": "127.0.0.1", "tls_port": self.wire.tls_port,
                "dtls_port": self.wire.dtls_port,
            }  # fmt: skip
        self.device = SimDevice(bundle, self._meter, clock_lost, plan.patient, **options)
        if self._shape.sends_frames:
            self.device.part("blobs")
        return self.device

    def _start_soon(self) -> None:
        assert self.device is not None
        # start() awaits nothing: its first step does all of it.
        coroutine = self.device.start()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("Device.start() waits")

    def _strike(self, strike: Strike) -> None:
        FAULTS[strike.fault].strike(self, strike)

    async def _send_all(self) -> None:
        """Follow the shape in the present."""
        began = time.monotonic()
        sleeps = self._shape.sleeps
        if not sleeps:
            await self._started().start()
        for step in steps(self.plan, self.schedule.number):
            left = began + step.at_s - time.monotonic()
            # Steps of one moment still give the loop to others.
            await asyncio.sleep(max(0.0, left))
            await self._started().start()
            await self._take(step)
            if sleeps:
                await self._drain(_SLEEP_FLUSH_S)
                await self._started().stop()
        left = began + self.schedule.seconds - time.monotonic()
        await asyncio.sleep(max(0.0, left))

    async def _take(self, step: Step) -> None:
        device = self._started()
        for _ in range(step.readings):
            await device.send("count", self.next)
            self.next += 1
        if step.frame_bytes:
            frame = b"\xff\xd8" + self._dice.randbytes(step.frame_bytes - 4) + b"\xff\xd9"
            device.spawn(_send_frame(device, frame))

    async def _make_history(self) -> None:
        """Send what happened since ``history_ms``, with the times at which it happened."""
        plan = self.plan
        began = time.monotonic()
        warmth = self._dice.uniform(15, 25)
        for step in steps(plan, self.schedule.number):
            if plan.scale:
                left = began + step.at_s / plan.scale - time.monotonic()
                if left > 0:
                    await asyncio.sleep(left)
            device = await self._with_room()
            time_ms = plan.history_ms + int(step.at_s * 1000)
            curve = 5 * math.sin(2 * math.pi * step.at_s / DAY_S)
            for number in range(step.readings):
                value = round(warmth + curve + self._dice.gauss(0, 0.2), 2)
                await device.send("temperature", value, time_ms + number)
                await device.send("count", self.next, time_ms + number)
                self.next += 1

    async def _with_room(self) -> SimDevice:
        """Return the device once it has room: a full outbox would give readings up."""
        device = self._started()
        while device.waiting >= _HISTORY_MESSAGES:
            await asyncio.sleep(0.02)
            device = self._started()
        return device

    async def _drain(self, seconds: float) -> None:
        """Wait until nothing is left to do, for whatever incarnation; ``seconds`` at most.

        A device that the server refuses is not waited for: it asks again in a minute.
        """
        deadline = time.monotonic() + seconds
        while True:
            device = self._started()
            device.seal()
            if not device.is_busy or device.is_unwanted or time.monotonic() > deadline:
                return
            await asyncio.sleep(_LOOK_S)

    def _started(self) -> SimDevice:
        assert self.device is not None
        return self.device


async def _send_frame(device: SimDevice, frame: bytes) -> None:
    await device.send_frame(frame)
