"""Relay: a device that other devices connect to forwards what they send to the back-end.

    async with Device("bundle", spool="/spool", policy="newest") as device:
        async with Hub("ca.der", "cert.der", "key.der", tls_port=7443, relay=device.part("relay")):
            await asyncio.sleep(3600)

Messages keep the sensors' own numbers. With a spool a message is acknowledged to its sensor
when the back-end has it or the flash, without one when the back-end has it; either way it is
never given up behind that. Whoever may connect is the back-end's decision; while that is away,
its last one for the same certificate.

Source: docs/protocol.md section 15; docs/hub.md.
"""

import sys

from fleetnet import frame as wire
from fleetnet.errors import (
    DISABLED,
    GOING_AWAY,
    NO_IDENTITY,
    OVERLOADED,
    REVOKED,
    UNKNOWN_DEVICE,
    FleetError,
    LimitError,
)
from fleetnet.frame import RELAY
from fleetnet.handshake import (
    CAN_COMMAND,
    CAN_CONFIGURE,
    CAN_RELAY,
    Welcome,
    decode_ending,
    decode_welcome,
)
from fleetnet.ports import port
from fleetnet.relay import (
    MAX_BODY,
    REPEAT_MS,
    decode_relay,
    encode_relay,
    is_relayed,
    nonce_of,
    with_nonce,
)
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet_device.relay_custody import Custody
from fleetnet_device.relay_origins import Origin, Origins

# How often it looks for what was acknowledged: less than an acknowledgement may wait anyway.
POLL_MS = 25

# A sensor waits 10 s for WELCOME; the back-end's word takes a round trip.
ASK_MS = 8_000

# How long to stay away, for sensors that this hub cannot judge now, or has no room for.
RETRY_MS = 10_000

# A board keeps the largest answer to a command (16 KB); a gateway whatever fits a message.
_BOARD_MESSAGE = 20_480

_REFUSALS = (UNKNOWN_DEVICE, DISABLED, REVOKED, NO_IDENTITY)
_OFFERED = CAN_COMMAND | CAN_CONFIGURE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetnet.endpoint import DatagramLink, StreamLink
    from fleetnet.events import Received
    from fleetnet.handshake import Hello
    from fleetnet.hub import Hub
    from fleetnet_device.core import DeviceCore
    from fleetnet_device.relay_link import RelayLink
    from fleetnet_device.relay_origins import Link


