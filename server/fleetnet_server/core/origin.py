"""A sensor behind a hub, as the rest of the server sees it: a Peer whose link is the hub's session.

What services send leaves as RELAY; what becomes durable moves the hub's own durable number. The
order in which the writer commits is the order in which messages were put, so that the
oldest ones of an origin are durable first.
"""

from collections import deque
from typing import TYPE_CHECKING

from fleetnet import errors
from fleetnet import frame as wire
from fleetnet.handshake import CAN_COMMAND, CAN_CONFIGURE, Ending
from fleetnet.ports import port
from fleetnet.relay import RELAYED_FIRST, Announcement, encode_relay, with_nonce
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.policing import Pace
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.identity.policy import Rules
from fleetnet_server.identity.registry import DEFAULT_GROUP, QUARANTINED, Device

if TYPE_CHECKING:
    from fleetnet_server.core.relay_line import Line

# What a sensor may use through a hub: identities and blobs are not relayed.
_OFFERED = CAN_COMMAND | CAN_CONFIGURE


class Origin(Peer):
    """One origin of one session of a hub (docs/protocol.md section 15.2).

    Attributes:
        line: its hub's. alias, nonce: as announced.
        is_good: its messages are taken. is_open: its session is this one.
        is_waiting: the store has not said yet where it goes on.
        answer: WELCOME or REFUSE that it got, as RELAY; b"": none yet.
        used: ticks of its last announcement or message.
    """

    __slots__ = (
        "_carrying", "_next", "_offers", "alias", "answer", "epoch", "is_good", "is_waiting",
        "line", "nonce", "used",
    )  # fmt: skip

    def __init__(self, line: "Line", alias: int, told: Announcement, device: Device | None):
        # Not Peer's: there is no transport and no session of its own.
        hub, hello = line.hub, told.hello
        self._sessions = hub._sessions
        self.line, self.alias, self.nonce, self.epoch = line, alias, hello.nonce, hello.epoch
        self.device_id, self.name, self.group = 0, told.name, DEFAULT_GROUP
        self.is_quarantined = False
        if device is not None:
            self.device_id, self.group = device.id, device.group
            self.is_quarantined = device.state == QUARANTINED
        self.via, self.address, self.serial = hub.name, hub.address, told.serial
        self.foreign, self.psk_identity = b"", ""
        self.boot = hello.boot
        self._boot_offset = port.unix_ms() - hello.uptime_ms if hello.uptime_ms else 0
        self.rules: Rules | None = None
        self.pace: Pace | None = None
        self.epoch_id = self.pending = self.stored = self.duplicates = self.lost = 0
        self.lag_ms: int | None = None
        self.seen = self.used = port.ticks()
        self.is_open = self.is_good = self.is_waiting = False
        self.near_at = self.far_at = 0
        self.answer = b""
        self._offers = hello.capabilities & _OFFERED
        # (the hub's stream, its sequence) of messages that are not durable yet
        self._carrying: deque[tuple[int, int]] = deque()
        self._next = (0, 0, 0)

    @property
    def dated(self) -> int:
        """Unix ms minus uptime ms of its boot; 0: its hub cannot tell."""
        return self._boot_offset

    @property
    def capabilities(self) -> int:
        offered = self._sessions.services.capabilities
        return self._offers & offered if self.is_open and not self.is_quarantined else 0

    # -- messages --------------------------------------------------------------------------

    def carry(self, stream: int, seq: int) -> None:
        """The next message that the router takes came as this one of the hub."""
        hub = self.line.hub
        hub.pending += 1
        self.seen = self.used = hub.seen
        self._carrying.append((stream, seq))
        self._next = (hub.epoch_id, stream, seq)

    def as_stored(self, message: Message) -> Message:
        """Return a message with what carried it."""
        made = Relayed(*message)
        made.carrier = self._next
        made.hub = self.line.hub.device_id
        return made

    def acknowledge(self, stream: int, seq: int, now: int) -> None:
        """All but the newest ``pending`` messages are durable."""
        hub = self.line.hub
        heads: dict[int, int] = {}
        while len(self._carrying) > self.pending:
            carrier, number = self._carrying.popleft()
            heads[carrier] = number
            hub.pending -= 1
        for carrier, number in heads.items():
            hub.acknowledge(carrier, number, now)
        if not self.is_open and not self.pending:
            self._sessions.entering.drained(self)

    @property
    def holder(self) -> Peer:
        """See Peer."""
        return self.line.hub

    def forget(self, count: int) -> None:
        """See Peer; its hub's durable number stays where it is."""
        for _ in range(count):
            self._carrying.popleft()
        super().forget(count)
        self.line.hub.forget(count)

    def boot_offset(self, boot: int) -> int | None:
        """See Peer; a hub that does not know the sensor's uptime leaves it to the store."""
        if boot == self.boot and self._boot_offset:
            return self._boot_offset
        return self._sessions.store.boot_offset(self.device_id, boot)

    # -- what services call ------------------------------------------------------------------

    def send(self, stream: int, kind: int, payload: bytes) -> bool:
        """See Peer."""
        if not self.is_open:
            return False
        body = encode_relay(self.alias, kind, stream, 0, payload)
        return self.line.hub.send(RELAYED_FIRST, wire.RELAY, body)

    def send_live(self, kind: int, payload: bytes, stream: int = 0) -> bool:
        """See Peer; nothing that a back-end sends so is relayed."""
        return False

    # -- what the sessions table calls -------------------------------------------------------

    def bye(self, reason: int, retry_after_ms: int = 0) -> None:
        """Let the hub send the sensor away; a hub goes on when its back-end does not."""
        if reason != errors.SHUTDOWN:
            ending = Ending(reason, retry_after_ms).to_payload()
            self.line.say_surely(self.alias, wire.BYE, with_nonce(ending, self.nonce))
        self._sessions.leave(self, "sent away")

    def drop(self) -> None:
        """See Peer."""
        self.is_open = False

    def use_rules(self, rules: Rules | None, pace: Pace | None) -> None:
        """See Peer; the hub's own group bounds the rate of all that it carries."""
        self.rules = rules

    def acknowledge_now(self) -> None:
        """See Peer: the hub's session does."""

    def update_window(self) -> None:
        """See Peer: the window is the hub's session's."""

    def handle_timer(self) -> None:
        """See Timers: nothing is armed."""
