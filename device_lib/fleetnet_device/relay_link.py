"""One sensor's link at a hub that relays: what the back-end decides is told to the sensor.

Used by relay.py only.
"""

from fleetnet import errors
from fleetnet.der import _enter, _value
from fleetnet.errors import CredentialError
from fleetnet.events import Closed, Received
from fleetnet.frame import OPTIONAL
from fleetnet.handshake import Welcome
from fleetnet.hub_link import WINDOW, SensorLink, device_name
from fleetnet.ports import port
from fleetnet.relay import MAX_SERIAL, is_relayed

_SEQUENCE = 0x30
_INTEGER = 0x02

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetnet.endpoint import DatagramLink, StreamLink
    from fleetnet.handshake import Hello
    from fleetnet.hub import Hub
    from fleetnet_device.relay import Part
    from fleetnet_device.relay_origins import Origin


class RelayLink(SensorLink):
    """See SensorLink; ``origin`` is None until the sensor's greeting was read."""

    def __init__(
        self,
        hub: "Hub",
        link: "StreamLink | DatagramLink",
        certificate: "Callable[[], bytes | None]",
        part: "Part",
    ):
        super().__init__(hub, link, certificate, part.max_message, part.wall_ms)
        self._part = part
        self._hello: "Hello | None" = None
        self.origin: "Origin | None" = None

    async def run(self) -> None:
        """See SensorLink."""
        try:
            await super().run()
        finally:
            self._part.left(self)

    # -- what the part says ----------------------------------------------------------------

    def welcome(self, capabilities: int, marks: "dict[int, int]") -> None:
        """Let the sensor in; ``marks``: stream -> last number that is durable."""
        hello, self._hello = self._hello, None
        if hello is None:
            return
        welcome = Welcome()
        welcome.session_id = port.random_bytes(8)
        welcome.window = WINDOW
        welcome.keepalive_ms = self._hub.keepalive_ms
        welcome.capabilities = capabilities
        self._session.welcome(welcome, hello, marks, port.ticks())
        self._endpoint.wake()

    def refuse(self, reason: int, retry_after_ms: int, detail: str) -> None:
        """Do not let the sensor in."""
        self._refuse(reason, detail, retry_after_ms)
        self._endpoint.wake()

    def end(self, reason: int, retry_after_ms: int, detail: str) -> None:
        """Send the sensor away."""
        self._hub.note_refusal(detail or "reason %d" % reason)
        self.bye(reason, retry_after_ms)

    def send(self, stream: int, kind: int, body: bytes) -> None:
        """Send a message of the back-end; dropped without room: it says it again."""
        if self._session.has_room(stream, len(body)):
            self._session.send(stream, kind, body)
            self._endpoint.wake()

    def set_window(self, window: int) -> None:
        """Halt the sensor (0), or let it go on."""
        self._session.set_window(window, port.ticks())
        self._endpoint.wake()

    # -- what the sensor says --------------------------------------------------------------

    def _greet(self, hello: "Hello") -> None:
        certificate = self._certificate()
        try:
            name = device_name(certificate)
            serial = serial_number(certificate or b"")
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
        self._hello = hello
        self.origin = self._part.admit(self, name, serial, hello)

    def _receive(self, event: Received) -> None:
        if self.origin is None:
            return
        if not is_relayed(event.kind):
            if event.seq and not event.kind & OPTIONAL:
                self.bye(errors.UNKNOWN_KIND)
            elif event.seq:
                self.acknowledge(event.stream, event.seq)
        elif event.seq:
            assert self.sensor is not None
            self.sensor.received += 1
            self._part.take(self.origin, event)
        else:
            self._part.take_live(self.origin, event)

    def _on_event(self, event: object) -> None:
        super()._on_event(event)
        if isinstance(event, Closed):
            self._part.left(self)


def serial_number(certificate: bytes) -> int:
    """Return the serial number of a certificate (DER). Raises CredentialError.

    Source: RFC 5280 section 4.1.2.2.
    """
    at, end = _enter(certificate, 0, len(certificate), _SEQUENCE)
    at, end = _enter(certificate, at, end, _SEQUENCE)
    tag, start, stop = _value(certificate, at, end)
    if tag == 0xA0:  # version; absent in version 1
        tag, start, stop = _value(certificate, stop, end)
    # One more byte where the first bit is set (X.690 section 8.3.3).
    if tag != _INTEGER or not 0 < stop - start <= MAX_SERIAL + 1 or certificate[start] & 0x80:
        raise CredentialError("certificate without a serial number that RFC 5280 allows")
    return int.from_bytes(bytes(certificate[start:stop]), "big")