class Part:
    """The relay of one hub.

    Args:
        device: made with policy "newest".

    Attributes:
        is_up: a session is open with a back-end that relays.
        custody, origins: see their classes.

    Raises:
        LimitError: the device gives up its oldest messages, which may be a sensor's.
    """

    capability = CAN_RELAY
    kinds = (RELAY,)

    def __init__(self, device: "DeviceCore"):
        outbox = device._outbox
        if outbox.policy != "newest":
            raise LimitError(
                'a hub must not give up what its sensors sent: make it Device(policy="newest")'
            )
        self._device = device
        self.is_up = False
        is_board = sys.implementation.name == "micropython"
        self.max_message = min(_BOARD_MESSAGE if is_board else MAX_BODY, outbox.max_bytes >> 1)
        self.custody = Custody(self, device)
        path = device.flash + "/origins" if device.flash else ""
        is_fresh = not self.custody.is_on_flash()
        self.origins = Origins(path, is_fresh, device.clock, device.report)
        self._is_running = False

    # -- what the hub calls ------------------------------------------------------------------

    def begin(self, hub: "Hub") -> None:
        """The hub listens."""
        if not self._is_running:
            self._is_running = True
            self._device.spawn(self._run())

    def make_link(
        self,
        hub: "Hub",
        link: "StreamLink | DatagramLink",
        certificate: "Callable[[], bytes | None]",
    ) -> "RelayLink":
        """Return what serves a sensor's connection."""
        from fleetnet_device.relay_link import RelayLink

        return RelayLink(hub, link, certificate, self)

    def wall_ms(self) -> int:
        """Return the time that sensors are told: the back-end's, as far as it is known."""
        clock = self._device.clock
        return clock.server_ms() or clock.unix_ms()

    async def _run(self) -> None:
        try:
            while True:
                await port.sleep_ms(POLL_MS)
                self.poll(port.ticks())
        finally:
            self._is_running = False

    def poll(self, now: int) -> None:
        """Do what is due; ``now``: ticks."""
        self.custody.poll(now)
        for origin in list(self.origins.by_alias.values()):
            if origin.word and self.is_up and ticks_diff(origin.due, now) <= 0:
                self._say(origin, origin.word)
            if origin.link is not None and not origin.is_open and origin.ask_until:
                if not self.is_up or ticks_diff(origin.ask_until, now) <= 0:
                    self._decide_alone(origin)

    # -- what links call ---------------------------------------------------------------------

    def admit(self, link: "Link", name: str, serial: int, hello: "Hello") -> "Origin | None":
        """A sensor asks to come in: ask the back-end; ``link`` hears the answer."""
        hello.capabilities &= _OFFERED
        origin = self.origins.of(name, serial, hello)
        if origin is None:
            self._forget()
            origin = self.origins.of(name, serial, hello)
        if origin is None:
            link.refuse(OVERLOADED, RETRY_MS, "%s: the hub has no room for its messages" % name)
            return None
        origin.hello = hello
        origin.heard_ms = self._device.clock.uptime_ms()
        origin.link = link
        origin.is_open = False
        origin.ask_until = ticks_add(port.ticks(), ASK_MS) or 1
        if self._device._outbox.spool is not None:
            self.origins.keep(origin)
        if self.is_up:
            self._say(origin, wire.HELLO)
        else:
            self._decide_alone(origin)
        return origin

    def left(self, link: "RelayLink") -> None:
        """A sensor's link is over."""
        origin = link.origin
        if origin is not None and origin.link is link:
            origin.link = None
            origin.is_open = False
            origin.word = 0
            if self.is_up:
                self._say(origin, wire.BYE)

    def take(self, origin: Origin, event: "Received") -> None:
        """A message of a sensor: forward it, once."""
        self.custody.take(origin, event)

    def take_live(self, origin: Origin, event: "Received") -> None:
        """A best-effort frame: forward it now or never."""
        if self.is_up:
            body = encode_relay(origin.alias, event.kind, event.stream, 0, event.payload)
            self._device.session.send_live(wire.CONTROL, RELAY, body)
            self._device.wake()

    # -- what origins are said, and by whom ----------------------------------------------------

    def _say(self, origin: Origin, kind: int) -> None:
        """Tell the back-end of an origin, and again until it answers."""
        if kind == wire.HELLO:
            body = origin.announcement(self._device.clock)
        else:
            body = with_nonce(b"", origin.hello.nonce)
        origin.word = kind
        origin.due = ticks_add(port.ticks(), REPEAT_MS)
        # Before all messages, as what these belong to: the queue of control frames.
        payload = encode_relay(origin.alias, kind, wire.CONTROL, 0, body)
        self._device.session._link.say(RELAY, payload)
        self._device.wake()

    def _decide_alone(self, origin: Origin) -> None:
        """The back-end is away: what it said last holds."""
        origin.ask_until = 0
        reason = self.origins.verdict(origin.name, origin.serial)
        if reason == 0:
            self._open(origin, _OFFERED, {})
            return
        link, origin.link = origin.link, None
        if link is None:
            return
        if reason:
            link.refuse(reason, 0, "so said the back-end, which is away")
        else:
            why = "the back-end is away, and has not let %s come through this hub" % origin.name
            link.refuse(GOING_AWAY, RETRY_MS, why)

    def _open(self, origin: Origin, capabilities: int, resume: "dict[int, int]") -> None:
        link = origin.link
        if link is None or origin.is_open:
            return
        origin.ask_until = 0
        origin.is_open = True
        # Whatever is below the sensor's oldest has been acknowledged, here or elsewhere.
        for stream, (oldest, _) in origin.hello.streams.items():
            origin.durable[stream] = max(origin.durable.get(stream, 0), oldest - 1)
        for stream, seq in resume.items():
            origin.durable[stream] = max(origin.durable.get(stream, 0), seq)
        for stream, seq in origin.durable.items():
            origin.taken[stream] = max(origin.taken.get(stream, 0), seq)
        link.welcome(capabilities, dict(origin.durable))
        if self.custody.is_shut:
            link.set_window(0)

    # -- what the device calls -----------------------------------------------------------------

    def opened(self, welcome: Welcome) -> None:
        """A session with the back-end is open: announce, before any message leaves."""
        self.is_up = bool(welcome.capabilities & CAN_RELAY)
        if not self.is_up:
            self._device.report(FleetError("the back-end does not relay: it is too old"), "relay")
            return
        self._forget()
        for origin in self.origins.by_alias.values():
            self._say(origin, wire.HELLO)

    def lost(self, error: object) -> None:
        """The back-end is away."""
        self.is_up = False
        for origin in self.origins.by_alias.values():
            origin.word = 0

    def receive(self, event: "Received") -> None:
        """Take what the back-end says of a sensor. Raises ProtocolError."""
        alias, kind, stream, _, body = decode_relay(event.payload)
        origin = self.origins.by_alias.get(alias)
        if origin is None:
            return
        if kind == wire.WELCOME:
            welcome = decode_welcome(body)
            if welcome.nonce == origin.hello.nonce:
                origin.word = 0
                self.origins.know(origin.name, origin.serial, 0)
                self._open(origin, welcome.capabilities, welcome.resume)
        elif kind in (wire.REFUSE, wire.BYE):
            if nonce_of(body) == origin.hello.nonce:
                self._turn_away(origin, body)
        elif kind == wire.BYE_ACK:
            if nonce_of(body) == origin.hello.nonce and origin.word == wire.BYE:
                origin.word = 0
        elif origin.link is not None and origin.is_open and is_relayed(kind):
            origin.link.send(stream, kind, body)

    def _turn_away(self, origin: Origin, body: bytes) -> None:
        """The back-end refuses a sensor, or sends it away."""
        ending = decode_ending(body)
        origin.word = 0
        if ending.reason in _REFUSALS:
            self.origins.know(origin.name, origin.serial, ending.reason)
        link = origin.link
        if link is None:
            return
        say = link.end if origin.is_open else link.refuse
        origin.link = None
        origin.is_open = False
        origin.ask_until = 0
        say(ending.reason, ending.retry_after_ms, ending.detail)

    def _forget(self) -> None:
        """Make room in the table."""
        busy = self.custody.busy()
        if busy is not None:
            self.origins.forget(busy)
