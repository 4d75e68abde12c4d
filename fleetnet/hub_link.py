"""One sensor's link at a hub: its session, and its messages as readings.

Used by hub.py only.
"""

import json

from fleetnet import der, errors
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.endpoint import Endpoint
from fleetnet.errors import CredentialError, ProtocolError
from fleetnet.events import Opened, Received
from fleetnet.frame import EVENT, LOG, MESSAGE, OPTIONAL, RAW, READINGS
from fleetnet.handshake import Welcome
from fleetnet.ports import port
from fleetnet.receiver import Gap
from fleetnet.varint import take_varint

# Unacknowledged messages a stream: what waits for a program that is behind.
WINDOW = 16

# A sensor sends batches of one frame; an image belongs to a back-end.
MAX_MESSAGE = 8192

_URI = "urn:fleetnet:device:"
_TIME_BYTES = 8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetnet.endpoint import DatagramLink, StreamLink
    from fleetnet.handshake import Hello
    from fleetnet.hub import Hub, Sensor


class Reading:
    """One reading or event of a sensor.

    Attributes:
        device, channel: names. kind: "reading", "event" or "raw".
        unix_ms: when; None when neither the sensor nor the hub knew the time.
        value: what JSON carried, or bytes.
        seq: sequence number of its message.
    """

    def __init__(
        self, device: str, kind: str, channel: str, unix_ms: "int | None", value: object, seq: int
    ):
        self.device = device
        self.kind = kind
        self.channel = channel
        self.unix_ms = unix_ms
        self.value = value
        self.seq = seq


class Message:
    """One message that waits for the program."""

    def __init__(self, sensor: "Sensor", epoch: bytes, event: Received, boot: int, offset_ms: int):
        self.sensor = sensor
        self.epoch = epoch
        self.stream = event.stream
        self.seq = event.seq
        self._kind = event.kind & ~OPTIONAL
        self._payload = event.payload
        self._boot = boot
        self._offset_ms = offset_ms

    def readings(self) -> "list[Reading]":
        """Return what the message holds; a body that breaks the rules holds nothing."""
        try:
            if self._kind == READINGS:
                base_ms, boot, channels, items = json.loads(self._payload)
                return [
                    self._reading("reading", channels[index], base_ms + dt_ms, boot, value)
                    for index, dt_ms, value in items
                ]
            if self._kind == EVENT:
                base_ms, boot, name, value = json.loads(self._payload)
                return [self._reading("event", name, base_ms, boot, value)]
            if self._kind == RAW:
                return [self._raw()]
        except (ValueError, TypeError, LookupError, RuntimeError, ProtocolError):
            pass  # a sensor's fault; it would be the same each time it is sent
        return []

    def _raw(self) -> Reading:
        body = self._payload
        _, at = take_varint(body, 0)
        size, at = take_varint(body, at)
        channel = str(body[at : at + size], "utf-8")
        base_ms, at = take_varint(body, at + size, _TIME_BYTES)
        boot, at = take_varint(body, at)
        return self._reading("raw", channel, base_ms, boot, body[at:])

    def _reading(
        self, kind: str, channel: str, base_ms: int, boot: int, value: object
    ) -> Reading:
        if not isinstance(base_ms, int) or not isinstance(channel, str):
            raise ValueError("time or channel is not what it should be")
        unix_ms: "int | None" = base_ms
        if boot:
            known = boot == self._boot and self._offset_ms
            unix_ms = base_ms + self._offset_ms if known else None
        return Reading(self.sensor.name, kind, channel, unix_ms, value, self.seq)


