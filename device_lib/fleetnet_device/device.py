"""Device: what a program on a camera talks to.

    async with Device("/fleetnet") as device:
        while True:
            await device.send("temperature", read())
            await asyncio.sleep(1)

Readings are batched, kept while the server is away, sent again after cuts, and counted
as acknowledged when the server has them on its disk. The same on MicroPython and CPython.
"""

import asyncio
import gc

from fleetnet import __version__, limits
from fleetnet.endpoint import Endpoint
from fleetnet.errors import Rejected
from fleetnet.events import Delivered, Opened, TimeHeard
from fleetnet.frame import EVENT, EVENTS, RAW, READINGS, TELEMETRY
from fleetnet.handshake import Hello
from fleetnet.links import open_link
from fleetnet.ports import port
from fleetnet.readings import OCTET_STREAM, ReadingBatch, encode_event, encode_raw
from fleetnet.session import OPEN, Session
from fleetnet.ticks import ticks_diff
from fleetnet_device.backoff import Backoff
from fleetnet_device.clock import Clock
from fleetnet_device.credentials import Credentials
from fleetnet_device.outbox import Outbox

OFFLINE = "offline"
CONNECTING = "connecting"
ONLINE = "online"
REFUSED = "refused"

_STOP_MS = 3_000


class Device:
    """One device and its connection to the back-end.

    Args:
        folder: the bundle that `fleetnet device add` made.
        linger_ms: how long a reading may wait for others of its batch.
        max_readings: readings of a batch at most.
        outbox_bytes: payloads kept while the server is away.
        connect_ms: for connecting, TLS or DTLS handshake and WELCOME, each.

    Attributes:
        state: "offline", "connecting", "online" or "refused".
        sent, acknowledged, dropped: readings and events; sent = acknowledged + dropped +
            those still on their way.
        connects: sessions opened so far.
        last_error: why the last connection failed or ended; None while one is up.
    """

    def __init__(
        self,
        folder: str,
        linger_ms: int = 1_000,
        max_readings: int = 64,
        outbox_bytes: int = 65536,
        connect_ms: int = 10_000,
    ):
        self.credentials = Credentials(folder)
        self.name = self.credentials.name
        self.state = OFFLINE
        self.sent = 0
        self.acknowledged = 0
        self.connects = 0
        self.last_error: "Exception | None" = None
        self._linger_ms = linger_ms
        self._connect_ms = connect_ms
        self._fragment = limits.FRAGMENT_PAYLOAD
        if self.credentials.transport == "tls":
            self._fragment = limits.MAX_FRAME_PAYLOAD
        self._session = self._new_session()
        self._clock = Clock(port)
        self._outbox = Outbox(outbox_bytes)
        self._batch = ReadingBatch(self._fragment, max_readings)
        self._batch_began = 0
        self._backoff = Backoff(port.random_bytes)
        self._opened_ms = 0
        self._endpoint: "Endpoint | None" = None
        self._tasks: "list[asyncio.Task[None]]" = []
        self._changed = asyncio.Event()

    @property
    def dropped(self) -> int:
        """Readings and events that the outbox had no room for."""
        return self._outbox.dropped_readings

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
            time_ms, boot = self._clock.stamp()
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

    async def send_raw(
        self, channel: str, data: bytes, content_format: int = OCTET_STREAM
    ) -> None:
        """Queue raw bytes as a reading of ``channel``.

        Raises:
            LimitError: above 64 KB, the channel's name and the head included.
        """
        time_ms, boot = self._clock.stamp()
        self._put(TELEMETRY, RAW, encode_raw(channel, data, time_ms, boot, content_format), 1)
        self.sent += 1

    async def event(self, name: str, value: object = None) -> None:
        """Queue an event; it overtakes readings."""
        time_ms, boot = self._clock.stamp()
        self._put(EVENTS, EVENT, encode_event(name, value, time_ms, boot), 1)
        self.sent += 1

    async def flush(self, timeout_ms: int = 30_000) -> bool:
        """Wait until everything sent is acknowledged; False when the time is over first."""
        self._seal()
        began = port.ticks()
        while len(self._outbox):
            if ticks_diff(port.ticks(), began) > timeout_ms:
                return False
            await port.sleep_ms(10)
        return True

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._connect_for_ever()),
                asyncio.create_task(self._seal_in_time()),
            ]

    async def stop(self, timeout_ms: int = _STOP_MS) -> None:
        """Flush within ``timeout_ms``, say BYE, and disconnect.

        Also waits, as long, for a connection that is still being made.
        """
        if self._tasks and self.state != REFUSED:
            await self.flush(timeout_ms)
        if self._session.state == OPEN:
            self._session.bye(port.ticks())
            self._wake()
            began = port.ticks()
            while self._endpoint is not None and ticks_diff(port.ticks(), began) < timeout_ms:
                await port.sleep_ms(10)
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0)
        self._tasks = []
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
            payload, count = batch.to_payload(), batch.count
            batch.clear()
            self._put(TELEMETRY, READINGS, payload, count)

    def _put(self, stream: int, kind: int, payload: bytes, readings: int) -> None:
        self._outbox.put(self._session, stream, kind, payload, readings)
        self._end_epoch()
        self._wake()

    def _wake(self) -> None:
        if self._endpoint is not None:
            self._endpoint.wake()

    async def _seal_in_time(self) -> None:
        """Seal a batch when its first reading has waited for linger_ms."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._batch.count:
                left = self._linger_ms - ticks_diff(port.ticks(), self._batch_began)
                if left <= 0:
                    self._seal()
                else:
                    await port.sleep_ms(left)

    # -- the connection --------------------------------------------------------------

    async def _connect_for_ever(self) -> None:
        while True:
            self.state = CONNECTING
            opened = self.connects
            is_refused = False
            try:
                await self._connect_once()
            except Exception as error:
                # Whatever it was, a camera on a mast must try again.
                self.last_error = error
                is_refused = isinstance(error, Rejected)
            finally:
                retry_after_ms = self._endpoint.retry_after_ms if self._endpoint else 0
                self._endpoint = None
            self.state = REFUSED if is_refused else OFFLINE
            lasted_ms = 0
            if self.connects > opened:
                lasted_ms = self._clock.uptime_ms() - self._opened_ms
            gc.collect()
            await port.sleep_ms(self._backoff.after(lasted_ms, retry_after_ms, is_refused))

    def _new_session(self) -> Session:
        """Return a session of a new epoch."""
        return Session(port.random_bytes, True, fragment_payload=self._fragment)

    def _end_epoch(self) -> None:
        """End a session whose sequence numbers are used up, once all is acknowledged."""
        if self._session.state == OPEN and self._outbox.can_begin_epoch():
            self._session.bye(port.ticks())

    async def _connect_once(self) -> None:
        """Open a link, run the session on it to its end."""
        credentials = self.credentials
        if self._outbox.can_begin_epoch():
            self._session = self._new_session()
            self._outbox.begin_epoch(self._session)
        gc.collect()
        link = await open_link(
            credentials.host,
            credentials.port,
            credentials.context(),
            credentials.server_hostname,
            self._connect_ms,
        )
        hello = Hello()
        hello.software = "fleetnet/%s %s" % (__version__, port.platform_text())
        hello.codecs = bytes((50, 42))
        hello.boot = self._clock.boot
        hello.uptime_ms = self._clock.uptime_ms()
        hello.unix_ms = self._clock.unix_ms()
        self._session.open_link(port.ticks(), link.datagram, hello)
        self._endpoint = Endpoint(self._session, link, self._on_event, self._connect_ms)
        await self._endpoint.run()

    def _on_event(self, event: object) -> None:
        if isinstance(event, Delivered):
            self.acknowledged += self._outbox.delivered(event.stream, event.seq)
            self._outbox.feed(self._session)
            self._end_epoch()
            self._wake()
        elif isinstance(event, Opened):
            self.state = ONLINE
            self.connects += 1
            self._opened_ms = self._clock.uptime_ms()
            self.last_error = None
            self._clock.learn(event.welcome.unix_ms)
            self._outbox.feed(self._session)
            self._end_epoch()
        elif isinstance(event, TimeHeard):
            self._clock.learn(event.unix_ms)
