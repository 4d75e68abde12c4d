"""Hub: a camera or a Linux gateway that other devices connect to.

    async with Hub("ca.der", "cert.der", "key.der", tls_port=7443) as hub:
        async for reading in hub.readings():
            print(reading.device, reading.channel, reading.value)

Sensors run the ordinary fleetnet_device.Device, and their bundles name the hub as their
server. A message is acknowledged once the program has taken all of its readings and asks
for the next one: a program that is behind shuts its sensors' windows, and nothing piles up.

Memory: at most WINDOW messages of MAX_MESSAGE bytes for each stream of each sensor.
"""

import asyncio

from fleetnet import errors
from fleetnet.endpoint import DatagramLink, StreamLink
from fleetnet.errors import FleetError, LimitError
from fleetnet.hub_link import Message, SensorLink
from fleetnet.ports import port

# Sensors at once; each costs a TLS connection, some 25 KB where mbedTLS uses the heap.
MAX_SENSORS = 16

# Links whose sensor is not known yet, and a quarter of ``max_sensors``; more are strangers.
MAX_GREETING = 4

# How long everybody has to answer our BYE.
_STOP_MS = 2_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

    from fleetnet.hub_link import Reading
    from fleetnet.streams import Source


class Sensor:
    """What the hub knows of a device that connects to it.

    Attributes:
        name: from its certificate. is_online: a session is open.
        transport: "tls" or "dtls", of the newest session. connects: sessions so far.
        received: messages taken by the program. lost: messages that the sensor gave up.
    """

    def __init__(self, name: str):
        self.name = name
        self.is_online = False
        self.transport = ""
        self.connects = 0
        self.received = 0
        self.lost = 0
        self.link: "SensorLink | None" = None
        # (epoch, stream -> last sequence number that the program has taken)
        self.epoch = b""
        self.taken: "dict[int, int]" = {}


class Readings:
    """What ``async for`` iterates over (a generator that is async has no __aiter__ on
    MicroPython)."""

    def __init__(self, hub: "Hub"):
        self._hub = hub
        self._message: "Message | None" = None
        self._left: "list[Reading]" = []

    def __aiter__(self) -> "Readings":
        return self

    async def __anext__(self) -> "Reading":
        while not self._left:
            if self._message is not None:
                self._hub.taken(self._message)
            self._message = await self._hub.next_message()
            if self._message is None:
                raise StopAsyncIteration
            self._left = self._message.readings()
        return self._left.pop(0)


