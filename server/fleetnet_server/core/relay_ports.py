"""What relays need of the store, and what the sessions need of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from fleetnet import errors
from fleetnet.events import Received
from fleetnet_server.core.bodies import Message

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer


class Relayed(Message):
    """A message that came within a RELAY; stored like any other.

    Attributes:
        carrier: the hub's epoch (the store's number of it), stream and sequence: durable with it.
        hub: its device id. The message comes under the hub's lease, not under the sensor's.
    """

    carrier: tuple[int, int, int]
    hub: int


class HubStore(Protocol):
    """See store/hubs.py."""

    def is_assigned(self, hub_id: int, device_id: int) -> bool: ...

    def has_hub(self, device_id: int) -> bool: ...

    def note_came(self, hub_id: int, device_id: int) -> None: ...

    def note_carried(self, epoch_id: int, marks: Mapping[int, int]) -> None: ...


class RelayPort(Protocol):
    """See core/relays.py."""

    def take(self, hub: "Peer", event: Received) -> None: ...

    def has_hub(self, device_id: int) -> bool: ...

    def reconsider(self, names: set[str | None]) -> None: ...


class NoRelays:
    """A back-end that takes nothing from hubs."""

    def take(self, hub: "Peer", event: Received) -> None:
        """Nothing is acknowledged, so nothing is lost."""
        hub.bye(errors.UNKNOWN_KIND)

    def has_hub(self, device_id: int) -> bool:
        """Nobody has."""
        return False

    def reconsider(self, names: set[str | None]) -> None:
        """There is nothing to judge."""
