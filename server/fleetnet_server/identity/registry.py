"""What identity needs of a registry; store implements it, app injects it."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

ENABLED = "enabled"
DISABLED = "disabled"
QUARANTINED = "quarantined"
REMOVED = "removed"

DEFAULT_GROUP = "default"


class Device(NamedTuple):
    """A registered device.

    Attributes:
        revoked: serial numbers of its revoked certificates; valid: of the others.
        group: whose policy it follows; labels: what people say about it.
    """

    id: int
    name: str
    state: str
    revoked: frozenset[int] = frozenset()
    group: str = DEFAULT_GROUP
    labels: Mapping[str, str] = {}
    valid: frozenset[int] = frozenset()

    @property
    def is_enabled(self) -> bool:
        return self.state == ENABLED

    @property
    def may_come(self) -> bool:
        """It may have a session; what it says in quarantine goes nowhere but to the store."""
        return self.state in (ENABLED, QUARANTINED)


class Registry(Protocol):
    """Anything that knows devices by name."""

    def lookup(self, name: str) -> Device | None:
        """Return the device, None when it is not registered, or was removed."""
        ...

    def was_removed(self, name: str) -> bool:
        """Say whether somebody removed a device of that name: no policy lets it in again."""
        ...

    def has_own_certificate(self, device_id: int) -> bool:
        """Say whether the device uses a certificate of this fleet, one that is not revoked."""
        ...

    def admit(self, name: str, state: str, serial: int, policy: str) -> None:
        """Register a device that came by itself, and commit; not on the event loop.

        Changes nothing when there is, or was, one of that name. Raises StoreUnavailable.
        """
        ...