class Hub:
    """Accepts sessions of devices over mutual TLS and DTLS.

    Args:
        ca: the anchor that sensors' certificates lead to. cert, key: the hub's own; its name
            must be the ``server_hostname`` of the sensors' bundles. Paths or bytes.
        tls_port, dtls_port: where to listen; None: not over this transport.
        host: address to listen on.
        allow: names of the devices that may come; None: every device of this CA.
        store: ``await store(readings)`` is called with the readings of one message instead
            of handing them out; the message is acknowledged when it returns.
        max_sensors: at once.
        keepalive_ms: what sensors are asked for.
        relay: ``device.part("relay")`` of a Device: its back-end gets what sensors send.

    Attributes:
        devices: name -> Sensor, of all that were seen since the start.
        refused: links that were refused or broke before they were open. last_refusal: why.

    Raises, on entry:
        CredentialError; Unsupported: this firmware has no DTLS server; OSError: port in use.
    """

    def __init__(
        self,
        ca: "Source",
        cert: "Source",
        key: "Source",
        tls_port: "int | None" = None,
        dtls_port: "int | None" = None,
        host: str = "0.0.0.0",  # noqa: S104 (sensors come from outside)
        allow: "Iterable[str] | None" = None,
        store: "Callable[[list[Reading]], Awaitable[Any]] | None" = None,
        max_sensors: int = MAX_SENSORS,
        keepalive_ms: int = 25_000,
        relay: "Any" = None,
    ):
        if tls_port is None and dtls_port is None:
            raise LimitError("a hub needs tls_port= or dtls_port=")
        self._credentials = (cert, key, ca)
        self._ports = (tls_port, dtls_port)
        self._host = host
        self._allow = None if allow is None else set(allow)
        self._store = store
        self._relay = relay
        self._max_sensors = max_sensors
        self.keepalive_ms = keepalive_ms
        self.devices: "dict[str, Sensor]" = {}
        self.refused = 0
        self.last_refusal = ""
        self._queue: "list[Message]" = []
        self._news = asyncio.Event()
        self._listeners: "list[Any]" = []
        self._links: "list[SensorLink]" = []
        self._is_over = False
        self._storing: "asyncio.Task[None] | None" = None
        self._is_storing = False

    @property
    def tls_port(self) -> "int | None":
        """The port of the TLS listener."""
        return self._port_of(0)

    @property
    def dtls_port(self) -> "int | None":
        """The port of the DTLS listener."""
        return self._port_of(1)

    def _port_of(self, which: int) -> "int | None":
        asked = self._ports[which]
        for kind, listener in self._listeners:
            if kind == which:
                return int(listener.port)
        return asked

    async def __aenter__(self) -> "Hub":
        cert, key, ca = self._credentials
        tls_port, dtls_port = self._ports
        try:
            if tls_port is not None:
                context = port.server_context(cert, key, ca)
                listener: "Any" = await port.listen(self._stream, self._host, tls_port, context)
                self._listeners.append((0, listener))
            if dtls_port is not None:
                context = port.server_context(cert, key, ca, datagram=True)
                serve = port.serve_datagrams
                listener = await serve(self._datagrams, self._host, dtls_port, context)
                self._listeners.append((1, listener))
        except BaseException:
            self._close_listeners()
            raise
        if self._relay is not None:
            self._relay.begin(self)
        elif self._store is not None:
            self._storing = asyncio.create_task(self._store_all())
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.stop()

    async def stop(self, timeout_ms: int = _STOP_MS) -> None:
        """Say BYE to every sensor and stop listening; readings() ends.

        What is being stored gets as long to become durable: its acknowledgement must leave
        before BYE. Whatever was not handed out comes again, on the sensor's next link.
        """
        self._is_over = True
        self._news.set()
        waited = 0
        while self._is_storing and waited < timeout_ms:
            await port.sleep_ms(20)
            waited += 20
        if self._storing is not None:
            self._storing.cancel()
            self._storing = None
        for link in list(self._links):
            link.bye(errors.GOING_AWAY)
        waited = 0
        while self._links and waited < timeout_ms:
            await port.sleep_ms(20)
            waited += 20
        for link in list(self._links):
            link.close()
        self._close_listeners()
        await asyncio.sleep(0)

    def _close_listeners(self) -> None:
        for _, listener in self._listeners:
            listener.close()
        self._listeners = []

    # -- what the program reads ------------------------------------------------------------

    def readings(self) -> "Readings":
        """Return an iterator over readings and events; asking for the next one acknowledges.

        Raises:
            LimitError: the hub was made with ``store`` or ``relay``.
        """
        if self._store is not None or self._relay is not None:
            raise LimitError("this hub hands its readings to store= or relay=")
        return Readings(self)

    async def _store_all(self) -> None:
        assert self._store is not None
        while True:
            message = await self.next_message()
            if message is None:
                return
            self._is_storing = True
            try:
                await self._store(message.readings())
            except Exception as error:
                # Not acknowledged: the sensor keeps it, and sends it again on its next link.
                self.note_refusal("store: %r" % error)
                if message.sensor.link is not None:
                    message.sensor.link.bye(errors.STORE_UNAVAILABLE, 5_000)
            else:
                self.taken(message)
            finally:
                self._is_storing = False

    async def next_message(self) -> "Message | None":
        """Return the oldest message that the program has not had; None at the end."""
        while True:
            # What is handed out behind our BYE could not be acknowledged, and would come twice.
            while self._queue and not self._is_over:
                message = self._queue.pop(0)
                sensor = message.sensor
                if message.epoch == sensor.epoch and message.seq > sensor.taken.get(
                    message.stream, 0
                ):
                    return message
                self._acknowledge(message)
            if self._is_over:
                return None
            self._news.clear()
            await self._news.wait()

    def taken(self, message: "Message") -> None:
        """The program has had all of a message: acknowledge it."""
        sensor = message.sensor
        if message.epoch == sensor.epoch:
            sensor.taken[message.stream] = message.seq
            sensor.received += 1
        self._acknowledge(message)

    def _acknowledge(self, message: "Message") -> None:
        link = message.sensor.link
        if link is not None and message.epoch == message.sensor.epoch:
            link.acknowledge(message.stream, message.seq)

    # -- what the links call ---------------------------------------------------------------

    def put(self, message: "Message") -> None:
        """Queue a message for the program."""
        self._queue.append(message)
        self._news.set()

    def enter(self, name: str, link: "SensorLink") -> "Sensor | None":
        """Take a greeting device in, in place of an older link of it; None: it may not.

        Whether it may is decided by name and number alone: TLS has verified the rest.
        """
        if self._allow is not None and name not in self._allow:
            return None
        sensor = self.devices.get(name)
        if sensor is None:
            sensor = self.devices[name] = Sensor(name)
        if sensor.link is not None and sensor.link is not link:
            sensor.link.bye(errors.REPLACED)
        # What is in the queue of the old link was not acknowledged and will come again.
        self._queue = [message for message in self._queue if message.sensor is not sensor]
        sensor.link = link
        sensor.transport = "dtls" if link.datagram else "tls"
        return sensor

    def has_room_for(self, name: str) -> bool:
        """Say whether a device may come online, or is."""
        online = [sensor.name for sensor in self.devices.values() if sensor.is_online]
        return name in online or len(online) < self._max_sensors

    def note_refusal(self, why: str) -> None:
        """Count a link that did not become a session."""
        self.refused += 1
        self.last_refusal = why

    # -- links -----------------------------------------------------------------------------

    async def _stream(self, stream: "Any") -> None:
        await self._serve(StreamLink(stream, "sensor"), stream.peer_certificate)

    async def _datagrams(self, datagrams: "Any") -> None:
        await self._serve(DatagramLink(datagrams, "sensor"), datagrams.peer_certificate)

    async def _serve(
        self, link: "StreamLink | DatagramLink", certificate: "Callable[[], bytes | None]"
    ) -> None:
        """Run one link to its end; whatever it does stays its own."""
        greeting = [other for other in self._links if other.sensor is None]
        most = MAX_GREETING + self._max_sensors // 4
        if self._is_over or len(greeting) >= most:
            self.note_refusal("more than %d links without a greeting" % most)
            link.close()
            return
        make = SensorLink if self._relay is None else self._relay.make_link
        served: SensorLink = make(self, link, certificate)
        self._links.append(served)
        try:
            await served.run()
        except FleetError as error:
            if served.sensor is None:
                self.note_refusal(str(error))
        finally:
            self._links.remove(served)
