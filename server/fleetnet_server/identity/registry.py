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
        revoked: serial numbers of its revoked certificates.
        group: whose policy it follows; labels: what people say about it.
    """

    id: int
    name: str
    state: str
    revoked: frozenset[int] = frozenset()
    group: str = DEFAULT_GROUP
    labels: Mapping[str, str] = {}

    @property
    def is_enabled(self) -> bool:
        return self.state == ENABLED


class Registry(Protocol):
    """Anything that knows devices by name."""

    def lookup(self, name: str) -> Device | None:
        """Return the device, None when it is not registered, or was removed."""
        ...
