"""Custody: sensors' messages between their link and the hub's outbox, and their acknowledgement.

    sensor's link -> held -> outbox of the hub's device -> back-end, or flash
                     <------ pending: not safe yet ----->

What a sensor sent is in one of these until it is safe: the back-end has it, or the flash and the
table of origins on it. Then, and not before, it is acknowledged to the sensor. Nothing in
between is ever given up; a sensor for which there is no room waits, or goes and keeps its own.

Memory: what the outbox may hold, and MAX_HELD bytes that wait for room there.
Source: docs/protocol.md sections 15.3 and 15.4. Used by relay.py only.
"""

from fleetnet import frame as wire
from fleetnet.errors import OVERLOADED
from fleetnet.hub_link import WINDOW
from fleetnet.relay import HEAD_BYTES, RELAYED, RELAYED_FIRST, carrier, encode_relay
from fleetnet.ticks import ticks_add, ticks_diff

# Bytes that wait for room in the outbox before the sensors' windows are shut, and bytes at
# which a sensor that sends nevertheless is sent away.
SHUT_BYTES = 8_192
MAX_HELD = 65_536

# How long a sensor stays away from a hub that is full.
_FULL_MS = 30_000

# A flash that did not take the table of origins is asked again after this time.
_RETRY_MS = 10_000

_STREAMS = (RELAYED_FIRST, RELAYED)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.events import Received
    from fleetnet_device.core import DeviceCore
    from fleetnet_device.outbox import Entry
    from fleetnet_device.relay import Part
    from fleetnet_device.relay_origins import Origin


class Custody:
    """Messages of all sensors of one hub.

    Attributes:
        relayed: messages taken from sensors; shed: sent back for want of room, to come again.
        is_shut: the sensors' windows are.
        max_bytes: what the flash may hold before sensors wait; the rest is the hub's own.
    """

    def __init__(self, part: "Part", device: "DeviceCore"):
        self._part = part
        self._device = device
        self._outbox = device._outbox
        spool = self._outbox.spool
        self.max_bytes = spool.log.max_bytes // 4 * 3 if spool is not None else 0
        self.relayed = 0
        self.shed = 0
        self.is_shut = False
        self._held: "list[tuple[Origin, Received]]" = []
        self._held_bytes = 0
        # (origin, its stream, its number, entry of the outbox), oldest first
        self._pending: "list[tuple[Origin, int, int, Entry]]" = []
        self._retry: "int | None" = None

    def take(self, origin: "Origin", event: "Received") -> None:
        """A message of a sensor: forward it, once."""
        stream, seq = event.stream, event.seq
        if seq <= origin.taken.get(stream, 0):
            # It came again on a new link, and is on its way.
            if origin.link is not None and origin.durable.get(stream, 0):
                origin.link.acknowledge(stream, origin.durable[stream])
            return
        origin.taken[stream] = seq
        self._held.append((origin, event))
        self._held_bytes += len(event.payload) + HEAD_BYTES
        self.relayed += 1
        self._pump()
        if self._held_bytes > MAX_HELD:
            self._shed(origin)

    def poll(self, now: int) -> None:
        """Acknowledge what is safe, and go on; ``now``: ticks."""
        if self._pending:
            self._settle(now)
        self._pump()

    def busy(self) -> "set[int] | None":
        """Return the aliases that messages on their way name; None: it may be any."""
        known = {id(each[3]) for each in self._pending}
        for entry in self._outbox.handed:
            if entry.stream in _STREAMS and id(entry) not in known:
                return None  # it came from the flash
        if self.is_on_flash():
            return None
        busy = {each[0].alias for each in self._pending}
        busy.update([origin.alias for origin, _ in self._held])
        return busy

    def is_on_flash(self) -> bool:
        """Say whether messages of sensors are on the flash only."""
        spool = self._outbox.spool
        return spool is not None and any([spool.log.unread.get(each, 0) for each in _STREAMS])

    # -- into the outbox -----------------------------------------------------------------

    def _pump(self) -> None:
        """Hand what is held to the outbox, as far as there is room."""
        device = self._device
        moved = False
        while self._held:
            origin, event = self._held[0]
            size = len(event.payload) + HEAD_BYTES
            if not self._has_room(size):
                break
            self._held.pop(0)
            self._held_bytes -= size
            body = encode_relay(origin.alias, event.kind, event.stream, event.seq, event.payload)
            entry = self._outbox.put(device.session, carrier(event.stream), wire.RELAY, body, 0)
            self._pending.append((origin, event.stream, event.seq, entry))
            moved = True
        if moved:
            device._end_epoch()
            device.wake()
        if self.is_shut != (self._held_bytes > (0 if self.is_shut else SHUT_BYTES)):
            self.is_shut = not self.is_shut
            for origin in self._part.origins.by_alias.values():
                if origin.link is not None and origin.is_open:
                    origin.link.set_window(0 if self.is_shut else WINDOW)

    def _has_room(self, size: int) -> bool:
        """Say whether the outbox takes ``size`` bytes and gives nothing up for them."""
        outbox, spool = self._outbox, self._outbox.spool
        # What is in RAM comes to the flash as well, when it waits too long.
        if spool is not None and spool.log.size + outbox.size + size > self.max_bytes:
            return False
        for _ in range(2):
            count = len(outbox.waiting) + len(outbox.handed)
            if not count or (
                (outbox.size + size) * 4 <= outbox.max_bytes * 3
                and count * 4 < outbox.max_messages * 3
            ):
                return True
            if spool is None or self._part.is_up or not spool.write(outbox, self._device.session):
                break
        return False

    def _shed(self, origin: "Origin") -> None:
        """There is no room, and a sensor goes on: it keeps what is not forwarded yet."""
        kept = []
        for other, event in self._held:
            if other is origin:
                origin.taken[event.stream] = min(origin.taken[event.stream], event.seq - 1)
                self._held_bytes -= len(event.payload) + HEAD_BYTES
                self.shed += 1
            else:
                kept.append((other, event))
        self._held = kept
        if origin.link is not None:
            origin.link.end(OVERLOADED, _FULL_MS, "the hub is full: its back-end is away")

    # -- out of it -------------------------------------------------------------------------

    def _settle(self, now: int) -> None:
        """Acknowledge to the sensors what the back-end has, or the flash."""
        on_its_way = {id(entry) for entry in self._outbox.handed}
        kept = []
        stuck = set()
        for each in self._pending:
            origin, stream, seq, entry = each
            is_safe = entry.seq > 0 and id(entry) not in on_its_way
            if entry.segment is not None:
                is_safe = is_safe or self._is_kept(origin, now)
            if not is_safe or (origin.alias, stream) in stuck:
                stuck.add((origin.alias, stream))
                kept.append(each)
                continue
            if seq > origin.durable.get(stream, 0):
                origin.durable[stream] = seq
            if origin.link is not None and origin.is_open:
                origin.link.acknowledge(stream, seq)
        self._pending = kept

    def _is_kept(self, origin: "Origin", now: int) -> bool:
        """Say whether the flash would know whose message it is; try to make it so."""
        if not origin.is_kept and (self._retry is None or ticks_diff(self._retry, now) <= 0):
            self._retry = ticks_add(now, _RETRY_MS)
            self._part.origins.keep(origin)
        return origin.is_kept