class SensorLink:
    """One link; ``sensor`` is None until its greeting was accepted."""

    def __init__(
        self,
        hub: "Hub",
        link: "StreamLink | DatagramLink",
        certificate: "Callable[[], bytes | None]",
        max_message: int = MAX_MESSAGE,
        wall_ms: "Callable[[], int]" = port.unix_ms,
    ):
        self._hub = hub
        self._certificate = certificate
        self._link = link
        self.datagram = link.datagram
        self.sensor: "Sensor | None" = None
        self._boot = 0
        self._offset_ms = 0
        self._session = AcceptorSession(
            port.random_bytes, max_message=max_message, wall_ms=wall_ms
        )
        self._session.open_link(port.ticks(), link.datagram)
        self._endpoint = Endpoint(self._session, link, self._on_event)

    async def run(self) -> None:
        """Run to the end of the link. Raises what ended it."""
        try:
            await self._endpoint.run()
        finally:
            sensor = self.sensor
            if sensor is not None and sensor.link is self:
                sensor.link = None
                sensor.is_online = False

    def acknowledge(self, stream: int, seq: int) -> None:
        """The program has taken everything of ``stream`` up to ``seq``."""
        self._session.acknowledge(stream, seq, port.ticks())
        self._endpoint.wake()

    def bye(self, reason: int, retry_after_ms: int = 0) -> None:
        """Begin to end the session."""
        self._session.bye(port.ticks(), reason, retry_after_ms)
        self._endpoint.wake()

    def close(self) -> None:
        """End the link now."""
        self._link.close()

    def _on_event(self, event: object) -> None:
        if isinstance(event, Received):
            self._receive(event)
        elif isinstance(event, HelloReceived):
            self._greet(event.hello)
        elif isinstance(event, Opened) and self.sensor is not None:
            self.sensor.is_online = True
            self.sensor.connects += 1
        elif isinstance(event, Gap) and self.sensor is not None:
            self.sensor.lost += event.last - event.first + 1

    def _receive(self, event: Received) -> None:
        kind = event.kind & ~OPTIONAL
        if not event.seq or self.sensor is None:
            return  # best effort, and nobody watches
        if MESSAGE <= kind <= LOG:
            epoch = self._session.peer_epoch
            self._hub.put(Message(self.sensor, epoch, event, self._boot, self._offset_ms))
        elif event.kind & OPTIONAL:
            self.acknowledge(event.stream, event.seq)
        else:
            self.bye(errors.UNKNOWN_KIND)

    def _greet(self, hello: "Hello") -> None:
        try:
            name = device_name(self._certificate())
        except CredentialError as error:
            self._refuse(errors.NO_IDENTITY, str(error))
            return
        if not self._hub.has_room_for(name):
            self._refuse(errors.OVERLOADED, "%s: the hub has no room" % name, 30_000)
            return
        sensor = self._hub.enter(name, self)
        if sensor is None:
            self._refuse(errors.UNKNOWN_DEVICE, "%s is not on this hub's list" % name)
            return
        self.sensor = sensor
        if sensor.epoch != hello.epoch:
            sensor.epoch = hello.epoch
            sensor.taken = {}
        now_ms = port.unix_ms()
        self._boot = hello.boot
        self._offset_ms = now_ms - hello.uptime_ms if now_ms else 0
        welcome = Welcome()
        welcome.session_id = port.random_bytes(8)
        welcome.window = WINDOW
        welcome.keepalive_ms = self._hub.keepalive_ms
        self._session.welcome(welcome, hello, dict(sensor.taken), port.ticks())

    def _refuse(self, reason: int, why: str, retry_after_ms: int = 0) -> None:
        self._hub.note_refusal(why)
        self._session.refuse(reason, retry_after_ms, why)


def device_name(certificate: "bytes | None") -> str:
    """Return the device that a certificate names (docs/protocol.md section 10).

    Raises:
        CredentialError: none was shown, or it does not name exactly one.
    """
    if not certificate:
        raise CredentialError("no certificate was shown")
    names = [uri[len(_URI) :] for uri in der.san_uris(certificate) if uri[: len(_URI)] == _URI]
    if len(names) != 1 or not 0 < len(names[0]) <= 63:
        raise CredentialError("certificate names %d fleetnet devices, not one" % len(names))
    return names[0]
