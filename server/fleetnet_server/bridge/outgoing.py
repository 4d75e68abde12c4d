"""Readings and alarms from the store to the broker: in order, none left out, some maybe twice.

    store --thread--> page of messages --loop--> MQTT messages --> broker
      ^                                                               |
      +------------ place, moved behind the answers <-----------------+

The place in the store moves when the broker has answered for everything before it. What was sent
and is not yet covered by the place is the window, at most ``window`` messages: that is what a
crash sends again. Nothing here is ever waited for by a device.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiomqtt
import msgspec
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from fleetnet_server.bridge.connection import LOST, REFUSED, Connection
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.bridge.payloads import TOO_OLD, UNREADABLE, Made, Maker, Publication
from fleetnet_server.bridge.ports import Outbox, Row
from fleetnet_server.bridge.settings import Mqtt
from fleetnet_server.errors import StoreUnavailable

_log = structlog.get_logger("fleetnet.mqtt")

# 16 MiB at worst, of bodies that are as large as they may be.
_PAGE_ROWS = 256
_POLL_S = 0.05
# The loop serves devices as well: so long at a time.
_SLICE_S = 0.002
# Each is one wait for the disk, on a thread.
_SAVE_S = 0.5
_SKIM_S = 60.0
# What the place says to compaction is good for `keep`; said again long before.
_LEASE_S = 3600.0
# Quota exceeded (section 3.4.2.1): the only refusal that time can heal.
_QUOTA = 0x97
# Fixed header, packet identifier, lengths: section 3.3.
_OVERHEAD = 16

Latest = Callable[[str, Mapping[str, msgspec.Raw]], None]


class _Row:
    """A message of the store on its way.

    Attributes:
        open: MQTT messages of it that are not answered. count: of it that were sent.
    """

    __slots__ = ("count", "id", "open")

    def __init__(self, number: int, count: int):
        self.id = number
        self.open = count
        self.count = 0


class Outgoing:
    """The way out for one bridge.

    Args:
        latest: hears of the newest values, as they are read.

    Attributes:
        place: number of the message up to which the broker has everything, as the store knows.
        behind: messages of the store that it lacks, about. looks: that found nothing new.
    """

    def __init__(
        self, outbox: Outbox, settings: Mqtt, counters: Counters, latest: Latest,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._outbox = outbox
        self._settings = settings
        self._counters = counters
        self._latest = latest
        self._clock_ms = clock_ms
        self._maker = Maker(settings, clock_ms)
        self._thread = ThreadPoolExecutor(1, "fleetnet-mqtt")
        self._keep_ms = round(1000 * settings.readings.keep_s)
        self._rows: deque[_Row] = deque()  # not answered yet
        self._answered: deque[_Row] = deque()  # answered, and not noted in the store yet
        self._done = 0  # everything up to here was answered
        self._counted = 0  # up to here it was counted what is dropped
        self._unsaved = 0  # MQTT messages behind the place
        self._sums = (0, 0)  # sent and dropped, as they are in the store
        self._news = asyncio.Event()  # the place can move
        self._pressed = asyncio.Event()  # it has to, soon
        self._connection: Connection | None = None
        self._refusal = 0
        self.place = 0
        self.behind = 0
        self.looks = 0

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read of the store was answered; see ``looks``."""
        return not self._rows

    async def start(self) -> None:
        """Find the place. Raises StoreUnavailable."""
        self.place, gone = await self._run(self._outbox.start, self._keep_ms)
        self._done = self._counted = self.place
        if gone:
            self._counters.drop("compacted while the bridge was off", gone)

    async def close(self) -> None:
        """Note the place for the last time."""
        try:
            await self._save()
        except StoreUnavailable as error:
            _log.error("place of the MQTT bridge not noted", reason=str(error))
        await self._run(self._outbox.close)
        self._thread.shutdown()

    async def channels(self) -> dict[str, list[str]]:
        """Return the channels that the store knows of. Raises StoreUnavailable."""
        return {key: list(value) for key, value in (await self._run(self._outbox.channels)).items()}

    # -- connected ---------------------------------------------------------------------

    async def run(self, connection: Connection) -> None:
        """Send until the connection ends.

        Raises:
            aiomqtt.MqttError: it did. StoreUnavailable.
        """
        self._rows.clear()
        self._refusal = 0
        self._unsaved = sum(row.count for row in self._answered)
        self._connection = connection
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(connection))
            group.create_task(self._keep_saving())

    async def _send(self, connection: Connection) -> None:
        position = self._done
        reading = self._read(position)
        try:
            while True:
                last, rows = await reading
                if last == position:
                    self.looks += 1
                    await connection.room(self._has_room)
                    await asyncio.sleep(_POLL_S)
                    reading = self._read(position)
                    continue
                position = last
                reading = self._read(position)
                await self._send_page(connection, last, rows)
        finally:
            # Its thread reads on; what it finds is read again.
            reading.cancel()

    async def _send_page(self, connection: Connection, last: int, rows: Sequence[Row]) -> None:
        began = time.perf_counter()
        for found in rows:
            made = self._make(found)
            if found.id > self._counted:
                self._counted = found.id
                if made.dropped:
                    self._counters.drop(made.dropped)
            row = _Row(found.id, len(made.publications))
            self._rows.append(row)
            for one in made.publications:
                await connection.room(self._has_room)
                self._submit(connection, row, one)
            if made.latest:
                self._latest(found.device, made.latest)
            if time.perf_counter() - began > _SLICE_S:
                await asyncio.sleep(0)
                began = time.perf_counter()
        # What became nothing is behind us, too.
        self._rows.append(_Row(last, 0))
        self._settle()

    def _make(self, row: Row) -> Made:
        try:
            return self._maker.make(row)
        except Exception as error:
            # Else one message that we cannot make would hold up all behind it, for ever.
            if row.id > self._counted:
                _log.error("no MQTT message made", device=row.device, seq=row.seq, exc_info=error)
            return Made([], UNREADABLE)

    def _has_room(self) -> bool:
        """Say whether the window is open. Raises aiomqtt.MqttError: the broker takes no more."""
        if self._refusal:
            raise aiomqtt.MqttError(f"the broker refuses messages: {_name(self._refusal)}")
        return self._unsaved < self._settings.broker.window

    def _submit(self, connection: Connection, row: _Row, one: Publication) -> None:
        size = len(one.topic) + len(one.payload) + len(one.properties.pack()) + _OVERHEAD
        if size > connection.maximum_packet:
            self._counters.drop("larger than the broker takes", topic=one.topic, bytes=size)
            row.open -= 1
            self._settle()
            return

        def answered(code: int) -> None:
            if code == LOST:
                return
            if code == _QUOTA:
                self._refusal = code
                return
            if code >= REFUSED:
                self._counters.drop(f"refused by the broker: {_name(code)}", topic=one.topic)
            else:
                self._counters.sent[one.sort] += 1
                self._counters.readings += one.readings
            row.open -= 1
            if not row.open:
                self._settle()

        row.count += 1
        self._unsaved += 1
        if 2 * self._unsaved >= self._settings.broker.window:
            self._pressed.set()
        retain = one.retain and connection.has_retain
        connection.submit(one.topic, one.payload, one.qos, retain, one.properties, answered)

    def _settle(self) -> None:
        """Move over what is answered and has nothing unanswered before it."""
        rows = self._rows
        while rows and not rows[0].open:
            self._answered.append(rows.popleft())
            self._done = self._answered[-1].id
        if self._done > self.place:
            self._news.set()

    # -- the place ---------------------------------------------------------------------

    async def _keep_saving(self) -> None:
        while True:
            try:
                async with asyncio.timeout(min(_LEASE_S, self._keep_ms / 4000)):
                    await self._news.wait()
            except TimeoutError:
                await self._move(self._done)
                continue
            self._news.clear()
            self._pressed.clear()
            await self._save()
            try:
                async with asyncio.timeout(_SAVE_S):
                    await self._pressed.wait()
            except TimeoutError:
                pass

    async def _save(self) -> None:
        done = self._done
        if done == self.place and not self._gains()[1]:
            return
        await self._move(done)
        while self._answered and self._answered[0].id <= done:
            self._unsaved -= self._answered.popleft().count
        if self._connection is not None:
            self._connection.wake()
        self.behind = await self._run(self._outbox.behind, done)

    async def _move(self, done: int) -> None:
        before, (sent, dropped, self._sums) = self._sums, self._gains()
        try:
            await self._run(self._outbox.move, done, self._keep_ms, sent, dropped)
        except StoreUnavailable:
            self._sums = before
            raise
        self.place = done

    def _gains(self) -> tuple[int, int, tuple[int, int]]:
        """Return what was sent and dropped since the store knows, and the sums."""
        counters = self._counters
        sums = sum(counters.sent.values()), sum(counters.dropped.values())
        return sums[0] - self._sums[0], sums[1] - self._sums[1], sums

    # -- away --------------------------------------------------------------------------

    async def away(self) -> None:
        """While there is no broker: give up what gets too old, and keep the rest kept."""
        while True:
            try:
                await self._skim()
                self.behind = await self._run(self._outbox.behind, self._done)
            except StoreUnavailable as error:
                _log.error("MQTT bridge cannot look after what waits", reason=str(error))
            await asyncio.sleep(min(_SKIM_S, self._keep_ms / 4000))

    async def _skim(self) -> None:
        oldest = self._clock_ms() - self._keep_ms
        while True:
            last, rows = await self._run(self._outbox.read, self._done, _PAGE_ROWS)
            old = [row for row in rows if row.received < oldest]
            self._counters.drop(TOO_OLD, len(old))
            if len(old) < len(rows) or last == self._done:
                self._done = old[-1].id if old else self._done
                break
            # All of it was too old, or nothing that goes out.
            self._done = last
        # Also where nothing is given up: it says to compaction that somebody wants the rest.
        await self._move(self._done)
        self._answered.clear()

    def _read(self, after: int) -> "asyncio.Future[tuple[int, Sequence[Row]]]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, self._outbox.read, after, _PAGE_ROWS)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Coroutine[Any, Any, Any]:
        async def call() -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, function, *arguments)

        return call()


def _name(code: int) -> str:
    try:
        return str(ReasonCode(PacketTypes.PUBACK, identifier=code))
    except (KeyError, AssertionError):
        return f"reason code {code:#x}"
