"""Device: what a program on a camera talks to.

    async with Device("bundle") as device:
        while True:
            await device.send("temperature", read())
            await asyncio.sleep(1)

Readings are batched, kept while the server is away, sent again after cuts, and counted
as acknowledged when the server has them on its disk. The same on MicroPython and CPython.

Commands, configuration, blobs and the remote log are parts: modules of this package that
are imported when a program first asks for them (docs/device.md).
"""

import asyncio

from fleetnet import limits
from fleetnet.frame import EVENT, EVENTS, RAW, READINGS, TELEMETRY
from fleetnet.ports import port
from fleetnet.readings import OCTET_STREAM, ReadingBatch, encode_event
from fleetnet.ticks import ticks_diff
from fleetnet_device.core import CONNECTING, OFFLINE, ONLINE, REFUSED, DeviceCore
from fleetnet_device.limits import BATCH_READINGS, OUTBOX_BYTES, SPOOL_BYTES, STOP_MS

__all__ = ("CONNECTING", "OFFLINE", "ONLINE", "REFUSED", "Device")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Device(DeviceCore):
    """One device and its connection to the back-end.

    Args:
        bundle: the folder that `fleetnet device add` made, or a dict of its contents.
        linger_ms: how long a reading may wait for others of its batch.
        max_readings: readings of a batch at most.
        outbox_bytes: payloads kept in RAM while the server is away.
        connect_ms: for connecting, TLS or DTLS handshake and WELCOME, each.
        spool: folder on the flash for what RAM should not hold alone; None: RAM only.
        spool_bytes: ceiling of that folder's size.
        policy: what a full outbox gives up: "oldest" or "newest".
        return_ms: transport "auto": after so long over TLS, DTLS is tried again; doubled each
            time in vain, up to six hours.

    Attributes:
        state: "offline", "connecting", "online" or "refused".
        sent, recovered, acknowledged, dropped: readings and events; sent + recovered from the
            flash = acknowledged + dropped + those still on their way. live_dropped:
            best-effort ones that found no way.
        connects: sessions opened so far.
        errors: reports so far; last_error: why the last connection failed or ended, None
            while one is up.
        clock, credentials, session: see their classes.
    """

    def __init__(
        self,
        bundle: "str | dict[str, Any]",
        linger_ms: int = 1_000,
        max_readings: int = BATCH_READINGS,
        outbox_bytes: int = OUTBOX_BYTES,
        connect_ms: int = 10_000,
        spool: "str | None" = None,
        spool_bytes: int = SPOOL_BYTES,
        policy: str = "oldest",
        return_ms: int = 600_000,
    ):
        super().__init__(bundle, outbox_bytes, connect_ms, return_ms, spool, spool_bytes, policy)
        self.sent = 0
        self._linger_ms = linger_ms
        self._batch = ReadingBatch(self._fragment, max_readings)
        self._batch_began = 0
        self._changed = asyncio.Event()

    # -- what a program calls ------------------------------------------------------

    async def send(self, channel: str, value: object, time_ms: "int | None" = None) -> None:
        """Queue one reading; it is sent with others, and again until it is acknowledged.

        Args:
            channel: name of 1 to 64 characters.
            value: what JSON can carry.
            time_ms: unix time in ms; None: now.

        Raises:
            ValueError: the value is not JSON (NaN), or larger than a message.
        """
        boot = 0
        if time_ms is None:
            time_ms, boot = self.clock.stamp()
        if not self._batch.add(channel, value, time_ms, boot):
            self._seal()
            self._batch.add(channel, value, time_ms, boot)
        self.sent += 1
        if self._batch.count == 1:
            self._batch_began = port.ticks()
            if self._linger_ms == 0:
                self._seal()
            else:
                self._changed.set()

    def send_live(self, channel: str, value: object) -> bool:
        """Send one reading now or never: not kept, not repeated, not stored.

        Returns:
            False, and counted in ``live_dropped``, when there is no way now.

        Raises:
            ValueError: as send.
        """
        batch = ReadingBatch(limits.FRAGMENT_PAYLOAD, 1)
        time_ms, boot = self.clock.stamp()
        batch.add(channel, value, time_ms, boot)
        went = self.session.send_live(TELEMETRY, READINGS, batch.to_payload())
        self.wake()
        return went

    async def send_raw(
        self, channel: str, data: bytes, content_format: int = OCTET_STREAM
    ) -> None:
        """Queue raw bytes as a reading of ``channel``.

        Raises:
            LimitError: above 64 KB, the channel's name and the head included.
        """
        from fleetnet.raw import encode_raw

        time_ms, boot = self.clock.stamp()
        self.put(TELEMETRY, RAW, encode_raw(channel, data, time_ms, boot, content_format), 1)
        self.sent += 1

    async def event(self, name: str, value: object = None) -> None:
        """Queue an event; it overtakes readings."""
        time_ms, boot = self.clock.stamp()
        self.put(EVENTS, EVENT, encode_event(name, value, time_ms, boot), 1)
        self.sent += 1

    def every(self, period_ms: int) -> "Callable[[Any], Any]":
        """Decorate a function whose {channel: value} is sent every ``period_ms``.

        Sampling begins with the loop's next turn; see sampler.py.
        """
        from fleetnet_device.sampler import every

        return every(self, period_ms)

    def command(self, name: "str | None" = None) -> "Callable[[Any], Any]":
        """Decorate a function that the back-end may call; see commands.py.

        Raises:
            ValueError: a command of that name exists.
        """
        return self.part("commands").command(name)  # type: ignore[no-any-return]

    @property
    def config(self) -> "Any":
        """The configuration that the back-end wants this device to have; see config.py."""
        return self.part("config")

    def log(self, level: str, text: str) -> None:
        """Keep a line for the back-end's log; see log.py."""
        self.part("log").add(level, text)

    async def send_blob(
        self, name: str, source: "bytes | bytearray | memoryview | str", content_format: int = 42
    ) -> "Any":
        """Send a file (path) or a buffer of any size; see blobs.py."""
        return await self.part("blobs").send_blob(name, source, content_format)

    async def send_frame(
        self, buffer: "bytes | bytearray | memoryview", name: str = "frame"
    ) -> bool:
        """Send a camera frame; the newest wins; see blobs.py."""
        return await self.part("blobs").send_frame(buffer, name)  # type: ignore[no-any-return]

    async def flush(self, timeout_ms: int = 30_000) -> bool:
        """Wait until everything sent is acknowledged; False when the time is over first."""
        self._seal()
        began = port.ticks()
        while self._outbox:
            if ticks_diff(port.ticks(), began) > timeout_ms:
                return False
            await port.sleep_ms(10)
        return True

    async def start(self) -> None:
        """Begin to connect; returns at once. Also in another event loop than before."""
        self._enter_loop()
        if not self._is_started:
            self._is_started = True
            self._changed = asyncio.Event()
            for work in (self.connection.run, self._seal_in_time, self._poll_outbox):
                self.spawn(self._keep_up(work))

    async def stop(self, timeout_ms: int = STOP_MS) -> None:
        """Flush within ``timeout_ms``, say BYE, and disconnect.

        Also waits, as long, for a connection that is still being made.
        """
        try:
            if self._is_started and self.state != REFUSED:
                await self.flush(timeout_ms)
            if self.is_open:
                self.session.bye(port.ticks())
                self.wake()
                began = port.ticks()
                while self.connection.endpoint and ticks_diff(port.ticks(), began) < timeout_ms:
                    await port.sleep_ms(10)
        finally:  # also of who waits for this no longer
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            try:
                await asyncio.sleep(0)
            finally:  # a command that calls this is cancelled, too
                self._outbox.close()
                self._is_started = False
                self.state = OFFLINE

    async def __aenter__(self) -> "Device":
        await self.start()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.stop()

    # -- batches -------------------------------------------------------------------

    def _seal(self) -> None:
        """Turn the open batch into a message."""
        batch = self._batch
        if batch.count:
            self.put(TELEMETRY, READINGS, batch.to_payload(), batch.count)
            batch.clear()  # not before: memory may be too short for the message

    async def _seal_in_time(self) -> None:
        """Seal a batch when its first reading has waited for linger_ms."""
        while True:
            while self._batch.count:
                left = self._linger_ms - ticks_diff(port.ticks(), self._batch_began)
                if left <= 0:
                    self._seal()
                else:
                    await port.sleep_ms(left)
            await self._changed.wait()
            self._changed.clear()
