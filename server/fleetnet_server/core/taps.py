"""Where the feed of events comes from, besides the sessions: alarms, and readings on request.

Readings are taken from commits, after the acknowledgement, while somebody listens.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from fleetnet import frame as wire
from fleetnet.events import Received
from fleetnet.handshake import Hello
from fleetnet_server.core.bodies import Message, decode_event, decode_readings
from fleetnet_server.core.events import READINGS, Events

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

# Messages of one commit that are shown: 50 commits a second show 2,500, which is more than
# anybody reads and 3 % of one core. The others are in the store all the same.
_SHOWN = 50


class Alarms:
    """The Service for EVENT messages: what devices report besides their readings."""

    capability = 0
    kinds = frozenset((wire.EVENT,))
    live_kinds: frozenset[int] = frozenset()

    def __init__(self, events: Events):
        self._events = events

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """See Service."""

    def received(self, peer: "Peer", event: Received) -> None:
        """See Service; nothing that is not stored is an alarm."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """See Service."""
        if message.problem is None:
            _base_ms, _boot, name, raw = decode_event(message.body)
            detail = {"name": name, "unix_ms": message.t0, "value": _value(raw)}
            self._events.publish("alarm", peer.name, detail)

    def closed(self, peer: "Peer") -> None:
        """See Service."""


class ReadingsTap:
    """Publishes readings as they become durable; ``on_batch`` is the router's callback.

    Attributes:
        left_out: messages that found no place, see _SHOWN.
    """

    def __init__(self, events: Events):
        self._events = events
        self.left_out = 0

    def on_batch(self, done: "list[tuple[Message, Peer, bool]]") -> None:
        """Show the first messages of a commit to whoever wants them."""
        if not self._events.wants_any(READINGS):
            return
        shown = 0
        for message, peer, is_new in done:
            if not is_new or message.kind & ~wire.OPTIONAL != wire.READINGS:
                continue
            if message.problem is not None or peer.is_quarantined:
                continue
            if not self._events.wants(READINGS, peer.name):
                continue
            if shown >= _SHOWN:
                self.left_out += 1
                continue
            shown += 1
            self._events.publish(READINGS, peer.name, {"readings": readings_of(message)})


def readings_of(message: Message) -> list[dict[str, Any]]:
    """Return {channel, unix_ms, value} of a good READINGS message."""
    base_ms, boot, channels, items = decode_readings(message.body)
    if boot and message.t0 is not None:
        base_ms = message.t0 - min((item[1] for item in items), default=0)
    is_dated = message.t0 is not None
    return [
        {
            "channel": channels[index],
            "unix_ms": base_ms + dt_ms if is_dated else None,
            "value": _value(raw),
        }
        for index, dt_ms, raw in items
    ]


def _value(raw: Any) -> Any:
    """Return a JSON value; its text when Python's JSON could not write it again."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError):
        return bytes(raw).decode(errors="replace")
